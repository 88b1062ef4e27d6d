"""What traders do to the book: a session of trading, and the minutes before an open.

All chance comes as integers 0..999 from raw PCG64 output, whose stream NumPy guarantees, so that
a seed means the same day on every machine and with every version. Each event spends one row of
`DRAWS_PER_EVENT` draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ingestor.sim.book import ASK, AWAY, BID, Book, resting

DRAWS_PER_EVENT: Final = 7
_DRAWS_AT_ONCE: Final = 4_096
_PERMILLE: Final = 1_000


def _table(*parts: tuple[int, int]) -> tuple[int, ...]:
    """Spell out (value, permille) pairs as a table to be indexed by a draw."""
    table = tuple(value for value, permille in parts for _ in range(permille))
    assert len(table) == _PERMILLE
    return table


DEPTHS: Final = _table(
    (0, 640), (1, 130), (2, 75), (3, 50), (4, 35), (5, 25), (6, 15), (7, 10), (8, 10), (9, 10)
)
"""Ticks from the touch at which an order is added, changed or cancelled."""

ORDER_SIZES: Final = _table(
    (1, 620), (2, 160), (3, 80), (4, 40), (5, 40), (8, 20), (10, 20), (12, 12), (20, 6), (50, 2)
)
TRADE_SIZES: Final = _table(
    (1, 520), (2, 150), (3, 70), (4, 60), (6, 60), (10, 60), (18, 40), (30, 25), (60, 12), (120, 3)
)
PRINTS: Final = _table((1, 940), (2, 40), (3, 20))
"""Equal trades that one fill is printed as."""

TRADES_PERMILLE: Final = 70
MODIFIES_PERMILLE: Final = 290
_QUOTES_PERMILLE: Final = _PERMILLE - MODIFIES_PERMILLE
IMPROVES_PERMILLE: Final = 600
"""Share of events that narrow the spread while it is wider than a tick."""

CROSSING_TICKS: Final = 12
"""How far the first orders before an open reach into the other side."""


class Draws:
    """Raw PCG64 output as integers 0..999."""

    def __init__(self, seed: Sequence[int]) -> None:
        self._bits = np.random.PCG64(list(seed))

    def permille(self, *shape: int) -> npt.NDArray[np.int64]:
        """Return an array of draws."""
        raw: Any = self._bits.random_raw(int(np.prod(shape)))
        drawn: npt.NDArray[np.int64] = (raw % _PERMILLE).astype(np.int64).reshape(shape)
        return drawn

    def below(self, stop: int) -> int:
        """Return one integer 0..stop-1."""
        raw: Any = self._bits.random_raw()
        return int(raw) % stop

    def events(self) -> Iterator[list[int]]:
        """Yield the draws of one event after another, without end."""
        while True:
            yield from self.permille(_DRAWS_AT_ONCE, DRAWS_PER_EVENT).tolist()


def trade(book: Book, draws: Draws, rows: int) -> None:
    """Trade in continuous session until the tape holds at least `rows` rows."""
    events = draws.events()
    while len(book.tape) < rows:
        _session_event(book, next(events))


def cross(book: Book, draws: Draws, rows: int) -> None:
    """Gather orders before an open until the tape holds `rows` rows; the book gets crossed."""
    bid, ask = book.halves[BID].touch, book.halves[ASK].touch
    openers = [(BID, ask + CROSSING_TICKS), (ASK, bid - CROSSING_TICKS)]
    for side, tick in openers[: rows - len(book.tape)]:
        book.add(side, tick, ORDER_SIZES[draws.below(_PERMILLE)])
    events = draws.events()
    while len(book.tape) < rows:
        _, side, depth, size, *_ = next(events)
        at = book.halves[side & 1].touch + AWAY[side & 1] * DEPTHS[depth]
        book.add(side & 1, at, ORDER_SIZES[size])


def _session_event(book: Book, drawn: list[int]) -> None:
    kind, side, depth, size, prints, *rest = drawn
    side &= 1
    half = book.halves[side]
    if book.spread > 1 and kind < IMPROVES_PERMILLE:
        book.add(side, half.touch - AWAY[side], ORDER_SIZES[size])
    elif kind >= _PERMILLE - TRADES_PERMILLE:
        book.sweep(side, TRADE_SIZES[size], PRINTS[prints])
    else:
        tick = half.touch + AWAY[side] * DEPTHS[depth]
        _passive_event(book, side, tick, (ORDER_SIZES[size], *rest))


def _passive_event(book: Book, side: int, tick: int, drawn: Sequence[int]) -> None:
    """Modify, add or cancel; the more orders a level has, the more of them are cancelled."""
    size, place, coin = drawn
    half = book.halves[side]
    depth = half.ticks.index(tick) if tick in half.ticks else None
    if depth is None:
        book.add(side, tick, size)
        return
    orders, (_, usual) = half.orders[depth], resting(depth)
    cancels_from = MODIFIES_PERMILLE + _QUOTES_PERMILLE * usual // (len(orders) + usual)
    place %= len(orders)
    if coin < MODIFIES_PERMILLE:
        book.modify(side, depth, place, size + (size == orders[place]))
    elif coin < cancels_from:
        book.add(side, tick, size)
    else:
        book.cancel(side, depth, place)
