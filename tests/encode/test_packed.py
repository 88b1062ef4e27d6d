from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestor.encode.packed import (
    ENTRY,
    HEAD,
    MAGIC,
    MAX_ROW_BYTES,
    MAX_ROWS,
    MAX_SYMBOLS_READ,
    Head,
    PackedBlock,
    PackedEncoder,
    decode_packed,
    is_packed,
)
from ingestor.encode.reference import JsonEncoder, payloads
from ingestor.model import bounds
from ingestor.model.blocks import Block, Frames, Reply, Runs, Source, whole_block
from ingestor.model.errors import BadDataError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, EVENT_TYPES, Records, RType
from ingestor.model.units import UNDEF_PRICE
from tests import strategies
from tests.encode import examples
from tests.encode.examples import REPLY, block_of, record, runs_with

ENCODER = PackedEncoder()
ALL = 10**6


def messages(frames: Frames) -> list[tuple[str, str, bytes]]:
    """Take frames apart as a server does: (subject, reply, payload) of each."""
    found, at, data = [], 0, frames.data
    while at < len(data):
        end = data.index(b"\r\n", at)
        verb, subject, reply, size = data[at:end].decode().split(" ")
        at = end + 2 + int(size) + 2
        assert verb == "PUB"
        assert data[at - 2 : at] == b"\r\n"
        found.append((subject, reply, data[end + 2 : at - 2]))
    return found


def packed(runs: Runs) -> list[bytes]:
    return [payload for _, _, payload in messages(ENCODER.encode(runs, REPLY, 1, ALL))]


def one_message() -> bytes:
    (payload,) = packed(runs_with(np.repeat(examples.FUTURES_TRADE, 3)))
    return payload


def altered(payload: bytes, **fields: Any) -> bytes:
    head = Head(*HEAD.unpack_from(payload))._replace(**fields)
    return HEAD.pack(*head) + payload[HEAD.size :]


def with_table(*entries: tuple[int, bytes], count: int | None = None, pad: bytes = b"") -> bytes:
    """A message of one trade, instrument 17077, with this symbol table."""
    texts = b"futures.trades.v1" + b"sim"
    texts += b"".join(ENTRY.pack(number, len(text)) + text for number, text in entries) + pad
    texts += bytes(-(HEAD.size + len(texts)) % 8)
    symbols = len(entries) if count is None else count
    head = Head(MAGIC, 1, 0, 48, 1, HEAD.size + len(texts), symbols, 17, 3, 0)
    return HEAD.pack(*head) + texts + examples.FUTURES_TRADE.tobytes()


def with_time(at_ns: int, field: str = "ts_event_ns") -> bytes:
    """A message of three trades, one of them at this time."""
    rows = np.repeat(examples.FUTURES_TRADE, 3)
    rows[field][1] = at_ns
    (payload,) = packed(runs_with(rows))
    return payload


@given(runs=strategies.sound_runs(max_size=40), limit=st.integers(-1, 5) | st.just(ALL))
def test_decoded_messages_hold_the_rows_in_their_order(runs: Runs, limit: int) -> None:
    frames = ENCODER.encode(runs, REPLY, 1, limit)
    decoded = [decode_packed(payload) for *_, payload in messages(frames)]
    rows = [record.tobytes() for _, records in runs.pieces() for record in records]

    sent = [record.tobytes() for block in decoded for record in block.records]

    assert sent == rows[: len(sent)]
    assert frames.rows_stop.tolist() == np.cumsum([len(b.records) for b in decoded]).tolist()
    assert frames.messages <= max(limit, 0)
    assert frames.messages == limit or len(sent) == len(rows) or limit < 0


@given(runs=strategies.sound_runs(max_size=40))
def test_a_packed_stream_is_the_json_stream_in_fewer_messages(runs: Runs) -> None:
    blocks = [decode_packed(payload) for payload in packed(runs)]

    repacked = [
        message
        for block in blocks
        for message in payloads(
            whole_block(Block(0, block.records, block.symbols, block.source)),
        )
    ]

    assert repacked == list(payloads(runs))


def test_a_frame_has_the_subject_of_its_rows_and_the_next_sequence() -> None:
    trade, quote = examples.STOCK_TRADE, examples.STOCK_QUOTE
    mixed = np.concatenate([trade, trade, quote.view(trade.dtype), trade])

    frames = ENCODER.encode(runs_with(mixed), Reply(b"r.", b".x"), 7, ALL)

    assert [(subject, reply) for subject, reply, _ in messages(frames)] == [
        ("market.stocks.trades", "r.000000000007.x"),
        ("market.stocks.quotes", "r.000000000008.x"),
        ("market.stocks.trades", "r.000000000009.x"),
    ]
    assert frames.rows_stop.tolist() == [2, 3, 4]


def test_the_layout_is_what_its_page_says() -> None:
    payload = one_message()

    assert payload[:4] == b"\xabMDP"
    assert struct.unpack_from("<BBHIII", payload, 4) == (1, 0x00, 48, 3, 64, 1)
    assert struct.unpack_from("<BBH", payload, 20) == (17, 6, 0)
    assert payload[24:41] == b"futures.trades.v1"
    assert payload[41:47] == b"replay"
    assert payload[47:58] == struct.pack("<IB", 17077, 6) + b"ES.c.0"
    assert len(payload) == 64 + 3 * 48


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.name)
def test_every_event_type_round_trips_with_its_symbols_and_source(kind: Any) -> None:
    rows = record(kind.rtype, instrument_id=2)

    (payload,) = packed(runs_with(rows, Source.DIRECT_FEED))
    decoded = decode_packed(payload)

    assert decoded.event_type is kind
    assert decoded.records.tobytes() == rows.tobytes()
    assert decoded.symbols == {2: "O:SPY251216C00686000"}
    assert decoded.source is Source.DIRECT_FEED


def test_a_message_lists_the_symbols_of_its_own_rows_only() -> None:
    rows = np.repeat(examples.FUTURES_TRADE, 3)
    rows["instrument_id"] = [17077, 1, 17077]
    runs = strategies.runs_of([block_of(rows)], [(0, 0, 1), (0, 1, 3)])

    tables = [decode_packed(payload).symbols for payload in packed(runs)]

    assert tables == [{17077: "ES.c.0"}, {1: "SPY", 17077: "ES.c.0"}]


def test_the_same_instrument_of_another_table_or_source_has_a_header_of_its_own() -> None:
    told = [({1: "A"}, Source.SIM), ({1: "B"}, Source.SIM), ({1: "A"}, Source.REPLAY)]
    for symbols, source in told * 2:
        trade = record(RType.FUTURES_TRADE, instrument_id=1)
        (payload,) = packed(whole_block(Block(0, trade, symbols, source)))
        decoded = decode_packed(payload)
        assert (decoded.symbols, decoded.source) == (symbols, source)


def test_an_instrument_that_the_table_does_not_list_is_its_id_as_text() -> None:
    (payload,) = packed(runs_with(record(RType.MBP10, instrument_id=99)))

    assert decode_packed(payload).symbols == {99: "99"}


@pytest.mark.parametrize(
    ("rtype", "rows_in_a_message"),
    [
        (RType.FUTURES_TRADE, MAX_ROWS),
        (RType.STOCK_QUOTE, MAX_ROW_BYTES // 64),
        (RType.MBP10, MAX_ROW_BYTES // 368),
    ],
)
def test_a_run_is_cut_at_the_bounds_of_a_message(rtype: RType, rows_in_a_message: int) -> None:
    rows = np.repeat(record(rtype), 2 * rows_in_a_message + 1)

    frames = ENCODER.encode(runs_with(rows), REPLY, 1, ALL)

    assert np.diff(frames.rows_stop, prepend=0).tolist() == [
        rows_in_a_message,
        rows_in_a_message,
        1,
    ]


def test_the_largest_message_stays_under_the_servers_default_limit_of_1_mib() -> None:
    rows = np.repeat(examples.STOCK_TRADE, MAX_ROWS)
    rows["instrument_id"] = np.arange(MAX_ROWS)
    table = {number: f"{number:0{bounds.MAX_SYMBOL_BYTES}d}" for number in range(MAX_ROWS)}

    (payload,) = packed(whole_block(Block(0, rows, table, Source.POLYGON_WS)))

    assert len(decode_packed(payload).symbols) == MAX_ROWS
    assert len(payload) < 2**20


@pytest.mark.parametrize("symbol", ["x" * 256, "é" * 128, "\ud800"])
def test_a_symbol_that_does_not_fit_the_table_is_refused(symbol: str) -> None:
    block = Block(0, examples.MBP10, {17077: symbol}, Source.SIM)

    with pytest.raises(BadDataError, match="symbol"):
        ENCODER.encode(whole_block(block), REPLY, 1, ALL)


def test_an_unknown_rtype_is_refused() -> None:
    row = record(RType.STOCK_TRADE)
    row["rtype"] = 0x55

    with pytest.raises(BadDataError, match="0x55 in 64 bytes"):
        ENCODER.encode(runs_with(row), REPLY, 1, ALL)


def test_sequences_that_run_out_of_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="12 digits"):
        ENCODER.encode(runs_with(examples.MBP10), REPLY, 10**12, 1)


def test_records_with_gaps_between_them_are_packed_without() -> None:
    rows = np.repeat(examples.FUTURES_TRADE, 4)
    rows["sequence"] = np.arange(4)

    (payload,) = packed(runs_with(rows[::2]))

    assert decode_packed(payload).records["sequence"].tolist() == [0, 2]


def test_a_packed_message_is_never_taken_for_json() -> None:
    frames = JsonEncoder().encode(runs_with(examples.MBP10), REPLY, 1, 1)

    assert is_packed(one_message())
    assert not is_packed(messages(frames)[0][2])
    assert not is_packed(b"")
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()


def test_decoded_rows_are_a_view_that_cannot_be_written() -> None:
    payload = one_message()
    rows: Records = decode_packed(payload).records

    assert not rows.flags.owndata
    assert not rows.flags.writeable


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "magic"),
        (b'{"ts_event_ns":1}', "magic"),
        (MAGIC, "within its header"),
        (one_message()[:30], "header of 64 bytes in 30"),
        (one_message()[:-1], "not what its header says"),
        (one_message() + b"\0", "not what its header says"),
        (altered(one_message(), magic=b"\xabMDQ"), "magic"),
        (altered(one_message(), version=2), "version 2, known is 1"),
        (altered(one_message(), rtype=0x55), "rtype 0x55, which is none"),
        (altered(one_message(), row_bytes=49), "not what its header says"),
        (altered(one_message(), row_bytes=144, row_count=1), "rtype 0x00 in rows of 144"),
        (altered(one_message(), row_count=0), "no rows"),
        (altered(one_message(), row_count=2), "not what its header says"),
        (altered(one_message(), row_count=2**32 - 1), "not what its header says"),
        (altered(one_message(), header_bytes=16), "header of 16"),
        (altered(one_message(), header_bytes=61), "header of 61"),
        (altered(one_message(), header_bytes=2**32 - 8), "header of 4294967288"),
        (altered(one_message(), schema_bytes=16), "schema 'futures.trades.v'"),
        (altered(one_message(), source_bytes=5), "source 'repla'"),
        (altered(one_message(), source_bytes=255), "longer than its header"),
        (altered(one_message(), symbol_count=0), "symbol table of 0"),
        (altered(one_message(), symbol_count=2), "not in order"),
        (altered(one_message(), symbol_count=MAX_SYMBOLS_READ + 1), "symbol table of 65537"),
        (altered(one_message(), symbol_count=2**32 - 1), "symbol table of 4294967295"),
        (altered(one_message(), zero=1), "reserved"),
        (one_message().replace(b"trades.v1", b"trades.v2"), r"trades\.v2', known"),
        (one_message().replace(b"ES.c.0", b"ES\xff.c0"), "not UTF-8"),
        (with_table(), "symbol table of 0"),
        (with_table((1, b"SPY")), "does not list"),
        (with_table((17077, b"")), "symbol ''"),
        (with_table((17077, b"ES\0c")), "symbol 'ES"),
        (with_table((17077, b"x" * 72)), "symbol 'xxx"),
        (with_table((17077, "é".encode() * 36)), "symbol 'ééé"),
        (with_time(2**63), "9223372036854775808 ns"),
        (with_time(2**63, "ts_recv_ns"), "9223372036854775808 ns"),
        (with_table((17077, b"a"), (17077, b"b")), "not in order"),
        (with_table((17077, b"a"), (1, b"b")), "not in order"),
        (with_table((17077, b"7 bytes"), count=2), "longer than its header"),
        (with_table((17077, b"a"), pad=b"x"), "after its symbol table"),
        (with_table((17077, b"a"), pad=bytes(9)), "after its symbol table"),
        (with_table((17077, b"a"))[:-47] + b"\x0a" + bytes(46), "no FuturesTrade"),
    ],
)
def test_a_bad_message_is_one_clear_error(payload: bytes, reason: str) -> None:
    with pytest.raises(BadDataError, match=reason):
        decode_packed(payload)


def test_a_good_table_written_by_hand_is_read() -> None:
    block = decode_packed(with_table((5, b"x" * 71), (17077, "é".encode())))

    assert (block.symbols, block.source) == ({5: "x" * 71, 17077: "é"}, Source.SIM)


def decodes_or_refuses(payload: bytes) -> PackedBlock | None:
    try:
        return decode_packed(payload)
    except BadDataError:
        return None


@given(tail=st.binary(max_size=200))
@example(tail=b"")
def test_random_bytes_are_never_another_error(tail: bytes) -> None:
    assert decodes_or_refuses(tail) is None
    assert decodes_or_refuses(MAGIC + b"\x01" + tail) is None


@settings(max_examples=400)
@given(
    kind=st.sampled_from(EVENT_TYPES),
    edits=st.lists(st.tuples(st.integers(0, 140), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 150) | st.none(),
)
def test_a_mutated_message_is_decoded_or_refused(
    kind: Any, edits: list[tuple[int, int]], cut: int | None
) -> None:
    (whole,) = packed(runs_with(np.repeat(record(kind.rtype, instrument_id=2), 2)))
    payload = bytearray(whole)
    for at, value in edits:
        payload[min(at, len(payload) - 1)] = value

    block = decodes_or_refuses(bytes(payload[:cut]))

    assert block is None or len(block.records) == 2


@settings(max_examples=300)
@given(fields=st.fixed_dictionaries({}, optional={
    "rtype": st.sampled_from([*EVENT_TYPE_BY_RTYPE, 1]),
    "row_bytes": st.sampled_from([0, 48, 64, 80, 368]),
    "row_count": st.integers(0, 2**32 - 1) | st.integers(0, 5),
    "header_bytes": st.integers(0, 30).map(lambda n: 8 * n) | st.integers(0, 2**32 - 1),
    "symbol_count": st.integers(0, 3) | st.integers(0, 2**32 - 1),
    "schema_bytes": st.integers(0, 255),
    "source_bytes": st.integers(0, 255),
}))  # fmt: skip
def test_a_header_that_lies_is_decoded_or_refused(fields: dict[str, int]) -> None:
    block = decodes_or_refuses(altered(one_message(), **fields))

    assert block is None or len(block.records) == 3


@pytest.mark.parametrize("rows", [examples.FUTURES_TRADE, examples.STOCK_TRADE], ids=str)
def test_a_trade_without_a_price_is_no_trade(rows: Records) -> None:
    rows = rows.copy()
    rows["price_e9"] = UNDEF_PRICE
    (payload,) = packed(runs_with(rows))
    with pytest.raises(BadDataError, match="a trade without a price"):
        decode_packed(payload)
