from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError
from ingestor.model.feed_status import FeedStatus
from ingestor.model.records import EVENT_TYPES, STOCK_TRADE, RType
from ingestor.ring.wire import (
    END_MESSAGE,
    NEW_ROWS,
    FeedBegin,
    Kind,
    RingReader,
    begin_message,
    order_message,
    records_message,
    status_message,
    symbols_message,
    symbols_messages,
)
from tests.rows import rows
from tests.strategies import STATUSES


def reader() -> RingReader:
    return RingReader(3, Source.REPLAY, {1: "A"})


def test_records_come_back_bit_for_bit_with_their_feed_and_source() -> None:
    sent = rows([(1, 2, 3), (4, 5, 6)])
    got = reader().read(records_message(sent))
    assert isinstance(got, Block)
    assert (got.feed, got.source) == (3, Source.REPLAY)
    assert got.records.dtype == sent.dtype
    assert got.records.tobytes() == sent.tobytes()


@pytest.mark.parametrize("dtype", [kind.dtype for kind in EVENT_TYPES], ids=str)
def test_a_live_block_bears_the_time_at_which_it_was_put(dtype: np.dtype[np.void]) -> None:
    [rtype] = {kind.rtype for kind in EVENT_TYPES if kind.dtype is dtype}
    sent = np.zeros(3, dtype)
    sent["length"], sent["rtype"] = dtype.itemsize // 4, rtype
    plain, stamped = (reader().read(records_message(sent, put)) for put in (0, 2**62 + 1))
    assert isinstance(plain, Block)
    assert isinstance(stamped, Block)
    assert (plain.put_ns, stamped.put_ns) == (0, 2**62 + 1)
    assert stamped.records.tobytes() == plain.records.tobytes() == sent.tobytes()


def test_a_mixed_stock_frame_keeps_every_rtype() -> None:
    sent = np.zeros(2, STOCK_TRADE)
    sent["length"] = STOCK_TRADE.itemsize // 4
    sent["rtype"] = [RType.STOCK_QUOTE, RType.STOCK_TRADE]
    got = reader().read(records_message(sent))
    assert isinstance(got, Block)
    assert got.records["rtype"].tolist() == [RType.STOCK_QUOTE, RType.STOCK_TRADE]


def block_of(ring: RingReader) -> Block:
    block = ring.read(records_message(rows([(1, 1, 1)])))
    assert isinstance(block, Block)
    return block


def test_blocks_are_in_order_from_where_it_is_said_until_it_is_taken_back() -> None:
    ring = reader()
    assert not block_of(ring).in_order
    assert ring.read(order_message(in_order=True)) is None
    assert [block_of(ring).in_order, block_of(ring).in_order] == [True, True]
    ring.read(order_message(in_order=False))
    assert not block_of(ring).in_order


def test_new_symbols_are_added_to_the_table_and_earlier_blocks_keep_theirs() -> None:
    ring = reader()
    before = block_of(ring)
    assert ring.read(symbols_message({2: "O:SPY251216C00686000"})) is None
    after = block_of(ring)
    assert before.symbols is after.symbols
    assert after.symbols == {1: "A", 2: "O:SPY251216C00686000"}


def test_another_symbol_for_an_id_begins_another_table() -> None:
    ring = reader()
    before = block_of(ring)
    ring.read(symbols_message({1: "B", 2: "C"}))
    ring.read(symbols_message({2: "D"}))
    after = block_of(ring)
    assert before.symbols == {1: "A"}
    assert after.symbols == {1: "B", 2: "D"}


def test_the_table_a_reader_begins_with_stays_as_it_is() -> None:
    given = {1: "A"}
    RingReader(0, Source.SIM, given).read(symbols_message({2: "B"}))
    assert given == {1: "A"}


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.text(max_size=71)), unique_by=lambda p: p[0]),
    st.integers(400, 2_000),
)
def test_a_table_of_any_size_comes_in_messages_of_bounded_size(
    pairs: list[tuple[int, str]], max_bytes: int
) -> None:
    ring, counts = RingReader(0, Source.SIM, {}), 0
    for count, message in symbols_messages(pairs, max_bytes):
        assert len(message) <= max_bytes
        ring.read(message)
        counts += count
    assert (ring.symbols, counts) == (dict(pairs), len(pairs))


def test_the_end_of_the_feed_is_remembered() -> None:
    ring = reader()
    assert not ring.ended
    assert ring.read(END_MESSAGE) is None
    assert ring.ended


@given(STATUSES)
def test_a_status_comes_back_as_it_was_and_changes_nothing(status: FeedStatus) -> None:
    ring = reader()
    assert ring.read(status_message(status)) == status
    assert (ring.symbols, ring.ended) == ({1: "A"}, False)


def test_a_status_that_is_none_is_an_error() -> None:
    with pytest.raises(BadDataError, match="not a feed's status"):
        reader().read(bytes([Kind.STATUS]) + b"{}")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x10",
        b"\x10\xff" + bytes(62),
        b"\x10\xe0" + bytes(60),
        bytes([Kind.ORDER]),
        bytes([Kind.SYMBOLS]),
        bytes([Kind.SYMBOLS]) + b"\x81\x01\xa1A",
        bytes([Kind.SYMBOLS]) + b"\x91\x92\x01\xa1\xff",
        bytes([Kind.SYMBOLS]) + b"\x91" * 5000,
        bytes([Kind.STATUS]) + b'{"feed":"\xff"}',
    ],
)
def test_what_a_feed_that_died_left_and_is_no_message_is_bad_data(message: bytes) -> None:
    ring = reader()
    with pytest.raises(BadDataError, match=r"feed 3 left|not a feed's status"):
        ring.read(message)
    assert (ring.symbols, ring.ended) == ({1: "A"}, False)


def numbers(item: object) -> list[int]:
    assert isinstance(item, Block)
    return [int(at_ns) for at_ns in item.records["ts_event_ns"]]


def test_of_a_feed_that_was_started_again_only_rows_that_were_not_read_come() -> None:
    ring = reader()
    sent = [rows([(at_ns, 0, 0) for at_ns in three]) for three in ((1, 2, 3), (4, 5, 6), (7, 8, 9))]
    assert numbers(ring.read(records_message(sent[0]))) == [1, 2, 3]
    assert numbers(ring.read(records_message(sent[1]))) == [4, 5, 6]
    # Its next row is the second of all, of which six were read.
    assert ring.read(begin_message(FeedBegin(1, 1))) == FeedBegin(1, 1)
    assert ring.read(records_message(sent[0][1:])) is None
    assert ring.read(records_message(sent[1][:2])) is None
    assert numbers(ring.read(records_message(np.concatenate((sent[1][2:], sent[2]))))) == [7, 8, 9]
    assert ring.rows == 9


def test_new_rows_of_a_feed_that_was_started_again_are_all_read() -> None:
    ring = reader()
    assert numbers(ring.read(records_message(rows([(1, 0, 0)])))) == [1]
    assert ring.read(begin_message(FeedBegin(1))) == FeedBegin(1, NEW_ROWS)
    assert numbers(ring.read(records_message(rows([(2, 0, 0)])))) == [2]


def test_what_was_said_before_a_feed_was_started_again_does_not_hold() -> None:
    ring = reader()
    ring.read(order_message(in_order=True))
    before = block_of(ring)
    ring.read(begin_message(FeedBegin(1)))
    ring.read(symbols_message({2: "B"}))
    after = block_of(ring)
    assert (before.symbols, before.in_order) == ({1: "A"}, True)
    assert (after.symbols, after.in_order) == ({2: "B"}, False)
