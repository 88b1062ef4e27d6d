"""The final report of a run, for people and as one JSON object."""

from __future__ import annotations

from typing import Self

import msgspec

from ingestor.model.clock import iso_utc
from ingestor.model.units import NS_PER_US


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run published. Only acknowledged events count; times are ns UTC.

    Of the events that feeds handed on, `not_stored` are not in the stream, and of `unknown` nobody
    knows: they were sent, and the end came before the server's answer.
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


class FeedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What one live feed handed on and what it lost."""

    records: int = 0
    dropped_trades: int = 0
    dropped_quotes: int = 0
    gaps: int = 0
    reconnects: int = 0
    unrecorded: int = 0
    undelivered: int = 0


class LiveSummary(Summary, frozen=True, kw_only=True):
    """A summary with one entry per live feed."""

    feeds: dict[str, FeedSummary] = {}

    @classmethod
    def of(cls, summary: Summary, feeds: dict[str, FeedSummary]) -> Self:
        """Return a summary with its feeds."""
        return cls(**msgspec.structs.asdict(summary), feeds=feeds)


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What people also want to know: pacing error in ns, reconnects, and skips by cause."""

    late_p50_ns: int | None = None
    late_p99_ns: int | None = None
    reconnects: int = 0
    skipped_by_cause: dict[str, int] = {}


def as_json(summary: Summary) -> str:
    """Return the one JSON object of ``--summary json``."""
    return msgspec.json.encode(summary).decode()


def as_text(summary: Summary, details: Details) -> str:
    """Return the report for people."""
    lines = [_headline(summary)]
    lines += [f"  {subject:<24}{count:>14,}" for subject, count in summary.by_subject.items()]
    if summary.first_ts_event_ns is not None and summary.last_ts_event_ns is not None:
        first, last = iso_utc(summary.first_ts_event_ns), iso_utc(summary.last_ts_event_ns)
        lines.append(f"event time    {first} to {last}")
    if summary.first_seq is not None:
        place = f"sequences {summary.first_seq:,} to {summary.last_seq:,}"
        lines.append(f"stream        {summary.stream}, {place} ({summary.publish_mode})")
    lines += _left(summary)
    lines.append(_oddities(summary, details))
    if isinstance(summary, LiveSummary):
        lines += [_feed_line(name, feed) for name, feed in summary.feeds.items()]
    if details.late_p50_ns is not None and details.late_p99_ns is not None:
        p50, p99 = details.late_p50_ns // NS_PER_US, details.late_p99_ns // NS_PER_US
        lines.append(f"pace          sent {p50:,} us after due at the median, {p99:,} us at p99")
    return "\n".join(lines)


def _headline(summary: Summary) -> str:
    rate = f"{summary.elapsed_s:,.2f} s, {summary.events_per_s:,.0f} events/s"
    return f"published     {summary.published:,} events in {rate}"


def _left(summary: Summary) -> list[str]:
    what = "handed on by the feeds" if isinstance(summary, LiveSummary) else "read ahead"
    lines = []
    if summary.not_stored:
        lines.append(f"not stored    {summary.not_stored:,} events that were {what}")
    if summary.unknown:
        lines.append(f"unknown       {summary.unknown:,} events were sent and not answered for")
    return lines


def _oddities(summary: Summary, details: Details) -> str:
    causes = ", ".join(f"{cause} {count:,}" for cause, count in details.skipped_by_cause.items())
    skipped = f"{summary.skipped:,} skipped" + (f" ({causes})" if causes else "")
    late = "reported late" if isinstance(summary, LiveSummary) else "stepped back in time"
    line = f"input         {skipped}, {summary.late:,} {late}"
    return f"{line}, {details.reconnects} reconnects" if details.reconnects else line


def _feed_line(name: str, feed: FeedSummary) -> str:
    dropped = f"{feed.dropped_trades:,} trades and {feed.dropped_quotes:,} quotes dropped"
    connections = f"{feed.gaps:,} gaps, {feed.reconnects:,} reconnects"
    line = f"{name:<14}{feed.records:,} events, {dropped}, {connections}"
    if feed.undelivered:
        line += f", {feed.undelivered:,} not handed on before the stop"
    if feed.unrecorded:
        line += f", {feed.unrecorded:,} messages not recorded"
    return line
