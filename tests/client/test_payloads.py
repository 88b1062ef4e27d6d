from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from ingestor.client import BadMessageError, Message, UnknownSubjectError, decode
from ingestor.encode.reference import payloads
from ingestor.model.blocks import Block, whole_block
from ingestor.model.events import MBP10, Aggressor, FuturesTrade, Level, OptionTrade, events_of
from tests import strategies
from tests.client.streams import DEPTH, TRADES, as_json, depth, packed, trades
from tests.encode import examples
from tests.encode.examples import block_of

FUTURES_TRADE = examples.CONTRACT[3].payload


@pytest.mark.parametrize("message", examples.CONTRACT, ids=lambda message: message.subject)
def test_json_and_records_give_the_same_event(message: examples.Example) -> None:
    expected = list(events_of(block_of(message.record, message.source)))
    assert decode(Message(message.subject, 1, message.payload)) == expected


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(strategies.sound_blocks())
def test_json_and_records_give_the_same_events_whatever_they_hold(block: Block) -> None:
    messages = payloads(whole_block(block))
    from_json = [event for subject, json in messages for event in decode(Message(subject, 1, json))]
    assert from_json == list(events_of(block))


def test_a_trade_has_the_fields_types() -> None:
    (event,) = decode(Message(TRADES, 1, FUTURES_TRADE))
    assert isinstance(event, FuturesTrade)
    assert event.aggressor is Aggressor.BUY
    assert (event.price, event.size, event.exchange, event.conditions) == (6870.0, 27, "CME", None)


def test_a_book_has_ten_levels_best_first() -> None:
    (event,) = decode(Message(DEPTH, 1, examples.CONTRACT[4].payload))
    assert isinstance(event, MBP10)
    assert event.levels[0] == Level(6869.5, 85, 6869.75, 144)
    assert event.levels[1:] == (Level(None, 0, None, 0),) * 9


def test_an_option_is_known_by_its_parts() -> None:
    (event,) = decode(Message("market.options.trades", 1, examples.CONTRACT[2].payload))
    assert isinstance(event, OptionTrade)
    assert (event.underlying, event.exp_date, event.right) == ("SPY", "2025-12-16", "C")
    assert event.opt_bid is None


@pytest.mark.parametrize(("subject", "rows"), [(TRADES, trades(5)), (DEPTH, depth(5))])
def test_packed_and_json_give_the_same_events(subject: str, rows: object) -> None:
    ((_, payload),) = packed(rows)  # type: ignore[arg-type]
    one_by_one = [
        event
        for subject, json in as_json(rows)  # type: ignore[arg-type]
        for event in decode(Message(subject, 1, json))
    ]
    assert decode(Message(subject, 1, payload)) == one_by_one
    assert len(one_by_one) == 5


def test_a_key_that_a_later_publisher_adds_is_passed_over() -> None:
    payload = FUTURES_TRADE[:-1] + b',"venue_note":"x"}'
    assert decode(Message(TRADES, 1, payload)) == decode(Message(TRADES, 1, FUTURES_TRADE))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no FuturesTrade"),
        (b"[]", "object"),
        (b"\xff\xfe", "no FuturesTrade"),
        (FUTURES_TRADE[:-1], "truncated"),
        (FUTURES_TRADE.replace(b'"seq":1', b'"seq":"1"'), "seq"),
        (FUTURES_TRADE.replace(b',"seq":1', b""), "seq"),
        (FUTURES_TRADE.replace(b'"aggressor":1', b'"aggressor":2'), "aggressor"),
        (b"\xabMDP", "packed message"),
        (packed(trades(2))[0][1][:-1], "packed message"),
        (packed(depth(1))[0][1], "MBP10"),
    ],
)
def test_a_bad_message_is_named_by_subject_and_sequence(payload: bytes, reason: str) -> None:
    with pytest.raises(BadMessageError, match=reason) as caught:
        decode(Message(TRADES, 42, payload))
    assert (caught.value.subject, caught.value.seq) == (TRADES, 42)
    assert "message 42 on market.futures.trades" in str(caught.value)


def test_a_book_of_nine_levels_is_bad() -> None:
    nine = examples.CONTRACT[4].payload.replace(b',{"bid_px":null', b',#{"bid_px":null', 1)
    head, _, tail = nine.partition(b",#")
    payload = head + tail[tail.index(b"}") + 1 :]
    with pytest.raises(BadMessageError, match="length >= 10"):
        decode(Message(DEPTH, 1, payload))


def test_an_unknown_subject_is_an_error_of_its_own() -> None:
    with pytest.raises(UnknownSubjectError, match=r"known are market\.stocks\.trades") as caught:
        decode(Message("market.bonds.trades", 7, FUTURES_TRADE))
    assert caught.value.seq == 7


def test_events_need_no_garbage_collection() -> None:
    (event,) = events_of(whole_block(block_of(trades(1))).blocks[0])
    assert type(event).__struct_config__.gc is False


@pytest.mark.parametrize("name", ["ts_event_ns", "ts_recv_ns"])
def test_a_time_beyond_int64_is_bad_and_the_last_one_within_is_not(name: str) -> None:
    def with_time(ts_ns: int) -> bytes:
        fields = msgspec.json.decode(FUTURES_TRADE) | {name: ts_ns}
        return msgspec.json.encode(fields)

    (event,) = decode(Message(TRADES, 1, with_time(2**63 - 1)))
    assert getattr(event, name) == 2**63 - 1
    for ts_ns in (2**63, -1):
        with pytest.raises(BadMessageError):
            decode(Message(TRADES, 1, with_time(ts_ns)))
