from __future__ import annotations

import signal

import pytest

from ingestor.model.errors import ExitCode
from ingestor.runtime.feed_place import FeedReport
from ingestor.runtime.outcome import live_outcome, replay_outcome
from ingestor.runtime.publisher_process import PublisherReport
from ingestor.runtime.run import RunReport
from ingestor.runtime.summary import FeedSummary, LiveSummary, Summary
from ingestor.runtime.supervisor import Failure

PUBLISHER = PublisherReport(
    published=30,
    by_subject={"market.stocks.trades": 30},
    elapsed_s=1.5,
    first_ts_event_ns=1,
    last_ts_event_ns=9,
    stream="S",
    first_seq=4,
    last_seq=33,
    publish_mode="fast_ingest",
    reconnects=2,
)
FEEDS = {
    "stocks": FeedReport(20, {"price": 1, "time": 2}, late=3, dropped_trades=4, gaps=5),
    "options": FeedReport(10, {"price": 6}, late=7, dropped_quotes=8, reconnects=9, unrecorded=1),
}
SUMMARY = Summary(
    published=30,
    by_subject={"market.stocks.trades": 30},
    skipped=9,
    late=10,
    elapsed_s=1.5,
    events_per_s=20.0,
    first_ts_event_ns=1,
    last_ts_event_ns=9,
    stream="S",
    first_seq=4,
    last_seq=33,
    publish_mode="fast_ingest",
)


def test_a_replay_sums_up_its_feeds() -> None:
    outcome = replay_outcome(RunReport(PUBLISHER, FEEDS))
    assert outcome.summary == SUMMARY
    assert outcome.details.skipped_by_cause == {"price": 7, "time": 2}
    assert outcome.details.reconnects == 2
    assert (outcome.error, outcome.exit_code) == (None, ExitCode.OK)


def test_a_live_run_also_says_what_each_feed_lost() -> None:
    assert live_outcome(RunReport(PUBLISHER, FEEDS)).summary == LiveSummary.of(
        SUMMARY,
        {
            "stocks": FeedSummary(records=20, dropped_trades=4, gaps=5),
            "options": FeedSummary(records=10, dropped_quotes=8, reconnects=9, unrecorded=1),
        },
    )


def test_a_run_that_published_nothing_has_no_rate_and_no_place() -> None:
    summary = replay_outcome(RunReport(PublisherReport())).summary
    assert summary == Summary()


def test_what_the_feeds_handed_on_is_stored_not_stored_or_unknown() -> None:
    lost = PublisherReport(published=10, unknown=3)
    summary = replay_outcome(RunReport(lost, FEEDS, handed_on=20)).summary
    assert (summary.published, summary.unknown, summary.not_stored) == (10, 3, 7)


BROKEN = FeedReport(error="the file is cut", exit_code=ExitCode.BAD_DATA)
NO_SERVER = PublisherReport(error="no server", exit_code=ExitCode.NATS_UNREACHABLE)
DEAD = Failure(ExitCode.CHILD_FAILED, "a process is dead")


@pytest.mark.parametrize(
    ("report", "error", "exit_code"),
    [
        (RunReport(NO_SERVER, {"a": BROKEN}, DEAD), "a process is dead", ExitCode.CHILD_FAILED),
        (RunReport(NO_SERVER, {"a": BROKEN}), "no server", ExitCode.NATS_UNREACHABLE),
        (RunReport(PUBLISHER, {}, DEAD, 15), "a process is dead", ExitCode.CHILD_FAILED),
        (
            RunReport(PUBLISHER, {"a": BROKEN}, DEAD, 15, stopped_first=True),
            "SIGTERM: stopped before the end; also: a process is dead",
            143,
        ),
        (
            RunReport(PUBLISHER, {"a": BROKEN}, None, 1, stopped_first=True),
            "SIGHUP: stopped before the end; also: the file is cut",
            129,
        ),
        (RunReport(PUBLISHER, FEEDS, None, signal.SIGINT), "SIGINT: stopped before the end", 130),
    ],
)
def test_the_exit_code_is_that_of_the_signal_or_of_the_failure_whichever_came_first(
    report: RunReport, error: str, exit_code: int
) -> None:
    outcome = replay_outcome(report)
    assert (outcome.error, outcome.exit_code) == (error, exit_code)
