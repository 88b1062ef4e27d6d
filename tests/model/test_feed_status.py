"""What feeds tell about themselves, as it is published."""

from __future__ import annotations

import pytest
from hypothesis import given

from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError
from ingestor.model.feed_status import (
    MAX_TEXT_CHARS,
    FeedStatus,
    What,
    decode_status,
    encode_status,
    shortened,
)
from tests.strategies import STATUSES


def test_an_unknown_loss_is_null_and_not_left_out() -> None:
    status = FeedStatus(feed="stocks", what=What.GAP, at_ns=4, text="cut", from_event_ns=1)
    assert encode_status(status) == (
        b'{"feed":"stocks","what":"gap","at_ns":4,"text":"cut","from_event_ns":1,'
        b'"to_event_ns":null,"from_recv_ns":null,"to_recv_ns":null,'
        b'"lost_trades":null,"lost_quotes":null}'
    )
    assert status.subject == "ingestor.status.stocks"


def test_a_long_text_is_cut_and_a_short_one_left_as_it_is() -> None:
    long = FeedStatus(feed="stocks", what=What.ALARM, at_ns=4, text="x" * (MAX_TEXT_CHARS + 1))
    assert len(shortened(long).text) == MAX_TEXT_CHARS
    short = FeedStatus(feed="stocks", what=What.ALARM, at_ns=4, text="y" * MAX_TEXT_CHARS)
    assert shortened(short) is short


@given(STATUSES)
def test_a_status_is_read_back_as_it_was(status: FeedStatus) -> None:
    assert decode_status(encode_status(status)) == status


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"feed":"stocks","what":"lunch"}'])
def test_what_is_no_status_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(BadDataError, match="not a feed's status"):
        decode_status(data)


@pytest.mark.parametrize("key", ["at_ns", "to_recv_ns", "lost_trades"])
def test_numbers_of_a_status_end_where_int64_does(key: str) -> None:
    text = '{"feed":"stocks","what":"gap","at_ns":1,"text":"","%s":%d}'
    assert getattr(decode_status((text % (key, MAX_TIME_NS)).encode()), key) == MAX_TIME_NS
    for beyond in (MAX_TIME_NS + 1, -1):
        with pytest.raises(BadDataError):
            decode_status((text % (key, beyond)).encode())
