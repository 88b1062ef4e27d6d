from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.encode.packed import (
    MAX_ROW_BYTES,
    MAX_ROWS,
    MAX_SYMBOL_BYTES,
    PackedEncoder,
    decode_packed,
)
from ingestor.model.blocks import Block, Encoder, Fence, Frames, Reply, Runs, Source, whole_block
from ingestor.model.bounds import MAX_PAYLOAD_BYTES
from ingestor.model.errors import BadDataError
from ingestor.model.records import EVENT_TYPES, EventType, RType
from ingestor.publish.reconcile import messages_of
from tests import strategies
from tests.encode import examples
from tests.encode.examples import REPLY, block_of, record, runs_with

if TYPE_CHECKING:
    from ingestor.encode import _fast
else:
    _fast = pytest.importorskip("ingestor.encode._fast", reason="the extension was not built")

FAST = _fast.FastPackedEncoder()
REFERENCE = PackedEncoder()
VIEW_FROM_BYTES = 16_384
ALL = 10**6


def assert_equal(runs: Runs, reply: Reply = REPLY, first: int = 1, limit: int = ALL) -> Frames:
    fast, reference = (coder.encode(runs, reply, first, limit) for coder in (FAST, REFERENCE))
    assert fast.data == reference.data
    assert fast.rows_stop.tolist() == reference.rows_stop.tolist()
    assert fast.rows_by_rtype == reference.rows_by_rtype
    return fast


@settings(max_examples=60)
@given(
    runs=strategies.runs(max_size=60),
    first=st.integers(0, 10**12 - 1000),
    limit=st.integers(-1, 10) | st.just(ALL),
)
def test_equals_the_reference_on_any_runs(runs: Runs, first: int, limit: int) -> None:
    assert_equal(runs, REPLY, first, limit)


def test_equals_the_reference_where_some_messages_are_fenced() -> None:
    rows = np.repeat(examples.MBP10, 5000)
    for first in range(1, 5):
        assert_equal(runs_with(rows), Reply(b"r.", b".x", Fence(10**15, 3)), first)


@given(prefix=st.binary(max_size=80), suffix=st.binary(max_size=80))
def test_equals_the_reference_under_any_reply_subject(prefix: bytes, suffix: bytes) -> None:
    assert_equal(runs_with(examples.MBP10), Reply(prefix, suffix))


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
def test_equals_the_reference_where_every_byte_of_a_record_is_extreme(
    kind: EventType, byte: int
) -> None:
    rows = np.full(3 * kind.dtype.itemsize, byte, np.uint8).view(kind.dtype)
    rows["rtype"] = kind.rtype

    assert_equal(runs_with(rows))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 254, MAX_SYMBOL_BYTES])
def test_equals_the_reference_under_a_symbol_of_any_length(length: int) -> None:
    rows = np.repeat(examples.MBP10, 3)

    assert_equal(whole_block(Block(0, rows, {17077: "x" * length}, Source.SIM)))


@pytest.mark.parametrize("rtype", list(RType))
def test_a_run_is_cut_at_the_bounds_of_a_message(rtype: RType) -> None:
    row = record(rtype)
    limit = min(MAX_ROWS, MAX_ROW_BYTES // row.itemsize)

    frames = assert_equal(runs_with(np.repeat(row, 2 * limit + 1)))

    assert frames.rows_stop.tolist() == [limit, 2 * limit, 2 * limit + 1]


def test_many_instruments_in_one_message_are_all_in_its_header() -> None:
    rows = np.repeat(examples.STOCK_TRADE, 3 * MAX_ROWS)
    rows["instrument_id"] = np.arange(len(rows)) % 1000

    assert_equal(runs_with(rows))


@pytest.mark.parametrize("distinct", [1, 2, 31, 32, 33, 1_999])
@pytest.mark.parametrize("rows_in_a_run", [1, 3, 100, 2_000])
def test_instruments_in_any_order_are_listed_once_and_ascending(
    distinct: int, rows_in_a_run: int
) -> None:
    table = {number: f"Z{number}" for number in range(0, 1_999, 2)}
    rows = np.repeat(examples.STOCK_QUOTE, 2_000)
    rows["instrument_id"] = np.random.default_rng(distinct).integers(0, distinct, len(rows))
    turns = [(0, at, at + rows_in_a_run) for at in range(0, 1_998, rows_in_a_run)][:40]
    turns = [(block, start, min(stop, 2_000)) for block, start, stop in turns]

    assert_equal(strategies.runs_of([Block(0, rows, table, Source.SIM)], turns))


def test_headers_follow_the_instrument_and_the_type_of_every_message() -> None:
    trades, quotes = np.repeat(examples.STOCK_TRADE, 40), np.repeat(examples.STOCK_QUOTE, 40)
    trades["instrument_id"] = [1, 1, 2, 1, 17077] * 8
    quotes["instrument_id"] = [1, 2, 2, 2, 1] * 8
    mixed = np.concatenate([trades, quotes.view(trades.dtype), trades])
    turns = [(block, at, at + 3) for at in range(0, 117, 3) for block in (0, 1)]

    assert_equal(strategies.runs_of([block_of(mixed), block_of(mixed[::-1].copy())], turns))


def test_few_rows_are_copied_and_many_are_a_view_of_where_they_lie() -> None:
    rows = np.repeat(examples.MBP10, 100)
    copied = VIEW_FROM_BYTES // rows.itemsize
    runs = strategies.runs_of(
        [block_of(rows)], [(0, 0, copied), (0, copied, 2 * copied + 1), (0, 99, 100)]
    )

    before, view, after = assert_equal(runs).parts

    assert np.shares_memory(np.frombuffer(view, np.uint8), rows.view(np.uint8))
    assert [type(part) for part in (before, after)] == [bytes, bytes]


def test_a_part_that_is_long_is_followed_by_another() -> None:
    rows = np.repeat(examples.MBP10, 2000)
    turns = [(0, at, at + 20) for at in range(0, 2000, 20)]

    parts = assert_equal(strategies.runs_of([block_of(rows)], turns)).parts

    assert len(parts) == 3
    assert max(map(len, parts)) < 300_000


def test_a_table_that_changed_has_another_header() -> None:
    rows = examples.FUTURES_TRADE
    for name in ("ESZ5", "ESH6", "ESZ5"):
        assert_equal(whole_block(Block(0, rows, {17077: name}, Source.REPLAY)))


def test_no_runs_give_no_bytes() -> None:
    frames = FAST.encode(strategies.runs_of([], []), REPLY, 1, ALL)

    assert (frames.data, frames.messages, frames.rows_by_rtype) == (b"", 0, {})


def test_what_an_error_left_unfinished_is_not_counted_afterwards() -> None:
    row = np.repeat(record(RType.STOCK_TRADE), 2)
    row["rtype"][1] = 0x55
    with pytest.raises(BadDataError):
        FAST.encode(runs_with(row), REPLY, 1, ALL)

    assert FAST.encode(runs_with(examples.MBP10), REPLY, 1, ALL).rows_by_rtype == {RType.MBP10: 1}


def test_more_messages_than_there_are_keys_are_never_made() -> None:
    rows = np.repeat(examples.STOCK_TRADE, 8)
    rows["rtype"][1::2] = RType.STOCK_QUOTE
    runs = replace(runs_with(rows), key_ts_ns=np.zeros(3, np.int64))

    assert FAST.encode(runs, REPLY, 1, ALL).rows_stop.tolist() == [1, 2, 3]


@pytest.mark.parametrize("symbol", ["x" * 256, "é" * 128, "\ud800"])
def test_a_symbol_that_does_not_fit_the_table_is_refused(symbol: str) -> None:
    block = Block(0, examples.MBP10, {17077: symbol}, Source.SIM)

    with pytest.raises(BadDataError, match="symbol"):
        FAST.encode(whole_block(block), REPLY, 1, ALL)


def test_sequences_are_used_up_to_their_last_digit() -> None:
    rows = np.repeat(examples.FUTURES_TRADE, MAX_ROWS + 1)
    assert_equal(runs_with(rows), first=10**12 - 2)

    with pytest.raises(ValueError, match="12 digits"):
        FAST.encode(runs_with(rows), REPLY, 10**12 - 1, ALL)
    with pytest.raises(ValueError, match="12 digits"):
        FAST.encode(runs_with(rows), REPLY, -1, ALL)


def set_bound(max_payload_bytes: int) -> None:
    FAST.max_payload_bytes = max_payload_bytes
    REFERENCE.max_payload_bytes = max_payload_bytes


def message_sizes(frames: Frames) -> list[int]:
    return [len(payload) for _, payload in messages_of(frames.data)]


@settings(max_examples=60)
@given(runs=strategies.runs(max_size=60), most=st.integers(700, 9_000))
def test_no_message_is_longer_than_the_server_takes_and_equals_the_reference(
    runs: Runs, most: int
) -> None:
    set_bound(most)
    try:
        frames = assert_equal(runs)
    finally:
        set_bound(MAX_PAYLOAD_BYTES)
    assert max(message_sizes(frames), default=0) <= most
    assert frames.rows_stop.tolist()[-1:] == [len(runs)][: frames.messages]


@pytest.mark.parametrize("most", [4_096, 65_536, 131_072, 1_048_576])
def test_a_table_of_many_long_symbols_fits_its_message_too(most: int) -> None:
    rows = np.repeat(examples.STOCK_TRADE, 3 * MAX_ROWS)
    rows["instrument_id"] = np.arange(len(rows)) % 1000
    symbols = {number: f"{number:04d}" + "x" * 67 for number in range(1000)}
    runs = whole_block(Block(0, rows, symbols, Source.SIM))
    coders: list[Encoder] = [_fast.FastPackedEncoder(), PackedEncoder()]
    for coder in coders:
        coder.max_payload_bytes = most

    fast, reference = (coder.encode(runs, REPLY, 1, ALL) for coder in coders)

    assert fast.data == reference.data
    assert max(message_sizes(fast)) <= most
    assert sum(len(decode_packed(data).records) for _, data in messages_of(fast.data)) == len(rows)


def test_rows_of_one_instrument_fill_a_message_to_its_last_byte() -> None:
    rows = np.repeat(examples.MBP10, 40)
    coder = _fast.FastPackedEncoder()
    whole = message_sizes(coder.encode(runs_with(rows), REPLY, 1, ALL))[0]

    coder.max_payload_bytes = whole
    assert coder.encode(runs_with(rows), REPLY, 1, ALL).rows_stop.tolist() == [40]
    coder.max_payload_bytes = whole - 1
    assert coder.encode(runs_with(rows), REPLY, 1, ALL).rows_stop.tolist() == [39, 40]


@pytest.mark.parametrize("coder", [_fast.FastPackedEncoder(), PackedEncoder()])
def test_a_row_that_no_message_can_carry_is_refused(coder: Encoder) -> None:
    coder.max_payload_bytes = 300
    with pytest.raises(BadDataError, match="the server takes 300"):
        coder.encode(runs_with(examples.MBP10), REPLY, 1, ALL)
