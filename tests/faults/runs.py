"""A command that is run, hit and run again, as by a supervisor of services; and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, Protocol

import nats
import nats.errors
import psutil

from ingestor.runtime.supervisor import RESTARTS_WITHIN_NS
from tests.faults.plan import FULL, KILL, NATS, PAUSE, RUN, STOP, Fault
from tests.live_cli import listening

ROOT: Final = Path(__file__).parents[2]
DEATHS_AT_MOST: Final = 4
"""Of a process within the time of the limit of restarts: one less than a run allows."""
RECOVERED_WITHIN_S: Final = 60.0
POLL_S: Final = 0.05
START_AGAIN_S: Final = 0.2
STARTS_AT_MOST: Final = 40
"""In a row, without a recovery."""
_TAIL_CHARS: Final = 3_000


class BrokenError(AssertionError):
    """A campaign cannot go on; the message holds the end of the command's log."""


@dataclass
class Tally:
    """Faults, recoveries and findings of a campaign."""

    faults: Counter[str] = field(default_factory=Counter)
    recoveries_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    exits: Counter[int] = field(default_factory=Counter)
    """Codes of runs that ended before they were to, and were started again."""
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Figures that a campaign tells beside."""
    stopped: str = ""
    """The signal by which the campaign is to end early, with what it has."""
    began_s: float = field(default_factory=time.monotonic)

    @property
    def deaths(self) -> int:
        """Kills and stops of processes and of whole runs."""
        return sum(
            count
            for label, count in self.faults.items()
            if label.endswith((f" {KILL}", f" {STOP}")) and not label.startswith(NATS)
        )

    def lines(self) -> Iterator[str]:
        """Yield a line for each kind of fault, and one for each finding."""
        width = max(map(len, self.recoveries_s), default=0)
        for label in sorted({*self.faults, *self.recoveries_s}):
            took_s = self.recoveries_s.get(label, [])
            times = f"{median(took_s):6.2f} s, at most {max(took_s):6.2f} s" if took_s else "-"
            yield f"  {label:{width}} {self.faults[label]:5}  again after {times}"
        minutes = (time.monotonic() - self.began_s) / 60
        count = sum(self.faults.values())
        yield (
            f"  {count} faults, {self.deaths} deaths of processes or runs among them, in"
            f" {minutes:.1f} min, {count / minutes:.1f} a minute"
            + (f"; ended early by {self.stopped}" if self.stopped else "")
        )
        yield from (f"  {note}" for note in self.notes)
        yield f"  runs that ended by themselves, by exit code: {dict(self.exits)}"
        yield from (f"  FOUND: {finding}" for finding in self.findings)


class Server(Protocol):
    """One nats-server, or three."""

    @property
    def url(self) -> str:
        """What clients connect to."""

    def start(self) -> None:
        """Have it there again."""

    def stop(self) -> None:
        """End it."""

    def kill(self) -> None:
        """End it by SIGKILL."""

    def pause(self) -> None:
        """Freeze it."""

    def resume(self) -> None:
        """Let it go on."""

    def fill(self) -> None:
        """Leave no room on its disk."""

    def make_room(self) -> None:
        """Have room there again, and the server go on."""


class Command:
    """One command of the program, started again when it has ended."""

    def __init__(
        self, module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._folder = folder
        ours = ("NATS_URL", "POLYGON_", "REPLAY_", "DBN_DATA_DIR")
        clean = {name: one for name, one in os.environ.items() if not name.startswith(ours)}
        self._environment = {**clean, "PYTHONPATH": str(ROOT), **environment}
        # What it leaves in the place for temporary files is seen there.
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._environment["TMPDIR"] = str(self.temporary)
        self._log = folder / "run.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths: defaultdict[str, list[float]] = defaultdict(list)
        self.former: dict[str, int] = {}
        """Pids of processes of this run that are to be others."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor of now."""
        if self._process is None:
            raise BrokenError("the command was never started")
        return self._process

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def start(self, *more: str) -> None:
        """Start it, the last having ended."""
        self._deaths.clear()
        self.former.clear()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *more],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the campaign, which ends its runs itself.
                start_new_session=True,
            )

    def log(self) -> str:
        """The end of what all starts have said."""
        return self._log.read_text(errors="replace")[-_TAIL_CHARS:]

    def child(self, name: str) -> psutil.Process | None:
        """Return a process of the run, None where it is not there."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if one.name() == name and one.status() != psutil.STATUS_ZOMBIE:
                        return one
        return None

    def renewed(self) -> bool:
        """Whether there are others for all of `former`."""
        return all(
            (child := self.child(name)) is not None and child.pid != pid
            for name, pid in self.former.items()
        )

    def may_die(self, name: str) -> bool:
        """Whether a process may die once more without ending the run; if so, it is noted."""
        deaths, now_s = self._deaths[name], time.monotonic()
        deaths[:] = [at_s for at_s in deaths if at_s > now_s - RESTARTS_WITHIN_NS / 1e9]
        if len(deaths) >= DEATHS_AT_MOST:
            return False
        deaths.append(now_s)
        return True

    def wait(self) -> int:
        """Wait for its end; return the exit code. Raises `BrokenError` when it does not end."""
        try:
            return self.process.wait(RECOVERED_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise BrokenError(f"it does not end:\n{self.log()}") from None

    def kill(self) -> None:
        """Kill the supervisor; its processes die with it."""
        self.process.kill()
        self.process.send_signal(signal.SIGCONT)
        self.process.wait(RECOVERED_WITHIN_S)

    def end(self) -> None:
        """Have nothing left of it, in any case."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


Act = Callable[[], None]


def acts_of(fault: Fault, command: Command, server: Server) -> tuple[Act, Act | None]:
    """Return what begins a fault of a process or a server, and what ends it where that is to be."""
    if fault.target == NATS:
        if fault.how == FULL:
            return server.fill, server.make_room
        if fault.how == KILL:
            return server.kill, server.start
        return server.pause, server.resume
    if fault.target == RUN and fault.how == KILL:
        return command.kill, command.start
    if fault.target == RUN:
        victim: psutil.Process | None = psutil.Process(command.process.pid)
    else:
        victim = command.child(fault.target)
    number = signal.SIGKILL if fault.how == KILL else signal.SIGSTOP

    def send(number: signal.Signals) -> None:
        # Another fault of the round may have taken it along.
        with contextlib.suppress(psutil.NoSuchProcess):
            if victim is not None:
                victim.send_signal(number)

    end = (lambda: send(signal.SIGCONT)) if fault.how == PAUSE else None
    return lambda: send(number), end


def perform(acts: Sequence[tuple[float, Act]]) -> None:
    """Do each when it is due, seconds from now."""
    began_s = time.monotonic()
    for at_s, act in sorted(acts, key=lambda one: one[0]):
        time.sleep(max(0.0, began_s + at_s - time.monotonic()))
        act()


def newest_receipts(url: str, subjects: Sequence[str], stream: str = "MARKET_DATA") -> list[int]:
    """Return when the newest event of each subject was received; none while nobody answers."""

    async def ask(one: str) -> list[int]:
        client = await nats.connect(one, allow_reconnect=False, connect_timeout=1)
        try:
            context = client.jetstream(timeout=1)
            found = [await context.get_last_msg(stream, subject) for subject in subjects]
            return [json.loads(one.data or b"{}")["ts_recv_ns"] for one in found]
        finally:
            await client.close()

    for one in listening(url):
        with contextlib.suppress(OSError, TimeoutError, nats.errors.Error):
            return asyncio.run(ask(one))
    return []


def commit() -> str:
    """Return what is tested, as git names it."""
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"
