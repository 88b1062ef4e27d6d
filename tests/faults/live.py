"""A live run under faults: its processes, its server, its vendor."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from ingestor.model.feed_status import STATUS_STREAM
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.faults.account import OPTION_TRADES, STOCK_QUOTES, Account, Verdict
from tests.faults.plan import (
    DROP,
    KILL,
    NATS,
    PAUSE,
    REFUSE,
    RUN,
    STOP,
    VENDOR,
    Fault,
    Round,
    rounds,
)
from tests.faults.runs import (
    POLL_S,
    RECOVERED_WITHIN_S,
    START_AGAIN_S,
    STARTS_AT_MOST,
    Act,
    BrokenError,
    Command,
    Tally,
    acts_of,
    commit,
    newest_receipts,
    perform,
)
from tests.live_cli import feeds_of, simulator, stored
from tests.nats_servers import NatsServer, start_server
from tests.ports import free_port
from tests.replay_cli import each_message

DATA_PATH: Final = ("stocks", "options", "publisher")
PROCESSES: Final = (*DATA_PATH, "records", "metrics")
TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(PROCESSES, (KILL, KILL, STOP, PAUSE)),
    RUN: (KILL, PAUSE),
    NATS: (KILL, PAUSE),
    VENDOR: (DROP, REFUSE),
}
_NEWEST: Final = (STOCK_QUOTES, OPTION_TRADES)
"""By whose receipts one sees that both feeds flow."""
_QUIET_S: Final = 2.0


class LiveCampaign:
    """Hits one live run for some seconds, then accounts for every event."""

    def __init__(
        self, folder: Path, *, seed: int, seconds: float, rate: int, journal: bool = True
    ) -> None:
        self.tally = Tally()
        self.verdicts: dict[str, Verdict] = {}
        self._folder, self._seed, self._seconds = folder, seed, seconds
        self._rate = rate
        self._journal = folder / "journal" if journal else None
        self._starts = 0

    def run(self) -> None:
        """Run to the end. Raises `BrokenError` when the run does not recover."""
        log = self._folder / "vendor.log"
        options = ("--rate", str(self._rate), "--options-rate", str(self._rate))
        server = start_server(self._folder / "nats")
        try:
            with simulator(*options, "--log", str(log), "--seed", str(self._seed)) as vendor:
                self._hit(vendor, server)
            self.verdicts = self._account(log, server)
        finally:
            server.stop()

    def lines(self) -> list[str]:
        """Return the report."""
        journal = "with a journal" if self._journal else "without a journal"
        return [
            f"live, {journal}: seed {self._seed}, commit {commit()}, {self._seconds:g} s,"
            f" {self._rate} events/s from each market, {sum(self.tally.faults.values())} faults",
            *self.tally.lines(),
            *(f"  {name}: {verdict}" for name, verdict in self.verdicts.items()),
        ]

    def _hit(self, vendor: SimulatorProcess, server: NatsServer) -> None:
        config = self._folder / "live.toml"
        config.write_text(f'[metrics]\nlisten = "127.0.0.1:{free_port()}"\n')
        more = ("--record", str(self._journal)) if self._journal else ()
        arguments = ["--nats", server.url, "--config", str(config), *more]
        command = Command("ingestor.main", arguments, self._folder, feeds_of(vendor))
        try:
            command.start()
            self._await(command, server, time.time_ns())
            end_s = time.monotonic() + self._seconds
            for one in rounds(self._seed, TARGETS):
                if time.monotonic() > end_s:
                    break
                self._play(one, vendor, command, server)
            self._quieten(vendor, server)
            command.process.send_signal(signal.SIGTERM)
            code = command.wait()
            if code != 128 + signal.SIGTERM:
                self.tally.findings.append(f"the run ended with {code}:\n{command.log()}")
        finally:
            command.end()

    def _play(
        self, one: Round, vendor: SimulatorProcess, command: Command, server: NatsServer
    ) -> None:
        time.sleep(one.pause_s)
        acts: list[tuple[float, Act]] = []
        labels = []
        command.former.clear()
        for fault in one.faults:
            if fault.target in PROCESSES and fault.is_death and not command.may_die(fault.target):
                continue
            if fault.target == VENDOR:
                begin: Act = partial(_trouble, vendor, fault)
                end: Act | None = None
            else:
                begin, end = acts_of(fault, command, server)
            child = command.child(fault.target) if fault.is_death else None
            if child is not None:
                command.former[fault.target] = child.pid
            acts.append((fault.at_s, begin))
            if end is not None:
                acts.append((fault.at_s + fault.for_s, end))
            labels.append(fault.label)
        if not labels:
            return
        self.tally.faults.update(labels)
        perform(acts)
        label = labels[0] if len(labels) == 1 else "several at once"
        took_s = self._await(command, server, time.time_ns())
        self.tally.recoveries_s[label].append(took_s)

    def _await(self, command: Command, server: NatsServer, since_ns: int) -> float:
        """Wait until all processes are there and both feeds flow; return the seconds it took."""
        began_s = time.monotonic()
        starts = 0
        while time.monotonic() - began_s < RECOVERED_WITHIN_S:
            if (code := command.exit_code) is not None:
                self.tally.exits[code] += 1
                starts += 1
                if starts > STARTS_AT_MOST:
                    break
                time.sleep(START_AGAIN_S)
                command.start()
            elif command.renewed() and all(map(command.child, DATA_PATH)):
                newest = newest_receipts(server.url, _NEWEST)
                if newest and min(newest) > since_ns:
                    return time.monotonic() - began_s
            time.sleep(POLL_S)
        raise BrokenError(f"not streaming again, seed {self._seed}:\n{command.log()}")

    def _quieten(self, vendor: SimulatorProcess, server: NatsServer) -> None:
        """Have the vendor send no more, and wait until nothing more is stored."""
        for market in ("stocks", "options"):
            vendor.control("rate", events_per_s=0, market=market)
        there, since_s = stored(server.url), time.monotonic()
        while time.monotonic() - since_s < _QUIET_S:
            time.sleep(POLL_S)
            if (now := stored(server.url)) != there:
                there, since_s = now, time.monotonic()

    def _account(self, log: Path, server: NatsServer) -> dict[str, Verdict]:
        account = Account()
        account.take_log(log)
        if self._journal:
            account.take_journal(self._journal)
        each_message(
            server.url, "MARKET_DATA", lambda one: account.take_message(one.subject, one.data)
        )
        each_message(server.url, STATUS_STREAM, lambda one: account.take_status(one.data))
        return account.verdicts()


def _trouble(vendor: SimulatorProcess, fault: Fault) -> None:
    if fault.how == REFUSE:
        vendor.control("refuse", for_s=fault.for_s)
    vendor.control("drop")
