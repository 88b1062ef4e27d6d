"""The report of a run: read from its shared memory, for people and as one JSON object."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S, NS_PER_US, iso_utc
from ingestor.runtime.counters import (
    PUBLISH_MODES,
    Counter,
    CounterRow,
    CounterTable,
    Total,
)
from ingestor.runtime.latency import Hop, LatencyTable, together

_NEXT_UNIT: Final = 1_000
_LATE: Final = Hop.DUE_TO_SENT.name.lower()


class FeedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What one live feed handed on and what it lost: counters, by their names."""

    records: int = 0
    dropped_trades: int = 0
    dropped_quotes: int = 0
    gaps: int = 0
    reconnects: int = 0
    unrecorded: int = 0
    undelivered: int = 0
    restarts: int = 0


class HopSummary(msgspec.Struct, frozen=True, kw_only=True):
    """How long rows took over one hop, ns; of a live feed's hops those of all feeds together."""

    rows: int
    p50_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run published, as ``--summary json`` prints it; times are ns UTC.

    Only acknowledged events count. Of those that feeds handed on, `not_stored` are not in the
    stream, and of `unknown` nobody knows: they were sent, and the end came before the server's
    answer. Only live runs have `feeds`.
    """

    published: int = 0
    not_stored: int = 0
    unknown: int = 0
    by_subject: dict[str, int] = {}
    skipped: int = 0
    late: int = 0
    elapsed_s: float = 0.0
    events_per_s: float = 0.0
    first_ts_event_ns: int | None = None
    last_ts_event_ns: int | None = None
    stream: str | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    publish_mode: str | None = None
    latency: dict[str, HopSummary] = {}
    feeds: dict[str, FeedSummary] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """The summary, what people also want to know, and how to exit."""

    summary: Summary
    reconnects: int = 0
    skipped_by_cause: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    exit_code: int = ExitCode.OK


def report_of(
    table: CounterTable,
    feeds: Sequence[str],
    stream: str,
    *,
    live: bool,
    stored_before: int = 0,
    error: str | None = None,
    exit_code: int = ExitCode.OK,
) -> RunReport:
    """Return what the processes of a run counted, to whatever end they came.

    `feeds` are the names of the feeds' processes in their order; the publisher's row follows. Of
    what feeds handed on, earlier runs of the same job had stored `stored_before` rows.
    """
    skipped: Tally[str] = Tally()
    for index in range(len(feeds)):
        skipped.update(table.skipped(index))
    summary = _summary(table, len(feeds), stream, stored_before)
    if live:
        by_name = {name: _feed(table.row(index)) for index, name in enumerate(feeds)}
        summary = msgspec.structs.replace(summary, feeds=by_name)
    return RunReport(
        summary=summary,
        reconnects=table.row(len(feeds))[Counter.RECONNECTS],
        skipped_by_cause=dict(skipped),
        error=error,
        exit_code=exit_code,
    )


def _summary(table: CounterTable, feeds: int, stream: str, stored_before: int) -> Summary:
    rows, publisher = [table.row(index) for index in range(feeds)], table.row(feeds)
    published, unknown = sum(table.stored.values()), table.total(Total.UNANSWERED)
    if unknown is None:
        # Killed: all that it was handed and that was not yet counted as stored may be.
        unknown = max(publisher[Counter.RECORDS] - published, 0)
    # Feeds that were sought count from there, and what was dropped was not to be stored.
    handed_on = 0 if table.seek.number else sum(row[Counter.RECORDS] for row in rows)
    started_ns, finished_ns = table.total(Total.STARTED_NS), table.total(Total.FINISHED_NS)
    ended_ns = publisher[Counter.HEARTBEAT_NS] if finished_ns is None else finished_ns
    elapsed_s = 0.0 if started_ns is None else max(ended_ns - started_ns, 0) / NS_PER_S
    mode = table.total(Total.MODE)
    return Summary(
        published=published,
        not_stored=max(handed_on - stored_before - published - unknown, 0),
        unknown=unknown,
        by_subject=table.stored,
        skipped=sum(row[Counter.SKIPPED] for row in rows),
        late=sum(row[Counter.LATE] for row in rows),
        elapsed_s=round(elapsed_s, 6),
        events_per_s=round(published / elapsed_s, 1) if elapsed_s else 0.0,
        first_ts_event_ns=table.total(Total.FIRST_EVENT_NS) if published else None,
        last_ts_event_ns=table.total(Total.LAST_EVENT_NS) if published else None,
        stream=stream,
        first_seq=table.total(Total.FIRST_SEQ),
        last_seq=table.total(Total.LAST_SEQ),
        publish_mode=None if mode is None else PUBLISH_MODES[mode],
        latency={
            hop.name.lower(): counted
            for hop in Hop
            if (counted := _hop(table.latencies, hop, feeds + 1)) is not None
        },
    )


def _hop(table: LatencyTable, hop: Hop, processes: int) -> HopSummary | None:
    whole = together(table.read(process, hop) for process in range(processes))
    if (p50_ns := whole.quantile_ns(0.5)) is None:
        return None
    return HopSummary(
        rows=whole.rows,
        p50_ns=p50_ns,
        p99_ns=whole.quantile_ns(0.99) or 0,
        p999_ns=whole.quantile_ns(0.999) or 0,
        max_ns=whole.max_ns,
    )


def _feed(row: CounterRow) -> FeedSummary:
    counts = {name: row[Counter[name.upper()]] for name in FeedSummary.__struct_fields__}
    # A feed that is killed leaves in memory what it could not count as undelivered.
    counts["undelivered"] = max(counts["undelivered"], row[Counter.HELD])
    return FeedSummary(**counts)


def as_json(report: RunReport) -> str:
    """Return the one JSON object of ``--summary json``."""
    return msgspec.json.encode(report.summary).decode()


def as_text(report: RunReport) -> str:
    """Return the report for people."""
    summary = report.summary
    rate = f"{summary.elapsed_s:,.2f} s, {summary.events_per_s:,.0f} events/s"
    lines = [f"published     {summary.published:,} events in {rate}"]
    lines += [f"  {subject:<24}{count:>14,}" for subject, count in summary.by_subject.items()]
    if summary.first_ts_event_ns is not None and summary.last_ts_event_ns is not None:
        first, last = iso_utc(summary.first_ts_event_ns), iso_utc(summary.last_ts_event_ns)
        lines.append(f"event time    {first} to {last}")
    if summary.first_seq is not None:
        place = f"sequences {summary.first_seq:,} to {summary.last_seq:,}"
        lines.append(f"stream        {summary.stream}, {place} ({summary.publish_mode})")
    lines += _left(summary)
    lines.append(_input(report))
    if summary.feeds is not msgspec.UNSET:
        lines += [_feed_line(name, feed) for name, feed in summary.feeds.items()]
    lines += [
        _pace(hop) if name == _LATE else _hop_line(name, hop)
        for name, hop in summary.latency.items()
    ]
    return "\n".join(lines)


def _hop_line(name: str, hop: HopSummary) -> str:
    quantiles = {"p50": hop.p50_ns, "p99": hop.p99_ns, "p99.9": hop.p999_ns, "max": hop.max_ns}
    told = ", ".join(f"{quantile} {duration_text(ns)}" for quantile, ns in quantiles.items())
    return f"latency       {name.replace('_', ' '):<18}{told}"


def _pace(late: HopSummary) -> str:
    p50, p99, p999, most = (
        ns // NS_PER_US for ns in (late.p50_ns, late.p99_ns, late.p999_ns, late.max_ns)
    )
    return (
        f"pace          sent {p50:,} us after due at the median, {p99:,} us at p99,"
        f" {p999:,} us at p99.9, {most:,} us at most"
    )


def duration_text(ns: int) -> str:
    """Return a duration with three digits in the unit that suits it.

    >>> duration_text(820), duration_text(45_600), duration_text(3_120_000)
    ('0.82 us', '45.6 us', '3.12 ms')
    """
    value, unit = ns / NS_PER_US, "us"
    for larger in ("ms", "s"):
        if value < _NEXT_UNIT:
            break
        value, unit = value / _NEXT_UNIT, larger
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f} {unit}"


def _left(summary: Summary) -> list[str]:
    what = "read ahead" if summary.feeds is msgspec.UNSET else "handed on by the feeds"
    lines = []
    if summary.not_stored:
        lines.append(f"not stored    {summary.not_stored:,} events that were {what}")
    if summary.unknown:
        lines.append(f"unknown       {summary.unknown:,} events were sent and not answered for")
    return lines


def _input(report: RunReport) -> str:
    summary = report.summary
    causes = ", ".join(f"{cause} {count:,}" for cause, count in report.skipped_by_cause.items())
    skipped = f"{summary.skipped:,} skipped" + (f" ({causes})" if causes else "")
    late = "stepped back in time" if summary.feeds is msgspec.UNSET else "reported late"
    line = f"input         {skipped}, {summary.late:,} {late}"
    return f"{line}, {report.reconnects} reconnects" if report.reconnects else line


def _feed_line(name: str, feed: FeedSummary) -> str:
    dropped = f"{feed.dropped_trades:,} trades and {feed.dropped_quotes:,} quotes dropped"
    connections = f"{feed.gaps:,} gaps, {feed.reconnects:,} reconnects"
    line = f"{name:<14}{feed.records:,} events, {dropped}, {connections}"
    if feed.undelivered:
        line += f", {feed.undelivered:,} not handed on before the stop"
    if feed.restarts:
        line += f", started again {feed.restarts:,} times"
    if feed.unrecorded:
        line += f", {feed.unrecorded:,} messages not recorded"
    return line
