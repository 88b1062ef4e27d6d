"""A live run under faults: its processes, its server, its vendor."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from ingestor.model.feed_status import STATUS_STREAM
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.faults.account import OPTION_TRADES, STOCK_QUOTES, Account, Span, Verdict
from tests.faults.plan import (
    DROP,
    HALF_OPEN,
    KILL,
    NATS,
    PAUSE,
    REFUSE,
    RUN,
    SLOW,
    STOP,
    VENDOR,
    Fault,
    Round,
    rounds,
)
from tests.faults.reading import each_stored
from tests.faults.resources import Resources
from tests.faults.runs import (
    POLL_S,
    RECOVERED_WITHIN_S,
    START_AGAIN_S,
    STARTS_AT_MOST,
    Act,
    BrokenError,
    Command,
    Server,
    Tally,
    acts_of,
    commit,
    newest_receipts,
    perform,
)
from tests.faults.servers import ThreeServers, one_server, three_servers
from tests.live_cli import feeds_of, simulator, stored
from tests.ports import free_port

DATA_PATH: Final = ("stocks", "options", "publisher")
FEED_NAMES: Final = ("stocks", "options")
PROCESSES: Final = (*DATA_PATH, "records", "metrics")
TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(PROCESSES, (KILL, KILL, STOP, PAUSE)),
    RUN: (KILL, PAUSE),
    NATS: (KILL, PAUSE),
    VENDOR: (DROP, DROP, REFUSE, REFUSE, SLOW, SLOW, HALF_OPEN),
}
DEATHS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(PROCESSES, (*(KILL,) * 5, STOP)),
    RUN: (KILL,),
}
LASTING: Final = {name: hows for name, hows in TARGETS.items() if name != RUN} | {RUN: (PAUSE,)}
"""What leaves the supervisor there, so that whatever grows is seen."""
HASTE_S: Final = (0.05, 0.4)
SLOW_BYTES_PER_S: Final = 30_000
_NEWEST: Final = (STOCK_QUOTES, OPTION_TRADES)
"""By whose receipts one sees that both feeds flow."""
_QUIET_S: Final = 2.0
_ON_ITS_WAY_S: Final = 0.3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run is given; `rate` is events/s of each market, `config` more lines of it."""

    seed: int
    rate: int
    journal: bool = True
    config: str = ""


class LiveCampaign:
    """Hits one live run, then accounts for every event.

    It goes on until `seconds` are over, so many processes have died (`deaths`), or its plan ends.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        plan: Iterator[Round] | None = None,
        *,
        seconds: float = float("inf"),
        deaths: int | None = None,
        own_disk: bool = False,
    ) -> None:
        self.tally = Tally()
        self.verdicts: dict[str, Verdict] = {}
        self.resources = Resources()
        self._folder, self._settings = folder, settings
        self._plan = rounds(settings.seed, TARGETS) if plan is None else plan
        self._seconds, self._deaths, self._own_disk = seconds, deaths, own_disk
        self._journal = folder / "journal" if settings.journal else None
        self._alone: list[tuple[str, Span]] = []
        """Which feed died alone, and from when to when the run recovered."""

    def run(self) -> None:
        """Run to the end. Raises `BrokenError` when the run does not recover."""
        log, settings = self._folder / "vendor.log", self._settings
        options = ("--rate", str(settings.rate), "--options-rate", str(settings.rate))
        more = ("--log", str(log), "--seed", str(settings.seed))
        with self._servers() as server:
            began_s = time.monotonic()
            with simulator(*options, *more) as vendor:
                self._hit(vendor, server)
            took_s = time.monotonic() - began_s
            self._account(log, server, took_s)

    def lines(self) -> list[str]:
        """Return the report."""
        journal = "with a journal" if self._journal else "without a journal"
        return [
            f"live, {journal}: seed {self._settings.seed}, commit {commit()},"
            f" {self._settings.rate} events/s asked of each market",
            *self.tally.lines(),
            *(f"  {name}: {verdict}" for name, verdict in self.verdicts.items()),
        ]

    def _servers(self) -> AbstractContextManager[Server]:
        return one_server(self._folder / "nats", own_disk=self._own_disk)

    def _hit(self, vendor: SimulatorProcess, server: Server) -> None:
        config = self._folder / "live.toml"
        listen = f'[metrics]\nlisten = "127.0.0.1:{free_port()}"\n'
        config.write_text(listen + self._settings.config)
        more = ("--record", str(self._journal)) if self._journal else ()
        arguments = ["--nats", server.url, "--config", str(config), *more]
        command = Command("ingestor.main", arguments, self._folder, feeds_of(vendor))
        try:
            command.start()
            self._await(command, server, time.time_ns())
            end_s = time.monotonic() + self._seconds
            for one in self._plan:
                if self._is_over(end_s):
                    break
                self._play(one, vendor, command, server)
                self.resources.sample(command)
            self._quieten(vendor, server)
            command.process.send_signal(signal.SIGTERM)
            code = command.wait()
            if code != 128 + signal.SIGTERM:
                self.tally.findings.append(f"the run ended with {code}:\n{command.log()}")
        finally:
            command.end()
        self.tally.notes += self.resources.lines()
        self.tally.findings += self.resources.findings(command)

    def _is_over(self, end_s: float) -> bool:
        enough = self._deaths is not None and self.tally.deaths >= self._deaths
        return bool(self.tally.stopped) or enough or time.monotonic() > end_s

    def _play(self, one: Round, vendor: SimulatorProcess, command: Command, server: Server) -> None:
        time.sleep(one.pause_s)
        acts: list[tuple[float, Act]] = []
        labels = []
        command.former.clear()
        for fault in one.faults:
            if fault.target in PROCESSES and fault.is_death and not command.may_die(fault.target):
                continue
            begin, end = _trouble(vendor, fault) or acts_of(fault, command, server)
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
        began_ns = time.time_ns()
        perform(acts)
        label = labels[0] if len(labels) == 1 else "several at once"
        within_s = RECOVERED_WITHIN_S + max(fault.for_s for fault in one.faults)
        took_s = self._await(command, server, time.time_ns(), within_s)
        self.tally.recoveries_s[label].append(took_s)
        name, _, how = label.partition(" ")
        if name in FEED_NAMES and how in (KILL, STOP):
            self._alone.append((name, (began_ns, time.time_ns())))

    def _await(
        self,
        command: Command,
        server: Server,
        since_ns: int,
        within_s: float = RECOVERED_WITHIN_S,
    ) -> float:
        """Wait until all processes are there and both feeds flow; return the seconds it took."""
        began_s = time.monotonic()
        starts = 0
        while time.monotonic() - began_s < within_s:
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
        raise BrokenError(f"not streaming again, seed {self._settings.seed}:\n{command.log()}")

    def _quieten(self, vendor: SimulatorProcess, server: Server) -> None:
        """Have the vendor send no more, and wait until nothing more is stored."""
        for market in FEED_NAMES:
            vendor.control("rate", events_per_s=0, market=market)
        there, since_s = stored(server.url), time.monotonic()
        while time.monotonic() - since_s < _QUIET_S:
            time.sleep(POLL_S)
            if (now := stored(server.url)) != there:
                there, since_s = now, time.monotonic()

    def _account(self, log: Path, server: Server, took_s: float) -> None:
        account = account_of(log, server, self._journal)
        self.verdicts = account.verdicts()
        sent = sum(one.sent for one in self.verdicts.values())
        self.tally.notes.append(f"{sent:,} events sent, {sent / took_s:,.0f}/s on average")
        lost = 0
        for hit, (began_ns, ended_ns) in self._alone:
            for name, feed in account.feeds.items():
                within = (began_ns <= start and end <= ended_ns for start, end in feed.missing)
                lost += name != hit and any(within)
        alone = len(self._alone)
        self.tally.notes.append(
            f"{alone} times a feed died alone: of these the other one missed events {lost} times"
        )
        # Nobody knows what would have been sent: that nothing came has to be told all the same.
        silences = self.tally.faults[f"{VENDOR} {HALF_OPEN}"]
        for name, feed in account.feeds.items():
            if len(set(feed.spans)) < silences:
                self.tally.findings.append(f"{name}: not every half-open connection is told")
        if lost:
            self.tally.findings.append("a feed missed events while the other one was hit alone")


def account_of(log: Path, server: Server, journal: Path | None) -> Account:
    """Return what vendor, journal, stream and statuses say."""
    account = Account()
    account.take_log(log)
    if journal is not None:
        account.take_journal(journal)
    each_stored(server.url, "MARKET_DATA", account.take_message)
    each_stored(server.url, STATUS_STREAM, lambda _, data: account.take_status(data))
    return account


def hourly(seed: int, every_s: float = 10.0) -> Iterator[Round]:
    """Yield rounds of faults that leave the supervisor there, each so long after the last one."""
    return rounds(seed, LASTING, (every_s - 1, every_s + 1))


def _trouble(vendor: SimulatorProcess, fault: Fault) -> tuple[Act, Act | None] | None:
    """Return what begins and ends a fault of the vendor; None for one that is another's."""
    if fault.target != VENDOR:
        return None

    def tell(do: str, **fields: int) -> Act:
        def act() -> None:
            vendor.control(do, **fields)

        return act

    if fault.how == SLOW:
        return tell(SLOW, bytes_per_s=SLOW_BYTES_PER_S), tell(SLOW, bytes_per_s=0)
    if fault.how == HALF_OPEN:
        begin = tell("half_open")

        def half_open() -> None:
            begin()
            # What was sent before is still on its way, and would look like data again.
            time.sleep(_ON_ITS_WAY_S)

        return half_open, None

    def cut() -> None:
        if fault.how == REFUSE:
            vendor.control("refuse", for_s=fault.for_s)
        vendor.control("drop")

    return cut, None


class ClusterCampaign(LiveCampaign):
    """Kills the leader of three replicas, each time that all hold the same again."""

    def __init__(self, folder: Path, settings: Settings, kills: int) -> None:
        config = f"[nats]\nreplicas = 3\n{settings.config}"
        plan = islice(rounds(settings.seed, {NATS: (KILL,)}, (0.2, 1.0)), kills)
        super().__init__(folder, dataclasses.replace(settings, config=config), plan)
        self._three: ThreeServers | None = None

    @contextmanager
    def _servers(self) -> Iterator[Server]:
        with three_servers(self._folder / "nats") as self._three:
            yield self._three

    def _play(self, one: Round, vendor: SimulatorProcess, command: Command, server: Server) -> None:
        time.sleep(one.pause_s)
        began_s = time.time()
        server.kill()
        self.tally.faults["leader kill"] += 1
        self._await(command, server, time.time_ns())
        again_s = time.time()
        self.tally.recoveries_s["leader kill"].append(again_s - began_s)
        if self._three is not None:
            led_s = max(began_s, self._three.led_since_s())
            # It may have changed once more since.
            self.tally.recoveries_s["after the new leader"].append(max(0.0, again_s - led_s))
        server.start()
