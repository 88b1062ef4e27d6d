"""The backlog against a plain list that obeys the same rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.polygon.spill_queue import (
    MAX_BLOCK_ROWS,
    SLACK_SHARE,
    Backlog,
    BacklogLimits,
)
from ingestor.feeds.polygon.status_reporter import Losses
from ingestor.model.records import STOCK_TRADE, Records, RType

T, Q = RType.STOCK_TRADE, RType.STOCK_QUOTE
Row = tuple[RType, int]


def rows(kinds: str, first: int = 0) -> Records:
    """One row a letter, T or Q, numbered in ``sequence``, times 10 and 1,000 times that."""
    records = np.zeros(len(kinds), STOCK_TRADE)
    records["rtype"] = [T if kind == "T" else Q for kind in kinds]
    records["sequence"] = np.arange(first, first + len(kinds))
    records["ts_event_ns"] = records["sequence"] * 10
    records["ts_recv_ns"] = records["sequence"] * 1_000
    return records


def shown(records: Records) -> list[Row]:
    return [(RType(row["rtype"]), int(row["sequence"])) for row in records]


def backlog(max_rows: int) -> Backlog:
    return Backlog(STOCK_TRADE, BacklogLimits(rows=max_rows))


def drained(held: Backlog) -> list[Row]:
    taken: list[Row] = []
    while held:
        assert 0 < len(held.first()) <= MAX_BLOCK_ROWS
        taken += shown(held.first())
        held.remove_first()
    return taken


def test_what_fits_comes_out_as_it_went_in() -> None:
    held = backlog(5_000)
    for first in range(0, 3_000, 3):
        held.add(rows("TQT", first))
    assert len(held) == 3_000
    assert drained(held) == shown(rows("TQT" * 1_000))
    assert held.take_losses() is None
    assert len(held.first()) == 0


def test_losses_span_from_the_earliest_to_the_latest_time_in_whatever_order_they_come() -> None:
    losses = Losses()
    for numbers in ([5, 9, 7], [2], [3, 1, 4]):
        losses.add(np.concatenate([rows("T", number) for number in numbers]))
    assert losses == Losses(7, 0, 10, 90, 1_000, 9_000)


def test_the_oldest_quotes_go_before_any_trade() -> None:
    held = backlog(6)
    held.add(rows("QTQTQT"))
    held.add(rows("QT", 6))
    assert drained(held) == [(T, 1), (T, 3), (Q, 4), (T, 5), (Q, 6), (T, 7)]
    assert held.take_losses() == Losses(0, 2, 0, 20, 0, 2_000)
    assert held.take_losses() is None


def test_without_quotes_the_oldest_trades_go() -> None:
    held = backlog(4)
    held.add(rows("QTTT"))
    held.add(rows("TT", 4))
    assert drained(held) == [(T, 2), (T, 3), (T, 4), (T, 5)]
    assert held.take_losses() == Losses(1, 1, 0, 10, 0, 1_000)


def test_a_frame_larger_than_the_backlog_leaves_its_newest_trades() -> None:
    held = backlog(2)
    held.add(rows("TQTQT"))
    assert drained(held) == [(T, 2), (T, 4)]


@pytest.mark.parametrize(
    ("limits", "max_rows"),
    [
        (BacklogLimits(rows=100, bytes=10**9), 100),
        (BacklogLimits(rows=10**9, bytes=100 * STOCK_TRADE.itemsize), 100),
    ],
)
def test_rows_and_bytes_both_bound_it(limits: BacklogLimits, max_rows: int) -> None:
    held = Backlog(STOCK_TRADE, limits)
    for first in range(0, 1_000, 10):
        held.add(rows("TQTTQTTQTT", first))
        assert len(held) <= max_rows
    assert len(held) > max_rows - max_rows // SLACK_SHARE - 1


def test_giving_up_loses_everything_that_is_left() -> None:
    held = backlog(10)
    held.add(rows("TQT"))
    held.give_up()
    assert len(held) == 0
    assert held.take_losses() == Losses(2, 1, 0, 20, 0, 2_000)


def test_losing_lasts_until_the_losses_are_taken() -> None:
    held = backlog(1)
    losses = [held.losses]
    held.add(rows("TT"))
    losses.append(held.losses)
    held.take_losses()
    assert [*losses, held.losses] == [None, Losses(1, 0, 0, 0, 0, 0), None]


def test_quotes_that_lie_between_trades_leave_no_small_chunks_behind() -> None:
    held = backlog(64_000)
    for first in range(0, 640_000, 1_000):
        held.add(rows("QQQQQQQQQT" * 100, first))
    pieces = 0
    while held:
        pieces += 1
        held.remove_first()
    assert pieces <= 2 * 64_000 / MAX_BLOCK_ROWS


class Plain:
    """The same rules on a list."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows, self.held, self.lost = max_rows, list[Row](), list[Row]()

    def add(self, new: list[Row]) -> None:
        self.held += new
        if len(self.held) > self.max_rows:
            self.shrink(self.max_rows - self.max_rows // SLACK_SHARE)

    def shrink(self, wanted: int) -> None:
        surplus = len(self.held) - wanted
        quotes = [row for row in self.held if row[0] is Q][:surplus]
        trades = [row for row in self.held if row[0] is T][: surplus - len(quotes)]
        self.lost += quotes + trades
        self.held = [row for row in self.held if row not in quotes and row not in trades]


actions = st.lists(
    st.one_of(st.text("TQ", max_size=12), st.just("take"), st.just("give up")), max_size=40
)


@given(actions, st.integers(1, 130))
def test_it_holds_what_a_list_would_hold(steps: list[str], max_rows: int) -> None:
    held, plain, number = backlog(max_rows), Plain(max_rows), 0
    lost_trades = lost_quotes = 0
    for step in steps:
        if step == "take" and held:
            count = len(held.first())
            assert shown(held.first()) == plain.held[:count]
            held.remove_first()
            del plain.held[:count]
        elif step == "give up":
            held.give_up()
            plain.shrink(0)
        elif step != "take":
            held.add(rows(step, number))
            plain.add(shown(rows(step, number)))
            number += len(step)
        assert len(held) == len(plain.held) <= max_rows
        losses = held.take_losses() or Losses()
        lost_trades += losses.lost_trades
        lost_quotes += losses.lost_quotes
    assert drained(held) == plain.held
    assert lost_trades == sum(kind is T for kind, _ in plain.lost)
    assert lost_quotes == sum(kind is Q for kind, _ in plain.lost)
