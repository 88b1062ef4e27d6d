"""A run as it is seen from outside: what it is, how it stands, and its metrics for Prometheus.

Every column of the counters becomes one metric, whose name, type and unit follow from the column's
name alone, so that a new column appears by itself, for the processes in whose row it means
something:

    RECORDS         counter  ingestor_records_total{process="trades"} 1200
    BYTES_TOTAL     gauge    ingestor_bytes{process="trades"} 47000       (`is_gauge`)
    EVENT_TIME_NS   gauge    ingestor_event_time_seconds{...} 1765895400.0171509

Times are left out while they are 0, which is "none yet". Columns of a clock that nobody else has
(`MONOTONIC`) are told as ages. Prometheus knows 64-bit floats only: a time is good to 240 ns there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ingestor import __version__
from ingestor.model.feed_status import FeedStatus
from ingestor.model.replay_control import ReplayState
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import MONOTONIC, Counter, CounterRow, CounterTable, Role
from ingestor.runtime.latency import Hop
from ingestor.runtime.machine import usage_of
from ingestor.runtime.metrics import RunFacts
from ingestor.runtime.progress_reporter import Progress, ReplaySnapshot

FIRST_EDGE, LAST_EDGE = 13, 36
"""Prometheus gets a bucket for each power of two from 2**13 ns (8 us) to 2**36 ns (69 s)."""

_DECIMALS: Final = 9


@dataclass(frozen=True, slots=True)
class RunView:
    """All processes in the order of their rows, the shared memory of a run, and what it is."""

    names: Sequence[str]
    roles: Sequence[Role]
    table: CounterTable
    facts: RunFacts
    steered: Callable[[], ReplayState | None] = lambda: None
    """How a replay stands that can be steered."""

    @property
    def processes(self) -> list[tuple[str, CounterRow]]:
        """Every process with its counters."""
        return [(name, self.table.row(index)) for index, name in enumerate(self.names)]

    def having(self, role: Role) -> list[tuple[int, str, CounterRow]]:
        """Return number, name and counters of the processes that are one of `role`."""
        return [
            (index, name, self.table.row(index))
            for index, name in enumerate(self.names)
            if self.roles[index] in role
        ]

    def statuses(self) -> Iterator[tuple[str, FeedStatus]]:
        """Yield the last status of each feed that has told any, with the name of its process."""
        for process, name in enumerate(self.names):
            status = self.table.status(process)
            if status is not None:
                yield name, status


def since_s(row: CounterRow, since: Counter, now_ns: int) -> float:
    """Return for how long something of a process has been so; 0 if it is not, or it has ended."""
    since_ns = row[since]
    return 0.0 if row[Counter.ENDED] or not since_ns else max(now_ns - since_ns, 0) / NS_PER_S


def heartbeat_age_s(row: CounterRow, now_ns: int) -> float | None:
    """Return the seconds since a process's last sign of life, None once it has ended."""
    if row[Counter.ENDED]:
        return None
    return max(now_ns - row[Counter.HEARTBEAT_NS], 0) / NS_PER_S


class Series(NamedTuple):
    """What a column is for Prometheus; `scaled` values are integers of 1e-9 and told in units."""

    name: str
    kind: str
    scaled: bool


def series_of(counter: Counter) -> Series:
    """Return name and type of a column."""
    name = f"ingestor_{counter.name.lower()}"
    if name.endswith("_ns"):
        return Series(f"{name.removesuffix('_ns')}_seconds", "gauge", scaled=True)
    if counter.is_gauge:
        return Series(name.removesuffix("_total"), "gauge", scaled=False)
    return Series(f"{name}_total", "counter", scaled=False)


def exposition(
    view: RunView, progress: Progress | None, now_ns: int, unwell: Iterable[tuple[str, str]] = ()
) -> str:
    """Return everything there is to scrape, in text format 0.0.4; `now_ns` is monotonic.

    `unwell` are processes, each with what is wrong with it.
    """
    return generate_latest(RunCollector(view, progress, now_ns, unwell)).decode()


class RunCollector(Collector):
    """What `prometheus_client` asks for its metrics: one look at the table."""

    def __init__(
        self,
        view: RunView,
        progress: Progress | None,
        now_ns: int,
        unwell: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._view = view
        self._progress = progress
        self._now_ns = now_ns
        self._unwell = unwell

    def collect(self) -> Iterable[Metric]:
        """Yield every family that has something to tell of this run."""
        for family in self.families():
            if family.samples:
                yield family

    def families(self) -> Iterator[Metric]:
        """Yield every family there is."""
        yield from self._run()
        yield from self._states()
        journal = {Counter.UNRECORDED, Counter.JOURNAL_BYTES}
        # The number of a process stands for what is told about it; it is no figure.
        untold = (
            MONOTONIC | {Counter.PID} | (journal if not self._view.facts.journal_dir else set())
        )
        for counter in Counter:
            if counter not in untold:
                yield self._column(counter)
        yield from self._by_subject_and_cause()
        for hop in Hop:
            yield self._latencies(hop)
        yield from self._usage()
        yield from self._replay()
        yield from self._live()

    def _run(self) -> Iterator[Metric]:
        facts = self._view.facts
        build = GaugeMetricFamily(
            "ingestor_build_info", "The version that runs.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build
        mode = f"{facts.mode} demo" if facts.demo else facts.mode
        told = {"mode": mode, "stream": facts.stream, "server": facts.server}
        info = GaugeMetricFamily("ingestor_run_info", "What runs, and where to.", labels=[*told])
        info.add_metric([*told.values()], 1)
        yield info
        yield _one(
            "ingestor_start_time_seconds", "When the run began.", facts.started_ns / NS_PER_S
        )
        yield _one(
            "ingestor_leases", "Subjects that this run alone may write to.", facts.leases or None
        )

    def _states(self) -> Iterator[Metric]:
        # There only while it is so: an alarm needs no zero, and kinds times processes are many.
        unwell = GaugeMetricFamily(
            "ingestor_unwell",
            "1 while this is wrong with the process, in the words of /healthz.",
            labels=["process", "what"],
        )
        for process, what in self._unwell:
            unwell.add_metric([process, what], 1)
        yield unwell
        connected = GaugeMetricFamily(
            "ingestor_connected",
            "1 while a live feed has its vendor, or the publisher its server.",
            labels=["process"],
        )
        for _, name, row in self._view.having(Role.LIVE | Role.PUBLISHER):
            if not row[Counter.ENDED]:
                connected.add_metric([name], int(not row[Counter.AWAY_SINCE_NS]))
        yield connected
        yield self._ages(
            "ingestor_heartbeat_age_seconds",
            "Time since the last sign of life; none once it has ended.",
            Role.ANY,
            heartbeat_age_s,
        )
        yield self._ages(
            "ingestor_away_seconds",
            "Time that a live feed has been without its vendor, or the publisher without its"
            " server.",
            Role.LIVE | Role.PUBLISHER,
            lambda row, now_ns: since_s(row, Counter.AWAY_SINCE_NS, now_ns),
        )
        yield self._ages(
            "ingestor_stalled_seconds",
            "Time that rows have been under way and the server has stored none.",
            Role.PUBLISHER,
            lambda row, now_ns: since_s(row, Counter.STALLED_SINCE_NS, now_ns),
        )

    def _ages(
        self,
        name: str,
        about: str,
        role: Role,
        age_s: Callable[[CounterRow, int], float | None],
    ) -> Metric:
        family = GaugeMetricFamily(name, about, labels=["process"])
        for _, process, row in self._view.having(role):
            if (value := age_s(row, self._now_ns)) is not None:
                family.add_metric([process], round(value, 3))
        return family

    def _column(self, counter: Counter) -> Metric:
        name, kind, scaled = series_of(counter)
        made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = made(name, counter.about, labels=["process"])
        for _, process, row in self._view.having(counter.whose):
            value = row[counter]
            if value or not scaled:
                # Dividing integers rounds once, to the nearest float.
                family.add_metric([process], value / 10**_DECIMALS if scaled else value)
        return family

    def _by_subject_and_cause(self) -> Iterator[Metric]:
        subjects = CounterMetricFamily(
            "ingestor_stored_total", "Rows that are known to be stored.", labels=["subject"]
        )
        for subject, rows in self._view.table.stored.items():
            subjects.add_metric([subject], rows)
        yield subjects
        causes = CounterMetricFamily(
            "ingestor_skipped_by_cause_total",
            "Records left out, by what is wrong with them.",
            labels=["process", "cause"],
        )
        for index, name, _ in self._view.having(Role.FEED):
            for cause, count in self._view.table.skipped(index).items():
                causes.add_metric([name, cause], count)
        yield causes

    def _latencies(self, hop: Hop) -> Metric:
        name = f"ingestor_{hop.name.lower()}_seconds"
        family = HistogramMetricFamily(name, hop.about, labels=["process"])
        for index, process in enumerate(self._view.names):
            counted = self._view.table.latencies.read(index, hop)
            if not (rows := counted.rows):
                continue
            edges = counted.by_octave()[FIRST_EDGE - 1 : LAST_EDGE]
            buckets = [(repr(edge_ns / NS_PER_S), float(below)) for edge_ns, below in edges]
            buckets.append(("+Inf", float(rows)))
            family.add_metric([process], buckets, counted.sum_ns / NS_PER_S)
        return family

    def _usage(self) -> Iterator[Metric]:
        cpu = CounterMetricFamily(
            "ingestor_process_cpu_seconds_total", "CPU time, user and system.", labels=["process"]
        )
        memory = GaugeMetricFamily(
            "ingestor_process_resident_memory_bytes",
            "Memory that is resident, what is shared with other processes included.",
            labels=["process"],
        )
        pids = {name: row[Counter.PID] for name, row in self._view.processes}
        for name, pid in {"supervisor": self._view.facts.pid, **pids}.items():
            if pid and (used := usage_of(pid)) is not None:
                cpu.add_metric([name], used[0])
                memory.add_metric([name], used[1])
        yield cpu
        yield memory

    def _replay(self) -> Iterator[Metric]:
        told = self._progress.snapshot(self._now_ns) if self._progress is not None else None
        wanted = paused = speed = share = left_s = None
        if isinstance(told, ReplaySnapshot):
            wanted, paused = told.told, float(told.paused)
            speed, share, left_s = told.speed, told.share, told.eta_s
        yield _one(
            "ingestor_replay_wanted_speed",
            "Event time per time as it was asked for; 0 is as fast as possible.",
            wanted,
        )
        yield _one("ingestor_replay_paused", "1 while the replay is paused.", paused)
        yield _one("ingestor_replay_speed", "Event time per time as it is.", speed)
        yield _one(
            "ingestor_replay_done_ratio",
            "Share of the replay that is over, 0 to 1.",
            share,
        )
        yield _one(
            "ingestor_replay_left_seconds",
            "Time until the replay ends, as far as can be told.",
            left_s,
        )

    def _live(self) -> Iterator[Metric]:
        view = self._view
        price = GaugeMetricFamily(
            "ingestor_reference_price",
            "Newest price of the options' underlying; none before the first.",
            labels=["process"],
        )
        if price_e9 := view.table.reference_price_e9:
            # Feed 0 is the stocks' wherever there is a price.
            price.add_metric([view.names[0]], price_e9 / 10**_DECIMALS)
        yield price
        yield self._statuses()
        yield _one(
            "ingestor_backlog_limit",
            "Records that may wait in a live feed for room in its ring.",
            view.facts.backlog_rows,
        )
        folder = view.facts.journal_dir
        yield _one(
            "ingestor_journal_free_bytes",
            "Free bytes on the disk of the journal.",
            None if folder is None else shutil.disk_usage(folder).free,
        )

    def _statuses(self) -> Metric:
        family = GaugeMetricFamily(
            "ingestor_last_status_time_seconds",
            "When a live feed told something last, and what it was.",
            labels=["process", "feed", "what"],
        )
        for process, status in self._view.statuses():
            family.add_metric([process, status.feed, status.what], status.at_ns / NS_PER_S)
        return family


def _one(name: str, about: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, about, value=value)
