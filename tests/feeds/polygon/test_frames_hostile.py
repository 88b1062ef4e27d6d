"""Frames of a vendor that sends anything: nothing raises, all is in bounds, neighbours survive."""

from __future__ import annotations

import json
import resource
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.encode.reference import payloads
from ingestor.feeds.polygon.decode import Decoded, OptionDecoder, StockDecoder, whole_shares
from ingestor.feeds.polygon.frames import PIECE_BYTES, Oddity, Skip, pieces
from ingestor.feeds.polygon.messages import MAX_MS, MAX_PRICE
from ingestor.model.blocks import Block, Source, whole_block
from ingestor.model.bounds import MAX_SYMBOL_BYTES, MAX_TIME_NS, printable
from ingestor.model.records import STOCK_QUOTE, RType
from ingestor.model.units import UNDEF_PRICE
from tests.feeds.polygon.wire import (
    CONTRACT,
    MS,
    RECV_NS,
    frame,
    option_quote,
    option_trade,
    quote,
    trade,
)

FLOOD_BYTES = 2 * 1024 * 1024
KEYS = ("ev", "sym", "p", "s", "ds", "t", "pt", "q", "x", "c", "bp", "ap", "bs", "as", "i", "z")
NUMBERS = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from((10**19, -(10**19), 2**63, 2**64, 10**400, MAX_MS, MAX_MS - 1, 1e308, 5e-324))
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.sampled_from(("T", "Q", "status", "SPY")),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=6,
)
BASES = (trade(), quote(), option_trade(), option_quote(), {"ev": "status", "status": "x"})


@st.composite
def elements(draw: st.DrawFn) -> bytes:
    """A sound element with some fields that hold anything, or anything at all, or a raw mess."""
    element: Any = dict(draw(st.sampled_from(BASES)))
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3)):
        element[key] = draw(VALUES)
    text = json.dumps(draw(st.just(element) | VALUES), ensure_ascii=draw(st.booleans()))
    data = text.encode(errors="surrogatepass")
    mess = draw(
        st.sampled_from((b"", b"", b"", b"\xff", b"NaN", b"1e400", b'"\\ud800"', b"9" * 5000))
    )
    if mess:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + mess + data[at:]
    return data


def in_bounds(decoded: Decoded, table: dict[int, str]) -> None:
    records = decoded.records
    assert all(0 < len(symbol.encode()) <= MAX_SYMBOL_BYTES for symbol in table.values())
    assert set(records["instrument_id"].tolist()) <= table.keys()
    assert all(0 < ns <= MAX_TIME_NS for ns in records["ts_event_ns"].tolist())
    top = MAX_PRICE * 10**9
    for row in records:
        if row["rtype"] == RType.STOCK_QUOTE:
            sides = row.reshape(1).view(STOCK_QUOTE)[0]
            for name in ("bid_px_e9", "ask_px_e9"):
                assert sides[name] == UNDEF_PRICE or 0 < sides[name] <= top
        else:
            assert 0 < row["price_e9"] <= top
    block = Block(0, records, table, Source.POLYGON_WS)
    if len(records):
        assert len(list(payloads(whole_block(block)))) == len(records)


@settings(max_examples=150, deadline=None)
@given(st.lists(elements(), max_size=4), st.sampled_from((0, 1, 17)), st.booleans())
def test_any_frame_is_taken_and_its_sound_elements_survive(
    bad: list[bytes], cut: int, gated: bool
) -> None:
    for decoder, sound in (
        (StockDecoder(), frame(trade(q=7, sym="A"))[1:-1]),
        (OptionDecoder(("SPY",)), frame(option_trade(q=7))[1:-1]),
    ):
        if gated:
            decoder.begin_connection()
            decoder.ask(("T.*", "Q.*"))
        data = b"[" + b",".join([sound, *bad, sound]) + b"]"
        decoded = decoder.decode(data[: len(data) - cut], RECV_NS)
        in_bounds(decoded, decoder.instruments.table)
        broken = any(piece.count(b'"') % 2 or b"\\" in piece for piece in bad)
        if not cut and not broken:
            assert (decoded.records["sequence"] == 7).sum() >= 2
        assert all(len(notice.text) < 1_000 for notice in decoded.notices)
        assert all(notice.text == printable(notice.text, 1_000) for notice in decoded.notices)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_frame_is_nothing_raises(data: bytes) -> None:
    for decoder in (StockDecoder(), OptionDecoder(("SPY",))):
        in_bounds(decoder.decode(data, RECV_NS), decoder.instruments.table)


def decoded(*raw: str) -> Decoded:
    """Elements as raw JSON between two sound trades."""
    good = json.dumps(trade())
    data = f"[{','.join((good, *raw, good))}]".encode(errors="surrogatepass")
    result = StockDecoder().decode(data, RECV_NS)
    assert len(result.records) >= 2
    return result


def with_field(name: str, raw: str) -> str:
    plain = {key: value for key, value in trade().items() if key != name}
    return f'{json.dumps(plain)[:-1]},"{name}":{raw}}}'


@pytest.mark.parametrize(
    ("field", "raw", "cause"),
    [
        ("t", str(MAX_MS), Skip.TIME),
        ("t", str(10**13 - 1), Skip.TIME),
        ("t", "9" * 5_000, Skip.TIME),
        ("t", "1e400", Skip.TIME),
        ("t", "-1", Skip.TIME),
        ("pt", str(10**30), Skip.TIME),
        ("pt", "9" * 5_000, Skip.TIME),
        ("sym", '""', Skip.SYMBOL),
        ("sym", json.dumps("A" * 72), Skip.SYMBOL),
        ("sym", json.dumps("\u00e9" * 36), Skip.SYMBOL),
        ("sym", json.dumps("A" * 100_000), Skip.SYMBOL),
        ("sym", json.dumps("A" * 5_000_000), Skip.NOT_JSON),
        ("sym", '"\\ud800"', Skip.NOT_JSON),
        ("p", "1e400", Skip.PRICE),
        ("p", "NaN", Skip.NOT_JSON),
        ("p", "9" * 5_000, Skip.PRICE),
        ("s", "4294967296", Skip.SIZE),
        ("s", "-1", Skip.SIZE),
        ("q", "9" * 5_000, Skip.FIELD),
        ("c", "[70000]", Skip.FIELD),
        ("i", "[" * 5_000 + "]" * 5_000, Skip.NOT_JSON),
    ],
)
def test_what_is_out_of_bounds_costs_its_element_and_is_counted_by_cause(
    field: str, raw: str, cause: Skip
) -> None:
    result = decoded(with_field(field, raw))
    assert (len(result.records), result.skipped) == (2, {cause: 1})


@pytest.mark.parametrize("symbol", ["A" * 71, "\u00e9" * 35 + "A", "A\x00B", "A\nB", "\U0001f600"])
def test_symbols_within_the_bound_pass_whatever_they_hold(symbol: str) -> None:
    decoder = StockDecoder()
    result = decoder.decode(frame(trade(sym=symbol, t=MAX_MS - 1)), RECV_NS)
    assert decoder.instruments.table == {0: symbol}
    in_bounds(result, decoder.instruments.table)
    block = whole_block(Block(0, result.records, decoder.instruments.table, Source.SIM))
    assert len(list(payloads(block))) == 1


def test_the_last_of_duplicate_keys_holds() -> None:
    assert decoded(with_field("p", '7.5,"p":8.5')).records["price_e9"][1] == 8_500_000_000


@pytest.mark.parametrize("text", ["1e999999999", "1" * 1_000_000, "1e-999999999", "-1e99", "0x1"])
def test_a_size_in_words_burns_no_time(text: str) -> None:
    begun = time.process_time()
    assert whole_shares(40, text) in (40, 0)
    assert time.process_time() - begun < 0.1


def test_events_with_a_price_beyond_nine_decimals_are_counted() -> None:
    result = StockDecoder().decode(
        frame(trade(p=1.1234567891), quote(bp=0.1 + 0.2, ap=0.70000000000001), quote()), RECV_NS
    )
    assert result.oddities == {Oddity.PRICE_ROUNDED: 2}
    assert result.notices == ()


FLOODS = {
    "numbers": b"1",
    "objects": b"{}",
    "lists": b"[]",
    "strings": b'"x"',
    "pairs": b'{"a":1}',
    "unknown": b'{"ev":"X","a":"aaaaaaaaaaaaa"}',
    "foreign types": b'{"ev":"T","sym":5,"p":1,"t":1}',
    "broken": b'{"ev:"T"}',
    "statuses": b'{"ev":"status","status":"x"}',
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_long_frame_of_nothing_is_taken_in_short_steps_and_little_memory(kind: str) -> None:
    element, sound = FLOODS[kind], frame(trade())[1:-1]
    count = FLOOD_BYTES // (len(element) + 1)
    data = b"[" + b",".join([element] * count + [sound]) + b"]"
    decoder, records, longest_s = StockDecoder(), 0, 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for piece in pieces(data):
        begun = time.process_time()
        records += len(decoder.decode(piece, RECV_NS).records)
        longest_s = max(longest_s, time.process_time() - begun)
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert records == 1
    assert longest_s < 1.0
    assert grown_bytes < 32 * 1024 * 1024


def test_a_frame_decodes_alike_whole_and_in_pieces() -> None:
    data = frame(*(trade(q=number) for number in range(6_000)), {"ev": "X"}, quote(q=1))
    assert len(data) > PIECE_BYTES
    whole = StockDecoder().decode(data, RECV_NS)
    decoder = StockDecoder()
    cut = [decoder.decode(piece, RECV_NS) for piece in pieces(data)]
    assert len(cut) > 1
    assert b"".join(one.records.tobytes() for one in cut) == whole.records.tobytes()
    assert sum(sum(one.skipped.values()) for one in cut) == sum(whole.skipped.values()) == 1


def test_a_status_of_any_kind_costs_at_most_itself() -> None:
    for status in ('"message":null', '"message":[1]', '"message":5', f'"message":"{"x" * 10**6}"'):
        result = decoded(f'{{"ev":"status","status":"auth_success",{status}}}')
        assert [each.status for each in result.statuses] == ["auth_success"]
    assert decoded('{"ev":"status","status":5}').skipped == {Skip.FIELD: 1}


def test_before_anything_is_asked_for_nothing_is_taken_and_then_only_that() -> None:
    decoder = StockDecoder()
    decoder.begin_connection()
    data = frame(trade(), quote(), trade(sym="QQQ"), quote(sym="IWM"))
    assert decoder.decode(data, RECV_NS).skipped == {Skip.BEFORE_SUBSCRIPTION: 4}
    assert decoder.instruments.table == {}
    decoder.ask(("T.SPY", "Q.*"))
    result = decoder.decode(data, RECV_NS)
    assert (len(result.records), result.skipped) == (3, {Skip.NOT_SUBSCRIBED: 1})
    decoder.begin_connection()
    assert decoder.decode(data, RECV_NS).skipped == {Skip.BEFORE_SUBSCRIPTION: 4}


def test_a_decoder_that_knows_of_no_connection_takes_all() -> None:
    decoder = OptionDecoder(("SPY",))
    decoder.ask(("T.O:SPY260814C00000000",))
    assert len(decoder.decode(frame(option_trade()), RECV_NS).records) == 1


def test_options_that_were_not_asked_for_are_counted_quotes_too() -> None:
    decoder = OptionDecoder(("SPY",))
    decoder.begin_connection()
    decoder.ask((f"T.{CONTRACT}",))
    other = CONTRACT.replace("686", "700")
    data = frame(option_trade(), option_quote(), option_trade(sym=other))
    result = decoder.decode(data, RECV_NS)
    assert (len(result.records), result.skipped) == (1, {Skip.NOT_SUBSCRIBED: 2})
    assert result.records["opt_bid_e9"][0] == UNDEF_PRICE
    assert MS * 1_000_000 in result.records["ts_event_ns"]
