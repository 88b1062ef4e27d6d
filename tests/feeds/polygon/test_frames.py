from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.polygon.frames import (
    AUDIT_EVERY,
    MAX_KINDS,
    SAMPLE_CHARS,
    FrameReader,
    Oddity,
    Skip,
    Tally,
)
from ingestor.feeds.polygon.messages import (
    STOCK_KEYS,
    StatusMessage,
    StockMessage,
    StockQuoteMessage,
    StockTradeMessage,
)
from tests.feeds.polygon.wire import frame, quote, trade


class Reading:
    def __init__(self) -> None:
        self.tally = Tally()
        self.reader: FrameReader[StockMessage] = FrameReader(StockMessage, STOCK_KEYS, self.tally)

    def read(self, data: bytes) -> list[StockMessage]:
        return self.reader.read(data)


def test_a_mixed_frame_keeps_its_order() -> None:
    status = {"ev": "status", "status": "success", "message": "subscribed to: T.SPY"}
    messages = Reading().read(frame(quote(), status, trade(), quote()))
    assert [type(message) for message in messages] == [
        StockQuoteMessage,
        StatusMessage,
        StockTradeMessage,
        StockQuoteMessage,
    ]


def test_an_empty_frame_holds_nothing() -> None:
    reading = Reading()
    assert reading.read(b"[]") == []
    assert reading.tally.take() == ({}, {}, ())


@pytest.mark.parametrize(
    ("element", "cause"),
    [
        (trade(t=5), Skip.TIME),
        (trade(t=1_786_649_956_459_000_000), Skip.TIME),
        (trade(t=...), Skip.TIME),
        (trade(t=[]), Skip.TIME),
        (trade(p=...), Skip.PRICE),
        (trade(p=None), Skip.PRICE),
        (trade(p=-1), Skip.PRICE),
        (trade(p=0), Skip.PRICE),
        (quote(bp=-0.01), Skip.PRICE),
        (quote(ap="high"), Skip.PRICE),
        (trade(s=-1), Skip.SIZE),
        (trade(s=2**32), Skip.SIZE),
        (quote(bs=1.5), Skip.SIZE),
        (quote(as_=-1), Skip.SIZE),
        (trade(ds=[]), Skip.SIZE),
        (trade(sym=...), Skip.SYMBOL),
        (trade(sym=7), Skip.SYMBOL),
        (trade(c=[-1]), Skip.FIELD),
        (trade(q=2**63), Skip.FIELD),
        (trade(x=40_000), Skip.FIELD),
        (trade(ev="AM"), Skip.UNKNOWN_EV),
        (trade(ev=...), Skip.NOT_AN_EVENT),
        (trade(ev=5), Skip.NOT_AN_EVENT),
        (17, Skip.NOT_AN_EVENT),
        (None, Skip.NOT_AN_EVENT),
        ([trade()], Skip.NOT_AN_EVENT),
    ],
)
def test_a_bad_element_is_left_out_with_its_cause_and_costs_no_other(
    element: object, cause: Skip
) -> None:
    reading = Reading()
    messages = reading.read(frame(trade(q=1), element, quote(q=2)))
    assert [(type(message), getattr(message, "q", None)) for message in messages] == [
        (StockTradeMessage, 1),
        (StockQuoteMessage, 2),
    ]
    skipped, _, notices = reading.tally.take()
    assert skipped == {cause: 1}
    assert [notice.kind.split(":")[0] for notice in notices] == [cause]


@pytest.mark.parametrize(
    "bad",
    [
        b'{"ev":"T","sym":"SPY","p":NaN,"t":1786649956459}',
        b'{"ev":"T","sym":"SPY","p":Infinity,"t":1786649956459}',
        b'{"ev":"T","sym":"SPY","p":}',
        b'{"ev":"T","sym":"\xff","p":1,"t":1786649956459}',
        b'{"ev":"T","sym":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_an_element_that_is_no_json_costs_no_other(bad: bytes) -> None:
    reading = Reading()
    good = frame(trade())[1:-1]
    assert len(reading.read(b"[" + good + b" , " + bad + b"," + good + b"]")) == 2
    assert reading.tally.take()[0].keys() <= {Skip.NOT_JSON, Skip.SYMBOL}


def test_a_frame_cut_short_yields_the_elements_before_the_cut() -> None:
    reading = Reading()
    assert len(reading.read(frame(trade(), quote(), trade())[:-30])) == 2
    assert reading.tally.take()[0] == {Skip.NOT_JSON: 1}


def test_one_object_without_its_array_is_read() -> None:
    assert len(Reading().read(frame(trade())[1:-1])) == 1


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xfe", b"[tru", b'{"ev":"T"'])
def test_a_frame_that_is_no_json_is_one_counted_skip(data: bytes) -> None:
    reading = Reading()
    assert reading.read(data) == []
    assert reading.tally.take()[0] == {Skip.NOT_JSON: 1}


def test_a_frame_nested_too_deep_is_one_counted_skip() -> None:
    reading = Reading()
    assert reading.read(b"[" * 100_000 + b"]" * 100_000) == []
    assert sum(reading.tally.take()[0].values()) == 1


def test_malformed_frames_are_one_kind_wherever_they_break() -> None:
    reading = Reading()
    for cut in range(20, 60):
        reading.read(frame(trade(), trade())[:-cut])
    assert [notice.kind for notice in reading.tally.take()[2]] == ["not_json: DecodeError"]


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    reading = Reading()
    messages = reading.read(data)
    assert messages or data.strip() == b"[]" or reading.tally.take()[0]


def test_a_field_of_another_type_with_a_clear_value_is_read() -> None:
    reading = Reading()
    messages = reading.read(frame(trade(s=100.0, q="7", ds=100.5), quote(bs=320.0)))
    assert isinstance(messages[0], StockTradeMessage)
    assert (messages[0].s, messages[0].q, messages[0].ds) == (100, 7, 100.5)
    assert reading.tally.take()[0] == {}


def test_keys_without_a_place_in_a_record_cost_nothing_whatever_they_hold() -> None:
    reading = Reading()
    odd = trade(i=143541, z="A", trfi=[], trft=None)
    assert len(reading.read(frame(odd, quote(i="604", c=1)))) == 2
    assert reading.tally.take() == ({}, {}, ())


def test_an_unknown_key_is_tolerated_counted_and_told_once_with_a_sample() -> None:
    reading = Reading()
    assert len(reading.read(frame(trade(zz=1), trade(zz=2), quote(zz=3)))) == 3
    skipped, oddities, notices = reading.tally.take()
    assert skipped == {}
    assert oddities == {Oddity.UNKNOWN_KEY: 3}
    assert [notice.kind for notice in notices] == ["unknown_key: T.zz", "unknown_key: Q.zz"]
    assert "'zz': 1" in notices[0].text


def test_a_key_that_appears_later_is_noticed_within_an_audit() -> None:
    reading = Reading()
    for _ in range(5):
        reading.read(frame(trade()))
    for _ in range(AUDIT_EVERY):
        reading.read(frame(trade(zz=1)))
    assert reading.tally.take()[1] == {Oddity.UNKNOWN_KEY: 1}


def test_each_kind_is_told_once_and_counted_always() -> None:
    reading = Reading()
    reading.read(frame(trade(ev="A"), trade(ev="A"), trade(ev="AM")))
    assert len(reading.tally.take()[2]) == 2
    reading.read(frame(trade(ev="A")))
    skipped, _, notices = reading.tally.take()
    assert skipped == {Skip.UNKNOWN_EV: 1}
    assert notices == ()


def test_the_kinds_that_are_told_are_bounded() -> None:
    tally = Tally()
    for number in range(MAX_KINDS + 10):
        tally.skip(Skip.UNKNOWN_EV, str(number), b"{}")
    skipped, _, notices = tally.take()
    assert (skipped[Skip.UNKNOWN_EV], len(notices)) == (MAX_KINDS + 10, MAX_KINDS)


def test_a_long_sample_is_shortened() -> None:
    tally = Tally()
    tally.skip(Skip.NOT_JSON, "x", b"y" * 10_000)
    (notice,) = tally.take()[2]
    assert notice.text.endswith("y\N{HORIZONTAL ELLIPSIS}")
    assert notice.text.count("y") == SAMPLE_CHARS - 1


def test_what_was_taken_stays_as_it_was() -> None:
    tally = Tally()
    tally.skip(Skip.PRICE, "x", b"")
    taken = tally.take()
    tally.skip(Skip.PRICE, "x", b"")
    assert taken[0] == {Skip.PRICE: 1}
    assert tally.take()[0] == {Skip.PRICE: 1}
