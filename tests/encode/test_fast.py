from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.encode import make_encoder
from ingestor.encode.packed import PackedEncoder
from ingestor.encode.reference import TABLES_HELD, JsonEncoder
from ingestor.model.blocks import Block, Encoder, Fence, Reply, Runs, Source, whole_block
from ingestor.model.errors import BadDataError, ConfigurationError
from ingestor.model.records import EVENT_TYPES, MBP10, EventType, RType
from ingestor.model.units import UINT32_MAX, UINT64_MAX
from tests import strategies
from tests.encode import examples
from tests.encode.examples import REPLY, block_of, record, runs_with

if TYPE_CHECKING:
    from ingestor.encode import _fast
else:
    _fast = pytest.importorskip("ingestor.encode._fast", reason="the extension was not built")

FAST = _fast.FastJsonEncoder()
REFERENCE = JsonEncoder()
BOTH = pytest.mark.parametrize("encoder", [FAST, _fast.FastPackedEncoder()], ids=["json", "packed"])
ALL = 10**6


def assert_equal(runs: Runs, reply: Reply = REPLY, first: int = 1, limit: int = ALL) -> None:
    fast, reference = (coder.encode(runs, reply, first, limit) for coder in (FAST, REFERENCE))
    assert fast.data == reference.data
    assert fast.rows_stop.tolist() == reference.rows_stop.tolist()
    assert fast.rows_by_rtype == reference.rows_by_rtype


@settings(max_examples=60)
@given(
    runs=strategies.runs(),
    first=st.integers(0, 10**12 - 100),
    limit=st.integers(-1, 10) | st.just(ALL),
)
def test_equals_the_reference_on_any_runs(runs: Runs, first: int, limit: int) -> None:
    assert_equal(runs, REPLY, first, limit)


@given(prefix=st.binary(max_size=80), suffix=st.binary(max_size=80))
def test_equals_the_reference_under_any_reply_subject(prefix: bytes, suffix: bytes) -> None:
    assert_equal(runs_with(examples.MBP10), Reply(prefix, suffix))


@settings(max_examples=50)
@given(
    runs=strategies.sound_runs(max_size=40),
    fence=st.builds(Fence, st.integers(0, 10**15), st.integers(1, 12)),
    first=st.integers(1, 10**12 - 100),
)
def test_equals_the_reference_where_some_messages_are_fenced(
    runs: Runs, fence: Fence, first: int
) -> None:
    assert_equal(runs, Reply(b"r.", b".x", fence), first)


def test_equals_the_reference_on_every_byte_of_action_side_and_flags() -> None:
    rows = np.repeat(examples.MBP10, 256)
    rows["action"] = rows["flags"] = np.arange(256)
    rows["side"] = np.arange(256)[::-1]

    assert_equal(runs_with(rows))


def test_equals_the_reference_on_every_side_and_publisher_of_a_futures_trade() -> None:
    rows = np.repeat(examples.FUTURES_TRADE, 2**16)
    rows["publisher_id"] = np.arange(2**16)
    rows["side"] = np.arange(2**16) % 256

    assert_equal(runs_with(rows))


def test_equals_the_reference_on_every_aggressor_and_number_of_conditions() -> None:
    rows = np.repeat(examples.STOCK_TRADE, 256)
    rows["aggressor"] = np.arange(-128, 128)
    rows["n_conditions"] = np.arange(256)

    assert_equal(runs_with(rows))


def test_equals_the_reference_on_integers_of_every_number_of_digits() -> None:
    edges = sorted({10**n + d for n in range(20) for d in (-1, 0, 1)} | {UINT64_MAX})
    rows = np.repeat(examples.MBP10, len(edges))
    rows["ts_event_ns"] = rows["ts_recv_ns"] = np.array(edges, np.uint64)
    rows["size"] = np.minimum(rows["ts_event_ns"], UINT32_MAX)
    rows["price_e9"] = -np.minimum(rows["ts_event_ns"], 2**63 - 1).astype(np.int64)
    rows["levels"]["bid_px_e9"] = -rows["price_e9"][:, None]

    assert_equal(runs_with(rows))


def test_equals_the_reference_on_prices_with_every_number_of_places() -> None:
    prices = [sign * (10**n) * k for n in range(17) for k in (1, 5, 12, 99) for sign in (1, -1)]
    rows = np.repeat(examples.STOCK_QUOTE, len(prices))
    rows["bid_px_e9"], rows["ask_px_e9"] = prices, np.array(prices) + 1

    assert_equal(runs_with(rows))


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
def test_equals_the_reference_where_every_byte_of_a_record_is_extreme(
    kind: EventType, byte: int
) -> None:
    rows = np.full(kind.dtype.itemsize, byte, np.uint8).view(kind.dtype)
    rows["rtype"], rows["instrument_id"] = kind.rtype, 2

    assert_equal(runs_with(rows))


@pytest.mark.parametrize("length", [*range(130), 1000, 2048, 70_000, 1_100_000])
def test_equals_the_reference_under_a_symbol_of_any_length(length: int) -> None:
    rows = np.repeat(examples.MBP10, 3)

    assert_equal(whole_block(Block(0, rows, {17077: "é" * length}, Source.SIM)))


LEVEL_CHANGES = st.tuples(
    st.integers(0, 9),
    st.sampled_from(["bid_px_e9", "ask_px_e9", "bid_sz", "ask_ct"]),
    st.sampled_from([0, 7, 123_456_789, UINT32_MAX]),
)


@given(st.lists(st.lists(LEVEL_CHANGES, max_size=3), max_size=30), st.booleans())
def test_equals_the_reference_on_books_of_which_little_changes(
    changes: list[list[tuple[int, str, int]]], alone: bool
) -> None:
    rows = np.repeat(examples.MBP10, len(changes) + 1)
    for at, changed in enumerate(changes, 1):
        rows[at]["levels"] = rows[at - 1]["levels"]
        for level, name, value in changed:
            rows[at]["levels"][name][level] = value
    others = [block_of(np.repeat(examples.FUTURES_TRADE, len(rows))), block_of(rows[::-1].copy())]
    turns = [(block, at, at + 1) for at in range(len(rows)) for block in range(3)]
    assert_equal(runs_with(rows) if alone else strategies.runs_of([block_of(rows), *others], turns))


def test_output_grows_past_its_first_guess() -> None:
    rows = np.repeat(examples.FUTURES_TRADE, 500)
    rows["instrument_id"] = np.arange(500) % 7
    table = {number: f"{number}" * 900 for number in range(7)}

    assert_equal(whole_block(Block(0, rows, table, Source.DIRECT_FEED)))


def test_one_instrument_id_means_another_symbol_in_another_block() -> None:
    rows = np.repeat(examples.FUTURES_TRADE, 2)
    chosen = [Block(0, rows, {17077: name}, Source.REPLAY) for name in ("ESH4", "ESM4")]
    runs = strategies.runs_of(chosen, [(0, 0, 1), (1, 0, 1), (0, 1, 2), (1, 1, 2)])

    assert_equal(runs)


def test_a_table_that_grows_between_calls_is_read_again() -> None:
    table: dict[int, str] = {}
    runs = whole_block(Block(0, examples.FUTURES_TRADE, table, Source.REPLAY))
    assert b'"symbol":"17077"' in FAST.encode(runs, REPLY, 1, ALL).data

    table[17077] = "new"

    assert b'"symbol":"new"' in FAST.encode(runs, REPLY, 1, ALL).data


def test_symbols_of_tables_without_end_are_written_right_and_bounded_in_memory() -> None:
    encoder = make_encoder("json", compiled=True)
    for number in range(3 * TABLES_HELD):
        block = Block(0, examples.FUTURES_TRADE, {17077: f"ES{number}"}, Source.REPLAY)
        data = encoder.encode(whole_block(block), REPLY, 1, ALL).data
        assert b'"symbol":"ES%d"' % number in data


def test_every_instrument_of_ten_thousand_is_written_right_call_after_call() -> None:
    table = {number: f"Z{number}" for number in range(10_000)}
    rows = np.repeat(examples.STOCK_TRADE, 3_000)
    for turn in range(4):
        rows["instrument_id"] = np.arange(3_000) * 7 % 10_100 + turn
        assert_equal(whole_block(Block(0, rows.copy(), table, Source.SIM)))


def test_one_id_is_an_option_and_a_stock_in_blocks_with_the_same_table() -> None:
    table = {0: "O:SPY251216C00686000"}
    rows = [record(RType.OPTION_TRADE), record(RType.STOCK_TRADE)]
    chosen = [Block(0, row, table, Source.SIM) for row in rows]

    assert_equal(strategies.runs_of(chosen, [(0, 0, 1), (1, 0, 1)]))


def test_read_only_records_are_read() -> None:
    rows = np.frombuffer(examples.MBP10.tobytes(), MBP10)

    assert_equal(runs_with(rows))


def test_no_runs_give_no_bytes() -> None:
    frames = FAST.encode(strategies.runs_of([], []), REPLY, 1, ALL)

    assert (frames.data, frames.messages) == (b"", 0)


def test_structs_are_as_long_as_the_dtypes_they_mirror() -> None:
    assert {kind.rtype: kind.dtype.itemsize for kind in EVENT_TYPES} == _fast.ROW_BYTES


@BOTH
@pytest.mark.parametrize(
    "piece", [(1, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 0, 3), (0, 2, 1), (0, 3, 4), (2**62, 0, 1)]
)
def test_a_run_outside_its_block_is_refused(encoder: Encoder, piece: tuple[int, int, int]) -> None:
    rows = np.repeat(examples.FUTURES_TRADE, 2)
    block, start, stop = (np.array([value]) for value in piece)
    runs = Runs([block_of(rows)], block, start, stop, np.zeros(1, np.int64))

    with pytest.raises(IndexError, match="a run"):
        encoder.encode(runs, REPLY, 1, ALL)


@BOTH
def test_runs_of_unequal_arrays_are_refused(encoder: Encoder) -> None:
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)

    with pytest.raises(IndexError, match="differ in length"):
        encoder.encode(Runs([block_of(examples.MBP10)], two, one, one + 1, one), REPLY, 1, ALL)


@BOTH
def test_runs_with_less_rows_than_keys_are_refused(encoder: Encoder) -> None:
    runs = runs_with(examples.FUTURES_TRADE)

    with pytest.raises(IndexError, match="2 rows less"):
        encoder.encode(replace(runs, key_ts_ns=np.zeros(3, np.int64)), REPLY, 1, ALL)


@BOTH
@pytest.mark.parametrize("rtype", [0x55, RType.OPTION_TRADE, RType.MBP10])
def test_a_record_that_is_not_as_long_as_its_rtype_says_is_refused(
    encoder: Encoder, rtype: int
) -> None:
    row = record(RType.STOCK_TRADE)
    row["rtype"] = rtype

    with pytest.raises(BadDataError, match="in 64 bytes"):
        encoder.encode(runs_with(row), REPLY, 1, ALL)


def test_records_too_short_for_a_header_are_refused() -> None:
    runs = runs_with(examples.FUTURES_TRADE)
    short = Block(0, np.zeros(1, [("rtype", "u1")]), {}, Source.SIM)

    with pytest.raises(BadDataError, match="records of 1 bytes"):
        FAST.encode(replace(runs, blocks=[short]), REPLY, 1, ALL)


@BOTH
def test_records_with_gaps_between_them_are_refused(encoder: Encoder) -> None:
    rows = np.repeat(examples.FUTURES_TRADE, 4)[::2]

    with pytest.raises(ValueError, match="contiguous"):
        encoder.encode(runs_with(rows), REPLY, 1, ALL)


def test_an_option_whose_symbol_is_no_ticker_is_refused() -> None:
    with pytest.raises(BadDataError, match="'SPY' is not an option ticker"):
        FAST.encode(runs_with(record(RType.OPTION_TRADE, instrument_id=1)), REPLY, 1, ALL)


def test_sequences_that_run_out_of_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="12 digits"):
        FAST.encode(runs_with(examples.MBP10), REPLY, 10**12, 1)


def test_the_compiled_encoder_is_what_is_made_by_default() -> None:
    assert isinstance(make_encoder("json"), _fast.FastJsonEncoder)
    assert isinstance(make_encoder("json", compiled=True), _fast.FastJsonEncoder)
    assert isinstance(make_encoder("packed"), _fast.FastPackedEncoder)


def test_the_reference_encoders_can_be_asked_for() -> None:
    assert isinstance(make_encoder("json", compiled=False), JsonEncoder)
    assert isinstance(make_encoder("packed", compiled=False), PackedEncoder)


@pytest.mark.parametrize(("encoding", "kind"), [("json", JsonEncoder), ("packed", PackedEncoder)])
def test_without_the_extension_the_reference_serves_and_one_log_line_says_so(
    encoding: str, kind: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ingestor.encode._fast", None)

    with caplog.at_level(logging.INFO):
        encoder = make_encoder(encoding)

    assert isinstance(encoder, kind)
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert "reference encoder serves" in caplog.text


def test_without_the_extension_asking_for_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ingestor.encode._fast", None)

    with pytest.raises(ConfigurationError, match="not built"):
        make_encoder("json", compiled=True)


def test_an_unknown_encoding_is_named_with_what_is_allowed() -> None:
    with pytest.raises(ConfigurationError, match="'xml'; allowed are json, packed"):
        make_encoder("xml")
