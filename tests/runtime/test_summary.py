from __future__ import annotations

import json

from ingestor.runtime.summary import Details, FeedSummary, LiveSummary, Summary, as_json, as_text

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
LIVE = LiveSummary.of(
    SUMMARY, {"stocks": FeedSummary(records=1_200, dropped_quotes=3, gaps=1, reconnects=2)}
)


def test_the_report_for_people() -> None:
    details = Details(
        late_p50_ns=50_000, late_p99_ns=1_200_000, reconnects=1, skipped_by_cause={"price": 2}
    )
    assert as_text(SUMMARY, details).splitlines() == [
        "published     1,200 events in 1.50 s, 800 events/s",
        "  market.stocks.trades               300",
        "  market.stocks.quotes               900",
        "event time    2025-12-16T14:30:00.000000000Z to 2025-12-16T14:30:01.000000001Z",
        "stream        MARKET_DATA, sequences 1 to 1,200 (fast_ingest)",
        "input         2 skipped (price 2), 1 stepped back in time, 1 reconnects",
        "pace          sent 50 us after due at the median, 1,200 us at p99",
    ]


def test_a_live_run_reports_each_feed_and_late_prints() -> None:
    lines = as_text(LIVE, Details()).splitlines()
    assert lines[-2:] == [
        "input         2 skipped, 1 reported late",
        "stocks        1,200 events, 0 trades and 3 quotes dropped, 1 gaps, 2 reconnects",
    ]


def test_what_a_journal_did_not_take_is_reported() -> None:
    live = LiveSummary.of(SUMMARY, {"stocks": FeedSummary(unrecorded=4)})
    assert as_text(live, Details()).endswith(", 0 gaps, 0 reconnects, 4 messages not recorded")


def test_what_is_lost_or_not_known_is_reported() -> None:
    summary = Summary(published=5, not_stored=4_264, unknown=12)
    lines = as_text(LiveSummary.of(summary, {"stocks": FeedSummary(undelivered=7)}), Details())
    assert "not stored    4,264 events that were handed on by the feeds" in lines
    assert "unknown       12 events were sent and not answered for" in lines
    assert lines.endswith(", 7 not handed on before the stop")


def test_a_run_without_events_reports_no_times_and_no_place() -> None:
    lines = as_text(Summary(), Details()).splitlines()
    assert [line.split()[0] for line in lines] == ["published", "input"]


def test_the_json_of_a_live_run_is_that_of_a_replay_and_its_feeds() -> None:
    plain, live = json.loads(as_json(SUMMARY)), json.loads(as_json(LIVE))
    assert live.pop("feeds") == {
        "stocks": {
            "records": 1_200,
            "dropped_trades": 0,
            "dropped_quotes": 3,
            "gaps": 1,
            "reconnects": 2,
            "unrecorded": 0,
            "undelivered": 0,
        }
    }
    assert live == plain
