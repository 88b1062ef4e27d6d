"""The report: what the processes of a run counted, as its user reads it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter, CounterTable, Total
from ingestor.runtime.latency import Hop
from ingestor.runtime.report import (
    FeedSummary,
    HopSummary,
    RunReport,
    Summary,
    as_json,
    as_text,
    duration_text,
    report_of,
)

FEEDS = ("stocks", "options")
PUBLISHER = len(FEEDS)
SUMMARY = Summary(
    published=1_200,
    by_subject={"market.stocks.trades": 300, "market.stocks.quotes": 900},
    skipped=2,
    late=1,
    elapsed_s=1.5,
    events_per_s=800.0,
    first_ts_event_ns=1_765_895_400_000_000_000,
    last_ts_event_ns=1_765_895_401_000_000_001,
    stream="MARKET_DATA",
    first_seq=1,
    last_seq=1_200,
    publish_mode="fast_ingest",
)


def counted() -> CounterTable:
    """A run of two feeds and a publisher that has come to its end."""
    table = CounterTable(len(FEEDS) + 1)
    stocks, options, publisher = (table.row(index) for index in range(3))
    stocks[Counter.RECORDS], options[Counter.RECORDS] = 20, 10
    stocks[Counter.LATE], options[Counter.LATE] = 3, 7
    stocks[Counter.DROPPED_TRADES], stocks[Counter.GAPS] = 4, 5
    options[Counter.DROPPED_QUOTES], options[Counter.RECONNECTS] = 8, 9
    options[Counter.UNRECORDED] = 1
    table.note_skipped(0, {"price": 1, "time": 2})
    table.note_skipped(1, {"price": 6})
    publisher[Counter.RECORDS], publisher[Counter.RECONNECTS] = 30, 2
    table.note_stored({"market.stocks.trades": 20, "market.options.trades": 10})
    for total, value in {
        Total.STARTED_NS: 7,
        Total.FINISHED_NS: 7 + 3 * NS_PER_S // 2,
        Total.FIRST_EVENT_NS: 1,
        Total.LAST_EVENT_NS: 9,
        Total.FIRST_SEQ: 4,
        Total.LAST_SEQ: 33,
        Total.MODE: 0,
        Total.UNANSWERED: 0,
    }.items():
        table.note(total, value)
    return table


def read(table: CounterTable, **options: Any) -> RunReport:
    return report_of(table, FEEDS, "S", **{"live": False} | options)


def test_a_replay_sums_up_its_feeds() -> None:
    report = read(counted())
    assert report.summary == Summary(
        published=30,
        by_subject={"market.stocks.trades": 20, "market.options.trades": 10},
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
    assert report.skipped_by_cause == {"price": 7, "time": 2}
    assert report.reconnects == 2
    assert (report.error, report.exit_code) == (None, 0)


def test_a_live_run_also_says_what_each_feed_lost() -> None:
    assert read(counted(), live=True).summary.feeds == {
        "stocks": FeedSummary(records=20, dropped_trades=4, gaps=5),
        "options": FeedSummary(records=10, dropped_quotes=8, reconnects=9, unrecorded=1),
    }


def test_what_a_killed_feed_still_held_was_not_handed_on() -> None:
    table = counted()
    table.row(0)[Counter.HELD] = 11
    table.row(1)[Counter.HELD], table.row(1)[Counter.UNDELIVERED] = 5, 6
    feeds = read(table, live=True).summary.feeds
    assert feeds is not msgspec.UNSET
    assert [feed.undelivered for feed in feeds.values()] == [11, 6]


def test_a_run_that_published_nothing_has_no_rate_and_no_place() -> None:
    table = CounterTable(len(FEEDS) + 1)
    table.note(Total.FIRST_EVENT_NS, 5)
    assert read(table).summary == Summary(stream="S")


def test_what_the_feeds_handed_on_is_stored_not_stored_or_unknown() -> None:
    table = counted()
    table.note_stored({"market.stocks.trades": 10, "market.options.trades": 0})
    table.note(Total.UNANSWERED, 3)
    summary = read(table).summary
    assert (summary.published, summary.unknown, summary.not_stored) == (10, 3, 17)
    assert summary.by_subject == {"market.stocks.trades": 10}


def test_a_publisher_that_was_killed_has_counted_up_to_its_last_sign_of_life() -> None:
    table = counted()
    for total in (Total.FINISHED_NS, Total.UNANSWERED):
        table.note(total, None)
    table.note_stored({"market.stocks.trades": 14})
    table.row(PUBLISHER)[Counter.HEARTBEAT_NS] = 7 + 2 * NS_PER_S
    table.row(PUBLISHER)[Counter.RECORDS] = 27
    summary = read(table).summary
    assert summary.by_subject == {"market.stocks.trades": 14, "market.options.trades": 10}
    assert (summary.published, summary.unknown, summary.not_stored) == (24, 3, 3)
    assert (summary.elapsed_s, summary.first_seq, summary.last_seq) == (2.0, 4, 33)


@pytest.mark.parametrize(("mode", "name"), [(0, "fast_ingest"), (1, "ack_window"), (None, None)])
def test_the_way_of_publishing_has_its_name(mode: int | None, name: str | None) -> None:
    table = counted()
    table.note(Total.MODE, mode)
    assert read(table).summary.publish_mode == name


def live(**feeds: FeedSummary) -> Summary:
    return msgspec.structs.replace(SUMMARY, feeds=feeds)


LIVE = live(stocks=FeedSummary(records=1_200, dropped_quotes=3, gaps=1, reconnects=2))


def test_the_report_for_people() -> None:
    quantiles = {"p50_ns": 50_000, "p99_ns": 1_200_000, "p999_ns": 3_000_000, "max_ns": 4_100_000}
    hop = HopSummary(rows=1_200, **quantiles)
    report = RunReport(
        summary=msgspec.structs.replace(
            SUMMARY, latency={"publish_to_stored": hop, "due_to_sent": hop}
        ),
        reconnects=1,
        skipped_by_cause={"price": 2},
    )
    assert as_text(report).splitlines() == [
        "published     1,200 events in 1.50 s, 800 events/s",
        "  market.stocks.trades               300",
        "  market.stocks.quotes               900",
        "event time    2025-12-16T14:30:00.000000000Z to 2025-12-16T14:30:01.000000001Z",
        "stream        MARKET_DATA, sequences 1 to 1,200 (fast_ingest)",
        "input         2 skipped (price 2), 1 stepped back in time, 1 reconnects",
        "latency       publish to stored p50 50.0 us, p99 1.20 ms, p99.9 3.00 ms, max 4.10 ms",
        "pace          sent 50 us after due at the median, 1,200 us at p99, 3,000 us at p99.9,"
        " 4,100 us at most",
    ]


def test_a_live_run_reports_each_feed_and_late_prints() -> None:
    lines = as_text(RunReport(summary=LIVE)).splitlines()
    assert lines[-2:] == [
        "input         2 skipped, 1 reported late",
        "stocks        1,200 events, 0 trades and 3 quotes dropped, 1 gaps, 2 reconnects",
    ]


def test_what_a_journal_did_not_take_is_reported() -> None:
    text = as_text(RunReport(summary=live(stocks=FeedSummary(unrecorded=4))))
    assert text.endswith(", 0 gaps, 0 reconnects, 4 messages not recorded")


def test_what_is_lost_or_not_known_is_reported() -> None:
    summary = Summary(
        published=5, not_stored=4_264, unknown=12, feeds={"stocks": FeedSummary(undelivered=7)}
    )
    lines = as_text(RunReport(summary=summary))
    assert "not stored    4,264 events that were handed on by the feeds" in lines
    assert "unknown       12 events were sent and not answered for" in lines
    assert lines.endswith(", 7 not handed on before the stop")


def test_what_a_replay_leaves_was_read_ahead() -> None:
    text = as_text(RunReport(summary=Summary(not_stored=3)))
    assert "not stored    3 events that were read ahead" in text


def test_a_run_without_events_reports_no_times_and_no_place() -> None:
    lines = as_text(RunReport(summary=Summary(stream="MARKET_DATA"))).splitlines()
    assert [line.split()[0] for line in lines] == ["published", "input"]


def test_the_json_of_a_live_run_is_that_of_a_replay_and_its_feeds() -> None:
    plain = json.loads(as_json(RunReport(summary=SUMMARY)))
    told = json.loads(as_json(RunReport(summary=LIVE)))
    assert told.pop("feeds") == {
        "stocks": {
            "records": 1_200,
            "dropped_trades": 0,
            "dropped_quotes": 3,
            "gaps": 1,
            "reconnects": 2,
            "unrecorded": 0,
            "undelivered": 0,
            "restarts": 0,
        }
    }
    assert told == plain
    assert list(plain) == [
        "published",
        "not_stored",
        "unknown",
        "by_subject",
        "skipped",
        "late",
        "elapsed_s",
        "events_per_s",
        "first_ts_event_ns",
        "last_ts_event_ns",
        "stream",
        "first_seq",
        "last_seq",
        "publish_mode",
        "latency",
    ]


def test_latencies_are_told_by_hop_for_all_feeds_together() -> None:
    table = counted()
    for process, rows in ((0, 98), (1, 1)):
        recorder = table.latencies.recorder(process, Hop.VENDOR_TO_RECEIVE)
        recorder.add(1_000_000, rows)
        recorder.flush()
    late = table.latencies.recorder(1, Hop.VENDOR_TO_RECEIVE)
    late.add(2_000_000_000, 1)
    late.flush()
    [(name, hop)] = read(table, live=True).summary.latency.items()
    assert (name, hop.rows, hop.max_ns) == ("vendor_to_receive", 100, 2_000_000_000)
    assert 1_000_000 <= hop.p50_ns == hop.p99_ns <= 1_062_500
    assert 1_900_000_000 <= hop.p999_ns <= 2_000_000_000


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1, "0.00 us"),
        (999, "1.00 us"),
        (45_600, "45.6 us"),
        (820_000, "820 us"),
        (1_000_000, "1.00 ms"),
        (72_000_000_000, "72.0 s"),
        (4_400_000_000_000, "4400 s"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_suits_it(ns: int, text: str) -> None:
    assert duration_text(ns) == text
