from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from ingestor.blocks import Block, Source
from ingestor.errors import BadDataError
from ingestor.feed_status import FeedStatus
from ingestor.records import STOCK_TRADE, RType
from ingestor.ring.wire import (
    END_MESSAGE,
    Kind,
    RingReader,
    records_message,
    status_message,
    symbols_message,
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


def test_a_mixed_stock_frame_keeps_every_rtype() -> None:
    sent = np.zeros(2, STOCK_TRADE)
    sent["length"] = STOCK_TRADE.itemsize // 4
    sent["rtype"] = [RType.STOCK_QUOTE, RType.STOCK_TRADE]
    got = reader().read(records_message(sent))
    assert isinstance(got, Block)
    assert got.records["rtype"].tolist() == [RType.STOCK_QUOTE, RType.STOCK_TRADE]


def test_new_symbols_hold_for_later_blocks_and_leave_earlier_ones_alone() -> None:
    ring = reader()
    before = ring.read(records_message(rows([(1, 1, 1)])))
    assert ring.read(symbols_message({2: "O:SPY251216C00686000"})) is None
    after = ring.read(records_message(rows([(1, 1, 1)])))
    assert isinstance(before, Block)
    assert isinstance(after, Block)
    assert before.symbols == {1: "A"}
    assert after.symbols == {1: "A", 2: "O:SPY251216C00686000"}


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
