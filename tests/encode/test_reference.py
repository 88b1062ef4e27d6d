from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.encode.reference import MAX_SEQUENCE, JsonEncoder, TableTexts, payloads
from ingestor.model import events
from ingestor.model.blocks import Block, Fence, Reply, Runs, Source, whole_block
from ingestor.model.bounds import MAX_JSON_EVENT_BYTES, MAX_SYMBOL_BYTES
from ingestor.model.errors import BadDataError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, RType
from ingestor.model.symbols import OPTION_ROOT_MAX_CHARS
from ingestor.model.units import UNDEF_PRICE
from tests import strategies
from tests.encode import examples, oracle
from tests.encode.examples import REPLY, Example, block_of, record, runs_with

ENCODER = JsonEncoder()


def payload_of(block: Block) -> bytes:
    ((_, payload),) = payloads(whole_block(block))
    return payload


@pytest.mark.parametrize("example", examples.CONTRACT, ids=lambda example: example.subject)
def test_an_example_of_the_contract_is_met_byte_for_byte(example: Example) -> None:
    runs = runs_with(example.record, example.source)

    assert list(payloads(runs)) == [(example.subject, example.payload)]


def test_a_frame_is_a_pub_with_padded_sequence_and_padded_length() -> None:
    example = examples.CONTRACT[3]

    frames = ENCODER.encode(runs_with(example.record), REPLY, 42, 1)

    assert frames.data == (
        b"PUB market.futures.trades _INBOX.abc.b1.500.fail.000000000042.1.$FI "
        + str(len(example.payload)).zfill(8).encode()
        + b"\r\n"
        + example.payload
        + b"\r\n"
    )
    assert frames.rows_stop.tolist() == [1]


def test_a_fenced_frame_says_which_sequence_it_is_to_follow_and_counts_that_in_its_length() -> None:
    example = examples.CONTRACT[3]
    rows = np.repeat(example.record, 5)

    frames = ENCODER.encode(runs_with(rows), Reply(b"r.", b".x", Fence(1000, 4)), 3, 5)

    length = len(example.payload)
    heads = [line for line in frames.data.split(b"\r\n") if line.startswith((b"PUB", b"HPUB"))]
    assert heads == [
        b"PUB market.futures.trades r.000000000003.x %08d" % length,
        b"PUB market.futures.trades r.000000000004.x %08d" % length,
        b"HPUB market.futures.trades r.000000000005.x 59 %08d" % (59 + length),
        b"PUB market.futures.trades r.000000000006.x %08d" % length,
        b"PUB market.futures.trades r.000000000007.x %08d" % length,
    ]
    header = b"NATS/1.0\r\nNats-Expected-Last-Sequence: 0000000000001004\r\n\r\n"
    assert frames.data.count(header + example.payload + b"\r\n") == 1


@given(runs=strategies.runs(), first=st.integers(0, 10**12 - 100))
def test_every_row_is_what_a_naive_writer_of_the_contract_writes(runs: Runs, first: int) -> None:
    frames = ENCODER.encode(runs, REPLY, first, 10**6)

    assert frames.data == oracle.frames(runs, REPLY, first)
    assert frames.rows_stop.tolist() == list(range(1, len(runs) + 1))


@given(runs=strategies.runs(), limit=st.integers(-1, 10))
def test_two_calls_with_a_limit_make_the_bytes_of_one(runs: Runs, limit: int) -> None:
    first = ENCODER.encode(runs, REPLY, 1, limit)
    _, rest = runs.split(first.messages)
    second = ENCODER.encode(rest, REPLY, 1 + first.messages, 10**6)

    assert first.messages == min(max(limit, 0), len(runs))
    assert first.data + second.data == ENCODER.encode(runs, REPLY, 1, 10**6).data


@settings(max_examples=50)
@given(block=strategies.sound_blocks())
def test_a_decoded_message_is_the_event_object_of_its_record(block: Block) -> None:
    kinds = {kind.subject: getattr(events, kind.name) for kind in EVENT_TYPE_BY_RTYPE.values()}

    decoded = [
        msgspec.json.decode(payload, type=kinds[subject])
        for subject, payload in payloads(whole_block(block))
    ]

    assert decoded == list(events.events_of(block))


@pytest.mark.parametrize(
    ("price_e9", "text"),
    [
        (0, b"0.0"),
        (1, b"0.000000001"),
        (-1, b"-0.000000001"),
        (10_000_000, b"0.01"),
        (100_000_000, b"0.1"),
        (6_012_000_000_000, b"6012.0"),
        (-37_630_000_000, b"-37.63"),
        (2**63 - 2, b"9223372036.854775806"),
        (-(2**63), b"-9223372036.854775808"),
    ],
)
def test_a_price_is_the_exact_decimal_and_has_a_decimal_point(price_e9: int, text: bytes) -> None:
    row = record(RType.STOCK_TRADE, price_e9=price_e9)

    assert b'"price":' + text + b',"size"' in payload_of(block_of(row))


def test_an_empty_level_has_size_0_whatever_the_record_holds() -> None:
    row = record(RType.MBP10, levels=examples.book((UNDEF_PRICE, 5_000_000_000, 7, 9)))

    assert b'"levels":[{"bid_px":null,"bid_sz":0,"ask_px":5.0,"ask_sz":9},' in payload_of(
        block_of(row)
    )


@pytest.mark.parametrize(("action", "side"), [("N", "Z"), ("\0", "\0"), ('"', '"')])
def test_an_unknown_action_or_side_is_null(action: str, side: str) -> None:
    row = record(RType.MBP10, action=ord(action), side=ord(side))

    assert b'"action":null,"side":null' in payload_of(block_of(row))


def test_stocks_without_conditions_have_an_empty_list_and_futures_have_null() -> None:
    assert b'"conditions":[],' in payload_of(block_of(record(RType.STOCK_TRADE)))
    assert b'"conditions":null,' in payload_of(block_of(record(RType.FUTURES_TRADE)))


@pytest.mark.parametrize(
    ("publisher_id", "exchange"),
    [(1, b'"CME"'), (2, b'"XNAS"'), (30, b'"OPRA"'), (57, b'"IFEU"'), (107, b'"OCEA"')]
    + [(number, b"null") for number in (0, 108, 65_535)],
)
def test_an_exchange_is_the_venue_of_the_publisher(publisher_id: int, exchange: bytes) -> None:
    row = record(RType.FUTURES_TRADE, publisher_id=publisher_id)

    assert b'"exchange":' + exchange + b"," in payload_of(block_of(row))


def test_an_aggressor_outside_the_three_is_unknown() -> None:
    row = record(RType.STOCK_TRADE, aggressor=-5)

    assert payload_of(block_of(row)).endswith(b'"aggressor":0}')


def test_an_instrument_that_the_table_does_not_list_is_its_id_as_text() -> None:
    row = record(RType.FUTURES_TRADE, instrument_id=99)

    assert b'"symbol":"99"' in payload_of(block_of(row))


def test_trades_and_quotes_mixed_in_one_array_keep_their_order() -> None:
    trade, quote = examples.STOCK_TRADE, examples.STOCK_QUOTE
    mixed = np.concatenate([trade, quote.view(trade.dtype), trade])

    subjects = [subject for subject, _ in payloads(runs_with(mixed))]

    assert subjects == ["market.stocks.trades", "market.stocks.quotes", "market.stocks.trades"]


def test_a_live_and_a_replayed_event_differ_in_source_only() -> None:
    live, replayed = (
        payload_of(block_of(examples.STOCK_TRADE, source))
        for source in (Source.POLYGON_WS, Source.REPLAY)
    )

    assert live.replace(b"polygon_ws", b"replay") == replayed


def test_an_option_whose_symbol_is_no_ticker_is_refused() -> None:
    runs = runs_with(record(RType.OPTION_TRADE, instrument_id=1))

    with pytest.raises(BadDataError, match="'SPY' is not an option ticker"):
        ENCODER.encode(runs, REPLY, 1, 1)


def test_a_symbol_that_is_no_text_is_refused() -> None:
    block = Block(0, record(RType.STOCK_TRADE), {0: "\ud800"}, Source.SIM)

    with pytest.raises(BadDataError, match="UTF-8"):
        ENCODER.encode(whole_block(block), REPLY, 1, 1)


@pytest.mark.parametrize("rtype", [0x55, RType.OPTION_TRADE, RType.MBP10])
def test_a_record_that_is_not_as_long_as_its_rtype_says_is_refused(rtype: int) -> None:
    row = record(RType.STOCK_TRADE)
    row["rtype"] = rtype

    with pytest.raises(BadDataError, match="in 64 bytes"):
        ENCODER.encode(runs_with(row), REPLY, 1, 1)


def test_the_last_sequence_of_twelve_digits_is_used_and_no_further_one() -> None:
    runs = runs_with(examples.FUTURES_TRADE)

    assert b".999999999999." in ENCODER.encode(runs, REPLY, MAX_SEQUENCE, 1).data
    with pytest.raises(ValueError, match="12 digits"):
        ENCODER.encode(runs, REPLY, MAX_SEQUENCE + 1, 1)


def test_a_message_is_no_longer_than_the_server_takes() -> None:
    runs = runs_with(examples.MBP10)
    ((_, payload),) = payloads(runs)
    encoder = JsonEncoder()

    encoder.max_payload_bytes = len(payload)
    assert payload in encoder.encode(runs, REPLY, 1, 1).data
    encoder.max_payload_bytes -= 1
    with pytest.raises(BadDataError, match=f"{len(payload)} bytes, and the server takes"):
        encoder.encode(runs, REPLY, 1, 1)


@pytest.mark.parametrize("rtype", list(RType))
def test_the_longest_event_is_within_what_every_server_must_take(rtype: RType) -> None:
    rows = np.full(EVENT_TYPE_BY_RTYPE[rtype].dtype.itemsize, 0x80, np.uint8)
    record_of = rows.view(EVENT_TYPE_BY_RTYPE[rtype].dtype)
    record_of["rtype"], record_of["instrument_id"] = rtype, 1
    root = "\x01" * OPTION_ROOT_MAX_CHARS
    symbol = (
        f"O:{root}251216C00686000" if rtype == RType.OPTION_TRADE else "\x01" * MAX_SYMBOL_BYTES
    )

    assert len(payload_of(Block(0, record_of, {1: symbol}, Source.POLYGON_WS))) < (
        MAX_JSON_EVENT_BYTES
    )


def test_what_was_made_of_a_table_is_found_again() -> None:
    kept, table = TableTexts(), {1: "SPY"}
    kept.of(table)[1] = b"made"

    assert kept.of(table) == {1: b"made"}


def test_an_equal_table_is_another_table() -> None:
    kept, one, other = TableTexts(), {1: "SPY"}, {1: "SPY"}
    kept.of(one)[1] = b"made"

    assert kept.of(other) == {}
    assert kept.of(one) == {1: b"made"}


def test_a_table_that_is_gone_leaves_nothing_to_one_at_its_place() -> None:
    kept = TableTexts()
    for number in range(100):
        texts = kept.of({1: f"{number}"})
        assert texts == {}
        texts[1] = b"made"


def test_texts_and_tables_are_bounded() -> None:
    kept = TableTexts(texts=100, tables=3)
    tables: list[dict[int, str]] = [{} for _ in range(10)]
    for number in range(1_000):
        kept.of(tables[number % 10])[number] = b""
        kept.of(tables[0])[-number] = b""
        assert len(kept) <= 102
        assert len(kept._kept) <= 3


def test_what_is_forgotten_stays_with_whoever_holds_it() -> None:
    kept, table = TableTexts(texts=2), {1: "A", 2: "B"}
    held = kept.of(table)
    held.update({1: b"a", 2: b"b"})

    assert kept.of(table) == {}
    assert held == {1: b"a", 2: b"b"}
