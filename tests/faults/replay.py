"""Replays that are killed at random moments and started again, until each is complete."""

from __future__ import annotations

import datetime as dt
import random
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Final

from ingestor.encode.packed import take_apart
from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S
from tests.dbn_files import DAY, DAY_NS, INSTRUMENT, dbn_path, depth, trades, write_dbn
from tests.faults.plan import KILL, NATS, PAUSE, RUN, STOP, Fault
from tests.faults.reading import each_stored
from tests.faults.runs import (
    POLL_S,
    RECOVERED_WITHIN_S,
    ROOT,
    STARTS_AT_MOST,
    BrokenError,
    Command,
    Tally,
    acts_of,
    commit,
    perform,
)
from tests.faults.servers import OneServer, one_server
from tests.live_cli import stored
from tests.ports import free_port

PROCESSES: Final = ("trades", "mbp10", "publisher", "records", "control", "metrics")
TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(PROCESSES, (KILL, KILL, STOP, PAUSE)),
    NATS: (KILL, PAUSE),
}
JOBS: Final[Mapping[str, tuple[str, ...]]] = {
    "json": (),
    "packed": ("--encoding", "packed"),
    "filtered": ("--start", "09:30", "--symbols", "ES.c.0"),
    "filtered packed": ("--start", "09:30", "--symbols", "ES.c.0", "--encoding", "packed"),
}
SPEEDS: Final = ("0", "1", "1", "3")
"""A job is the same at any speed."""
DEATHS: Final[Mapping[str, tuple[str, ...]]] = dict.fromkeys(PROCESSES, (KILL,))
ROWS: Final = 12_000
FAULTS_A_JOB: Final = 14
"""After these it is left alone."""
DEATHS_A_JOB: Final = 40
"""The same where deaths alone are counted."""
RUN_SHARE: Final = 0.3
"""Of the faults that take the whole run; its processes die with it."""
LATE_SERVER_SHARE: Final = 0.15
"""Of the starts that find no server yet, as after a power cut."""
STARTED_S: Final = 1.0
"""How long a run may take until all its processes are there."""
SMALL_RINGS: Final = "[process]\nblock_bytes = 16384\nring_bytes = 1048576\n"
"""The smallest: with more rows than they hold, feeds are there for as long as the run is."""
_OTHER: Final = INSTRUMENT + 1
_ONE_DAY: Final = dt.timedelta(days=1)
_OPEN_NS: Final = DAY_NS + 52_200 * NS_PER_S
"""09:30 in New York."""
_SPAN_S: Final = 12
"""Of event time that each day has, half of it before the market opens."""

Orders = dict[str, list[int]]
"""Hashes of all rows in their order; of packed ones by subject, as they share messages."""


def write_days(folder: Path, rows: int) -> None:
    """Write two days of two files each, of two instruments."""
    mappings = {
        symbol: [(DAY, DAY + 2 * _ONE_DAY, str(number))]
        for symbol, number in (("ES.c.0", INSTRUMENT), ("NQ.c.0", _OTHER))
    }
    for day in range(2):
        start_ns = _OPEN_NS + day * 86_400 * NS_PER_S - _SPAN_S // 2 * NS_PER_S
        for schema, made, count in (("trades", trades, 2 * rows), ("mbp-10", depth, rows)):
            records = made(count, start_ns=start_ns, step_ns=_SPAN_S * NS_PER_S // count)
            records["instrument_id"][1::2] = _OTHER
            path = dbn_path(folder, schema, DAY + day * _ONE_DAY)
            write_dbn(path, records, schema=schema, mappings=mappings)


def orders_of(server: OneServer) -> Orders:
    """Return what a stream holds."""
    found: Orders = defaultdict(list)

    def take(subject: str, data: bytes) -> None:
        if not data.startswith(b"\xab"):
            found[""].append(hash((subject, data)))
            return
        opening, rows = take_apart(data)
        width, whole = int.from_bytes(opening[6:8], "little"), bytes(rows)
        found[subject] += [hash(whole[at : at + width]) for at in range(0, len(whole), width)]

    each_stored(server.url, "MARKET_DATA", take)
    return found


class ReplayCampaign:
    """Has one job after the other completed under faults.

    It goes on for some seconds, or until so many processes and runs have been killed (`deaths`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        seconds: float = float("inf"),
        deaths: int | None = None,
        rows: int = ROWS,
    ) -> None:
        self.tally = Tally()
        self.jobs: Counter[str] = Counter()
        self.missing = self.doubled = self.disordered = 0
        self._folder, self._seed, self._seconds = folder, seed, seconds
        self._deaths = deaths
        self._targets = TARGETS if deaths is None else DEATHS
        self._most_faults = FAULTS_A_JOB if deaths is None else DEATHS_A_JOB
        self._run_share = RUN_SHARE if deaths is None else 1 / (1 + len(PROCESSES))
        self._wait_s = 1.8 if deaths is None else 0.4
        self._rng = random.Random(seed)
        self._end_s = 0.0
        self._data = folder / "data"
        self._rows = rows

    def run(self) -> None:
        """Run to the end. Raises `BrokenError` when a job never gets complete."""
        write_days(self._data, self._rows)
        undisturbed: dict[str, Orders] = {}
        for name in cycle(JOBS):
            if name not in undisturbed:
                undisturbed[name] = self._undisturbed(name)
            self._end_s = self._end_s or time.monotonic() + self._seconds
            self._compare(name, undisturbed[name])
            if self._is_over():
                return

    def _is_over(self) -> bool:
        enough = self._deaths is not None and self.tally.deaths >= self._deaths
        return bool(self.tally.stopped) or enough or time.monotonic() > self._end_s

    def lines(self) -> list[str]:
        """Return the report."""
        return [
            f"replays: seed {self._seed}, commit {commit()}",
            *self.tally.lines(),
            f"  jobs complete: {dict(self.jobs)}; rows missing {self.missing}, doubled"
            f" {self.doubled}, in a wrong order {self.disordered}",
        ]

    def _command(self, name: str, folder: Path, server: OneServer) -> Command:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "replay.toml"
        config.write_text(f'{SMALL_RINGS}[metrics]\nlisten = "127.0.0.1:{free_port()}"\n')
        arguments = ["--config", str(config), "--data-dir", str(self._data), "--nats", server.url]
        arguments += ["--max-gap", "1", *JOBS[name]]
        return Command("ingestor.replay_publisher", arguments, folder, {})

    def _undisturbed(self, name: str) -> Orders:
        folder = self._folder / f"undisturbed {name}"
        with one_server(folder / "nats") as server:
            command = self._command(name, folder, server)
            try:
                command.start("--speed", "0")
                if code := command.wait():
                    raise BrokenError(f"undisturbed, a replay ended with {code}:\n{command.log()}")
                orders = orders_of(server)
            finally:
                command.end()
        shutil.rmtree(folder)
        return orders

    def _compare(self, name: str, expected: Orders) -> None:
        folder = self._folder / f"job {sum(self.jobs.values())}"
        with one_server(folder / "nats") as server:
            command = self._command(name, folder, server)
            try:
                self._complete(command, server)
                self._judge(name, expected, orders_of(server))
                self._verify(name, server)
            finally:
                command.end()
        self.jobs[name] += 1
        shutil.rmtree(folder)

    def _complete(self, command: Command, server: OneServer) -> None:
        faults = self._rng.randint(self._most_faults // 2, self._most_faults)
        for _ in range(STARTS_AT_MOST):
            if self._is_over():
                faults = 0
            self._start(command, server, calm=not faults)
            while faults and not self._is_over() and self._hit(command, server):
                faults -= 1
            code = command.wait()
            if code == ExitCode.OK:
                return
            if code != -9:
                self.tally.exits[code] += 1
            if code not in (-9, ExitCode.NATS_UNREACHABLE):
                self.tally.findings.append(f"a replay ended with {code}:\n{command.log()}")
        raise BrokenError(f"not complete after {STARTS_AT_MOST} starts:\n{command.log()}")

    def _start(self, command: Command, server: OneServer, *, calm: bool) -> None:
        """Start a run, some of them before their server."""
        is_late = not calm and self._deaths is None and self._rng.random() < LATE_SERVER_SHARE
        if is_late:
            server.kill()
        command.start("--speed", "0" if calm else self._rng.choice(SPEEDS))
        if is_late:
            self.tally.faults[f"{NATS} late"] += 1
            time.sleep(self._rng.uniform(0.5, 3))
            server.start()

    def _hit(self, command: Command, server: OneServer) -> bool:
        """Hit a run at some moment; whether it runs on."""
        time.sleep(self._rng.uniform(0, self._wait_s))
        if command.exit_code is not None:
            return False
        if self._rng.random() < self._run_share:
            self.tally.faults[f"{RUN} {KILL}"] += 1
            command.kill()
            return False
        target = self._rng.choice(self._targets_there(command))
        fault = Fault(target, self._rng.choice(self._targets[target]), 0.0, self._rng.uniform(0, 2))
        child = command.child(target) if target in PROCESSES else None
        is_there = child is not None and (not fault.is_death or command.may_die(target))
        # It may be not there yet, or not any more, or have died often enough.
        if target in PROCESSES and not is_there:
            return command.exit_code is None
        self.tally.faults[fault.label] += 1
        begin, end = acts_of(fault, command, server)
        perform([(0.0, begin), *([(fault.for_s, end)] if end is not None else [])])
        command.former.clear()
        if child is not None and fault.is_death:
            command.former[target] = child.pid
        self._await(fault, command, server)
        return command.exit_code is None

    def _targets_there(self, command: Command) -> list[str]:
        """Return what may be hit; where deaths are counted, processes that are there by now."""
        targets = list(self._targets)
        deadline_s = time.monotonic() + STARTED_S
        while self._deaths and time.monotonic() < deadline_s and command.exit_code is None:
            if there := [name for name in targets if command.child(name)]:
                return there
            time.sleep(POLL_S)
        return targets

    def _await(self, fault: Fault, command: Command, server: OneServer) -> None:
        """Wait until the process is another one, and more is stored, or the run has ended."""
        began_s, before = time.monotonic(), stored(server.url)
        while command.exit_code is None:
            took_s = time.monotonic() - began_s
            if took_s > RECOVERED_WITHIN_S:
                raise BrokenError(f"{fault.label}, seed {self._seed}:\n{command.log()}")
            if command.renewed() and stored(server.url) > before:
                self.tally.recoveries_s[fault.label].append(took_s)
                return
            time.sleep(POLL_S)

    def _judge(self, name: str, expected: Orders, found: Orders) -> None:
        for part in {*expected, *found}:
            wanted, there = expected.get(part, []), found.get(part, [])
            if wanted == there:
                continue
            missing, extra = Counter(wanted) - Counter(there), Counter(there) - Counter(wanted)
            self.missing += missing.total()
            self.doubled += extra.total()
            self.disordered += not missing and not extra
            text = f"{missing.total()} missing, {extra.total()} too many"
            self.tally.findings.append(f"{name}: the stream is another: {text}")

    def _verify(self, name: str, server: OneServer) -> None:
        """See that the program's own comparison comes to the same."""
        what = ["--data-dir", str(self._data), "--nats", server.url]
        filters = [word for word in JOBS[name] if word not in ("--encoding", "packed")]
        asked = subprocess.run(
            [sys.executable, "-m", "ingestor", "verify", *what, *filters],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=RECOVERED_WITHIN_S,
            check=False,
        )
        if asked.returncode:
            self.tally.findings.append(f"{name}: verify: {asked.stdout}{asked.stderr}")
