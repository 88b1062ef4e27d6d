"""Statuses as lines for people."""

from __future__ import annotations

from hypothesis import given

from ingestor.model.bounds import printable
from ingestor.model.feed_status import FeedStatus, What, line_of_status
from ingestor.model.units import iso_utc
from tests.strategies import STATUSES

AT_NS = 1_765_895_400_017_150_864


def test_a_gap_tells_its_span_by_our_clock_and_what_is_lost() -> None:
    status = FeedStatus(
        feed="stocks",
        what=What.GAP,
        at_ns=AT_NS,
        text="the connection was lost",
        from_event_ns=AT_NS - 9_000_000_000,
        to_event_ns=AT_NS,
        from_recv_ns=AT_NS - 1_500_000_000,
        to_recv_ns=AT_NS,
        lost_trades=1200,
        lost_quotes=0,
    )
    assert line_of_status(status) == (
        "2025-12-16T14:30:00.017150864Z stocks   gap       the connection was lost "
        "(14:29:58.517 to 14:30:00.017, 1.500 s, lost 1,200 trades and 0 quotes)"
    )


def test_what_is_not_known_is_left_out() -> None:
    plain = FeedStatus(feed="options", what=What.STREAMING, at_ns=AT_NS, text="data flows")
    assert line_of_status(plain).endswith("options  streaming data flows")
    begun = FeedStatus(
        feed="options", what=What.SILENCE, at_ns=AT_NS, text="nothing", from_event_ns=AT_NS
    )
    assert line_of_status(begun).endswith("silence   nothing (since 14:30:00.017)")


@given(STATUSES)
def test_every_status_is_a_line_that_begins_with_its_time(status: FeedStatus) -> None:
    line = line_of_status(status)
    assert line.startswith(f"{iso_utc(status.at_ns)} {printable(status.feed)}")
    assert printable(line, len(line)) == line
