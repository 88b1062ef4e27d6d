from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestor.encode import json_records
from ingestor.encode.json_records import EXACT_BELOW, check_record, read_rows, records_of
from ingestor.encode.reference import payloads
from ingestor.model.blocks import Block, whole_block
from ingestor.model.errors import BadDataError
from ingestor.model.events import MAX_PRICE, read_json
from ingestor.model.records import EVENT_TYPES, MAX_CONDITIONS, Records, RType
from ingestor.model.units import PRICE_SCALE, UNDEF_PRICE, price_text
from tests import strategies
from tests.encode import examples
from tests.encode.examples import block_of, record

MOST_UNITS = int(MAX_PRICE * PRICE_SCALE)
EXACT_UNITS = int(EXACT_BELOW * PRICE_SCALE)


def from_json(subject: str, *messages: bytes) -> tuple[Records, dict[int, str]]:
    events = [read_json(subject.encode(), message) for message in messages]
    for event in events:
        check_record(event)
    (kind,) = (kind for kind in EVENT_TYPES if kind.subject == subject)
    return records_of(kind, events, messages)


def changed(index: int, **fields: Any) -> tuple[str, bytes]:
    """The contract's example message with other values."""
    subject, _, _, payload = examples.CONTRACT[index]
    return subject, msgspec.json.encode(msgspec.json.decode(payload) | fields)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(strategies.sound_blocks())
def test_records_from_json_say_the_same_json_again(block: Block) -> None:
    for subject, payload in payloads(whole_block(block)):
        records, symbols = from_json(subject, payload)
        again = whole_block(Block(0, records, symbols, block.source))
        assert list(payloads(again)) == [(subject, payload)]


@pytest.mark.parametrize("message", examples.CONTRACT, ids=lambda message: message.subject)
def test_what_json_carries_comes_back_as_it_was(message: examples.Example) -> None:
    records, symbols = from_json(message.subject, message.payload, message.payload)
    expected = np.repeat(message.record, 2)
    expected["instrument_id"] = 1
    if message.subject.endswith("options.trades"):
        expected["exchange"] = -1
    if message.subject.endswith("mbp10"):
        expected["publisher_id"] = 0
        expected["levels"]["bid_ct"] = expected["levels"]["ask_ct"] = 0
    assert records.tobytes() == expected.tobytes()
    assert symbols == {1: examples.SYMBOLS[int(message.record["instrument_id"][0])]}


@given(st.integers(-MOST_UNITS, MOST_UNITS))
@example(EXACT_UNITS)
@example(EXACT_UNITS - 1)
@example(-EXACT_UNITS + 1)
@example(1)
@example(MOST_UNITS)
@example(-MOST_UNITS)
def test_every_price_comes_back_exactly(price_e9: int) -> None:
    subject, payload = next(
        payloads(whole_block(block_of(record(RType.STOCK_TRADE, price_e9=price_e9))))
    )
    records, _ = from_json(subject, payload)
    assert records["price_e9"].tolist() == [price_e9]


@given(st.integers(-EXACT_UNITS + 1, EXACT_UNITS - 1))
@example(EXACT_UNITS - 1)
def test_rounding_a_double_is_exact_below_the_bound(price_e9: int) -> None:
    assert round(float(price_text(price_e9)) * PRICE_SCALE) == price_e9


def test_rounding_a_double_is_not_exact_for_ever() -> None:
    beyond = 4 * EXACT_UNITS + 1
    assert round(float(price_text(beyond)) * PRICE_SCALE) != beyond


def test_one_large_price_makes_all_of_its_batch_exact() -> None:
    prices = [5_123_456_789_012_345_679, 1, UNDEF_PRICE]
    rows = np.concatenate([record(RType.STOCK_QUOTE, bid_px_e9=price) for price in prices])
    messages = [payload for _, payload in payloads(whole_block(block_of(rows)))]
    records, _ = from_json("market.stocks.quotes", *messages)
    assert records["bid_px_e9"].tolist() == prices


@pytest.mark.parametrize("beside", ["5.0", "3000000.5"])
@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("3000000", 3_000_000 * PRICE_SCALE),
        ("3", 3 * PRICE_SCALE),
        ("3e6", 3_000_000 * PRICE_SCALE),
        ("0.1234567891", 123_456_789),
        ("-0.0", 0),
        ("1" + "0" * 5 + "." + "0" * 5000, 100_000 * PRICE_SCALE),
    ],
)
def test_a_price_means_the_same_whatever_is_beside_it(text: str, units: int, beside: str) -> None:
    payload = examples.CONTRACT[0].payload
    messages = [payload.replace(b"686.01", price.encode()) for price in (text, beside)]
    records, _ = from_json("market.stocks.trades", *messages)
    assert records["price_e9"][0] == units
    event: Any = read_json(b"market.stocks.trades", messages[0])
    assert event.price * PRICE_SCALE == pytest.approx(units, abs=1)


def test_messages_are_read_with_exact_prices_where_there_is_no_compiled_reader() -> None:
    subject, payload = changed(0, price=3_000_000.5)
    (rows,) = read_rows([(subject.encode(), b"", payload)], parser=None).rows
    assert rows.records["price_e9"].tolist() == [3_000_000_500_000_000]


@pytest.mark.parametrize(
    ("price_e9", "decimals"),
    [(EXACT_UNITS - 1, 0), (EXACT_UNITS, 1), (-EXACT_UNITS + 1, 0), (-EXACT_UNITS, 1)],
)
def test_a_price_that_reaches_the_bound_is_read_as_a_decimal(
    price_e9: int, decimals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exactly, read = json_records._prices_of_decimals, list[Any]()

    def noted(prices: list[Any]) -> Any:
        read.extend(prices)
        return exactly(prices)

    monkeypatch.setattr(json_records, "_prices_of_decimals", noted)
    rows = record(RType.STOCK_TRADE, price_e9=price_e9)
    ((subject, payload),) = payloads(whole_block(block_of(rows)))
    records, _ = from_json(subject, payload)
    assert (records["price_e9"].tolist(), len(read)) == ([price_e9], decimals)


def test_a_large_book_is_exact_in_all_its_levels() -> None:
    prices = [5_123_456_789_012_345_679, 7, UNDEF_PRICE]
    rows = np.repeat(examples.MBP10, 3)
    rows["levels"]["bid_px_e9"][:, 0] = rows["price_e9"] = prices
    messages = [payload for _, payload in payloads(whole_block(block_of(rows)))]
    records, _ = from_json("market.futures.mbp10", *messages)
    assert records["levels"]["bid_px_e9"][:, 0].tolist() == records["price_e9"].tolist() == prices


def test_symbols_are_numbered_in_the_order_they_come() -> None:
    messages = [changed(0, symbol=symbol)[1] for symbol in ("QQQ", "SPY", "QQQ")]
    records, symbols = from_json("market.stocks.trades", *messages)
    assert records["instrument_id"].tolist() == [1, 2, 1]
    assert symbols == {1: "QQQ", 2: "SPY"}


def test_no_events_make_no_records() -> None:
    records, symbols = from_json("market.futures.mbp10")
    assert len(records) == 0
    assert not symbols


@pytest.mark.parametrize(
    ("index", "fields", "reason"),
    [
        (0, {"size": 2**32}, "size"),
        (0, {"exchange": 2**15}, "exchange"),
        (0, {"conditions": [1] * (MAX_CONDITIONS + 1)}, "conditions"),
        (0, {"conditions": [2**16]}, "conditions"),
        (0, {"ts_event_ns": -1}, "ts_event_ns"),
        (0, {"ts_recv_ns": 2**63}, "ts_recv_ns"),
        (0, {"seq": 2**64 - 1}, "beyond 64 bits"),
        (0, {"symbol": "x" * 72}, "symbol"),
        (0, {"symbol": "é" * 36}, "symbol"),
        (0, {"symbol": "S\0PY"}, "symbol"),
        (0, {"symbol": ""}, "symbol"),
        (2, {"option_symbol": "SPY"}, "ticker"),
        (2, {"strike": 687.0}, "SPY251216C00686000 says"),
        (4, {"action": "abc"}, "action"),
        (4, {"seq": 2**32}, "seq"),
        (0, {"price": 1e300}, "price"),
        (0, {"price": 2**63}, "price"),
        (0, {"price": 9_223_372_036.854_776}, "price"),
        (3, {"seq": None}, "seq is null"),
        (4, {"action_size": -1}, "size"),
        (
            4,
            {"levels": [{"bid_px": 1.0, "bid_sz": 2**32, "ask_px": 2.0, "ask_sz": 1}] * 10},
            "bid_sz",
        ),
    ],
)
def test_what_does_not_fit_a_record_is_refused_not_wrapped(
    index: int, fields: dict[str, Any], reason: str
) -> None:
    subject, payload = changed(index, **fields)
    with pytest.raises(BadDataError, match=reason):
        from_json(subject, payload)
