"""Standbys that take over from a leader that dies, is stopped and woken up, or hands over."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Final

import psutil

from ingestor.model.errors import ExitCode
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.faults.account import STOCK_QUOTES, STOCK_TRADES, Verdict
from tests.faults.live import Settings, account_of
from tests.faults.runs import (
    POLL_S,
    RECOVERED_WITHIN_S,
    BrokenError,
    Command,
    Server,
    Tally,
    commit,
    newest_receipts,
)
from tests.faults.servers import one_server
from tests.live_cli import feeds_of, simulator

KILLED: Final = "leader kill"
STOPPED: Final = "leader stop and wake"
ORDERED: Final = "leader hands over"
SECOND_KEY: Final = "5econd-k3y"
EVERY_FIFTH: Final = 5
_NEWEST: Final = (STOCK_QUOTES, STOCK_TRADES)


class StandbyCampaign:
    """Has one run after the other taken over by its standby, then accounts for every event."""

    def __init__(
        self, folder: Path, settings: Settings, takeovers: int, *, second_key: bool = False
    ) -> None:
        """With a `second_key` standbys hear the vendor while they wait: nothing may be missing."""
        self.tally = Tally()
        self.verdicts: dict[str, Verdict] = {}
        self._folder, self._settings, self._takeovers = folder, settings, takeovers
        self._second_key = second_key
        self._rng = random.Random(settings.seed)
        self._commands: list[Command] = []

    def run(self) -> None:
        """Run to the end. Raises `BrokenError` when nobody takes over."""
        log, settings = self._folder / "vendor.log", self._settings
        options = ("--rate", str(settings.rate), "--options-rate", str(settings.rate))
        more = ["--log", str(log), "--seed", str(settings.seed)]
        if self._second_key:
            # Strikes stay: two runs that began at two prices may follow contracts one apart, and
            # of the outermost one of them hears nothing.
            more += ["--standby-api-key", SECOND_KEY, "--volatility", "0"]
        with one_server(self._folder / "nats") as server:
            try:
                with simulator(*options, *more) as vendor:
                    self._take_turns(vendor, server)
            finally:
                for command in self._commands:
                    command.end()
            self.verdicts = account_of(log, server, None).verdicts()
            if self._second_key and (missing := sum(one.missing for one in self.verdicts.values())):
                self.tally.findings.append(f"{missing} events missing in spite of a second key")

    def lines(self) -> list[str]:
        """Return the report."""
        return [
            f"standby: seed {self._settings.seed}, commit {commit()},"
            f" {self._settings.rate} events/s asked of each market",
            *self.tally.lines(),
            *(f"  {name}: {verdict}" for name, verdict in self.verdicts.items()),
        ]

    def _take_turns(self, vendor: SimulatorProcess, server: Server) -> None:
        leader = self._start(vendor, server)
        self._await(server, time.time_ns(), leader)
        for number in range(self._takeovers):
            if self.tally.stopped:
                break
            standby = self._start(vendor, server)
            self._until_ready(standby)
            if self._second_key:
                # What it hears is to begin before the last event stored.
                self._await(server, time.time_ns(), leader)
            time.sleep(self._rng.uniform(0.05, 0.5))
            self._take_over(number, leader, standby, server)
            leader = standby
        for market in ("stocks", "options"):
            vendor.control("rate", events_per_s=0, market=market)
        leader.process.send_signal(signal.SIGTERM)
        if (code := leader.wait()) != ExitCode.TERMINATED:
            self.tally.findings.append(f"the last one ended with {code}:\n{leader.log()}")

    def _start(self, vendor: SimulatorProcess, server: Server) -> Command:
        folder = self._folder / f"run {len(self._commands)}"
        folder.mkdir()
        arguments = ["--standby", "--nats", server.url]
        more = {"POLYGON_STANDBY_API_KEY": SECOND_KEY} if self._second_key else {}
        command = Command("ingestor.main", arguments, folder, feeds_of(vendor, **more))
        command.start()
        self._commands.append(command)
        return command

    def _take_over(self, number: int, leader: Command, standby: Command, server: Server) -> None:
        how = STOPPED if number % EVERY_FIFTH == EVERY_FIFTH - 1 else KILLED
        how = ORDERED if number % (2 * EVERY_FIFTH) == EVERY_FIFTH + 1 else how
        self.tally.faults[how] += 1
        began_s = time.monotonic()
        if how == STOPPED:
            _signal_all(leader, signal.SIGSTOP)
        elif how == KILLED:
            leader.process.kill()
        else:
            leader.process.send_signal(signal.SIGUSR1)
        self._await(server, time.time_ns(), standby, ready=True)
        self.tally.recoveries_s[how].append(time.monotonic() - began_s)
        if how == STOPPED:
            _signal_all(leader, signal.SIGCONT)
        wanted = {
            KILLED: -signal.SIGKILL,
            STOPPED: ExitCode.STREAM_IN_USE,
            ORDERED: ExitCode.HANDED_OVER,
        }
        if (code := leader.wait()) != wanted[how]:
            self.tally.findings.append(f"{how}: it ended with {code}:\n{leader.log()}")

    def _until_ready(self, standby: Command) -> None:
        began_s = time.monotonic()
        signs = ["ready to follow"]
        if self._second_key:
            signs += ["hears stocks: stocks: data flows", "hears options: options: data flows"]
        while not all(sign in standby.log() for sign in signs):
            if standby.exit_code is not None or time.monotonic() > began_s + RECOVERED_WITHIN_S:
                raise BrokenError(f"never ready:\n{standby.log()}")
            time.sleep(POLL_S)

    def _await(
        self, server: Server, since_ns: int, command: Command, *, ready: bool = False
    ) -> None:
        """Wait until events are stored that were received since then, by the standby."""
        deadline_s = time.monotonic() + RECOVERED_WITHIN_S
        while time.monotonic() < deadline_s and command.exit_code is None:
            if ready and "taking over" not in command.log():
                since_ns = time.time_ns()
            elif (newest := newest_receipts(server.url, _NEWEST)) and min(newest) > since_ns:
                return
            time.sleep(POLL_S)
        raise BrokenError(f"nobody has taken over:\n{command.log()}")


def _signal_all(command: Command, number: signal.Signals) -> None:
    parent = psutil.Process(command.process.pid)
    for process in (parent, *parent.children(recursive=True)):
        process.send_signal(number)
