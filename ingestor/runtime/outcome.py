"""From what the processes of a run reported to what its user is told, and to the exit code."""

from __future__ import annotations

import signal
from collections import Counter as Tally
from dataclasses import dataclass

from ingestor.model.errors import ExitCode
from ingestor.runtime.feed_place import FeedReport
from ingestor.runtime.publisher_process import PublisherReport
from ingestor.runtime.run import RunReport
from ingestor.runtime.signals import EXIT_BASE, noted
from ingestor.runtime.summary import Details, FeedSummary, LiveSummary, Summary


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The summary, what else people want to know, and how to exit."""

    summary: Summary
    details: Details
    error: str | None
    exit_code: int


def replay_outcome(report: RunReport) -> RunOutcome:
    """Return the outcome of a replay."""
    return _outcome(report, _summary(report))


def live_outcome(report: RunReport) -> RunOutcome:
    """Return the outcome of a live run, whose summary also says what each feed lost."""
    feeds = {
        name: FeedSummary(
            records=feed.records,
            dropped_trades=feed.dropped_trades,
            dropped_quotes=feed.dropped_quotes,
            gaps=feed.gaps,
            reconnects=feed.reconnects,
            unrecorded=feed.unrecorded,
            undelivered=feed.undelivered,
        )
        for name, feed in report.feeds.items()
    }
    return _outcome(report, LiveSummary.of(_summary(report), feeds))


def _outcome(report: RunReport, summary: Summary) -> RunOutcome:
    published = report.publisher
    details = Details(
        late_p50_ns=published.late_p50_ns,
        late_p99_ns=published.late_p99_ns,
        reconnects=published.reconnects,
        skipped_by_cause=_skipped(report),
    )
    return RunOutcome(summary, details, *_ending(report))


def _summary(report: RunReport) -> Summary:
    published = report.publisher
    return Summary(
        published=published.published,
        not_stored=max(report.handed_on - published.published - published.unknown, 0),
        unknown=published.unknown,
        by_subject=published.by_subject,
        skipped=sum(_skipped(report).values()),
        late=sum(feed.late for feed in report.feeds.values()),
        elapsed_s=round(published.elapsed_s, 6),
        events_per_s=round(published.published / published.elapsed_s, 1)
        if published.elapsed_s
        else 0.0,
        first_ts_event_ns=published.first_ts_event_ns,
        last_ts_event_ns=published.last_ts_event_ns,
        stream=published.stream or None,
        first_seq=published.first_seq,
        last_seq=published.last_seq,
        publish_mode=published.publish_mode,
    )


def _skipped(report: RunReport) -> dict[str, int]:
    skipped: Tally[str] = Tally()
    for feed in report.feeds.values():
        skipped.update(feed.skipped)
    return dict(skipped)


def _ending(report: RunReport) -> tuple[str | None, int]:
    """Return the sentence and exit code: of the signal or the failure, whichever came first."""
    parts: list[PublisherReport | FeedReport] = [report.publisher, *report.feeds.values()]
    broken = [(part.error, part.exit_code) for part in parts if part.exit_code]
    if report.failure is not None:
        broken.insert(0, (report.failure.sentence, report.failure.exit_code))
    number = report.signal_number or next(iter(noted()), None)
    if number is not None and (report.stopped_first or not broken):
        stopped = f"{signal.Signals(number).name}: stopped before the end"
        also = f"; also: {broken[0][0]}" if broken else ""
        return stopped + also, EXIT_BASE + number
    return broken[0] if broken else (None, ExitCode.OK)
