"""A small matching book in ticks, and the tape of what happens to it.

Each side holds orders by level, best level first. Every change goes through `Book.add`,
`Book.cancel`, `Book.modify` or `Book.sweep`, and each of them writes to the tape what an MBP-10
feed would show: the action and the ten best levels of both sides after it (a trade shows them as
they were before it). So the tape is consistent because the book is, not because anybody checks.

Sides are indices: `BID` is 0, `ASK` is 1. Prices are integer ticks. Levels beyond the tenth are
kept a little further (`LEVELS_KEPT`) and made up afresh beyond that, which no ten-level feed can
tell.

`trade` and `cross` are what traders do to the book: a session, and the minutes before an open. All
chance comes as integers 0..999 from raw PCG64 output, whose stream NumPy guarantees, so that a seed
means the same day on every machine and with every version. Each event spends one row of
`DRAWS_PER_EVENT` draws.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ingestor.model.records import LEVELS

BID: Final = 0
ASK: Final = 1

AWAY: Final = (-1, 1)
"""Tick step that leads away from the touch, by side."""

SIDE_CODE: Final = b"BA"
AGGRESSOR_CODE: Final = b"AB"
"""Code of the side that hits a resting order, by the resting order's side."""

LEVELS_KEPT: Final = 16

_TOUCH_RESTING: Final = (16, 8)
_DEEP_RESTING: Final = (50, 22)

Level = tuple[int, int, int]
"""Tick, size, number of orders."""


class Half:
    """One side of the book, best level first."""

    def __init__(self, side: int, levels: Sequence[Level]) -> None:
        self.side = side
        self.ticks = [tick for tick, _, _ in levels]
        self.orders = [split_orders(size, count) for _, size, count in levels]
        self._shown: list[int] | None = None
        self._refill()

    @property
    def touch(self) -> int:
        """Best tick."""
        return self.ticks[0]

    def shown(self) -> list[int]:
        """The visible levels as ten ticks, ten sizes, ten counts."""
        if self._shown is None:
            orders = self.orders[:LEVELS]
            self._shown = [*self.ticks[:LEVELS], *map(sum, orders), *map(len, orders)]
        return self._shown

    def open_level(self, tick: int) -> int:
        """Return the index of a tick's level, made when there is none (and then still empty)."""
        self._shown = None
        if tick in self.ticks:
            return self.ticks.index(tick)
        away = AWAY[self.side]
        depth = sum(1 for other in self.ticks if (other - tick) * away < 0)
        # A level that is new pushes the deepest one out of sight, as it does in a ten-level feed.
        self.ticks.insert(depth, tick)
        self.orders.insert(depth, [])
        del self.ticks[LEVELS_KEPT:], self.orders[LEVELS_KEPT:]
        return depth

    def level_at(self, depth: int) -> list[int]:
        """Return the orders at a depth, for changing."""
        self._shown = None
        return self.orders[depth]

    def drop_if_empty(self, depth: int) -> None:
        """Remove a level that has no orders left."""
        if not self.orders[depth]:
            del self.ticks[depth], self.orders[depth]
            self._refill()

    def _refill(self) -> None:
        while len(self.ticks) < LEVELS_KEPT:
            self.ticks.append(self.ticks[-1] + AWAY[self.side])
            self.orders.append(split_orders(*resting(LEVELS)))


class BookTape:
    """What happened, one row a record, as flat integer arrays that NumPy can view."""

    HEAD_FIELDS: Final = ("event", "packet", "action", "side", "tick", "size", "depth")

    def __init__(self) -> None:
        self.heads = array("i")
        self.books = array("i")
        self.event = 0
        self.packet = 0

    def __len__(self) -> int:
        return len(self.heads) // len(self.HEAD_FIELDS)

    def write(self, book: Book, action: int, head: tuple[int, int, int, int]) -> None:
        """Append a row; `head` is side code, tick, size, depth."""
        self.heads.extend((self.event, self.packet, action, *head))
        for half in book.halves:
            self.books.extend(half.shown())


class Book:
    """Both sides of the book; every method is one event and writes its rows to `tape`."""

    def __init__(self, halves: tuple[Half, Half], tape: BookTape) -> None:
        self.halves = halves
        self.tape = tape

    @property
    def spread(self) -> int:
        """Ticks between the touches; not positive while the book is crossed."""
        return self.halves[ASK].touch - self.halves[BID].touch

    def add(self, side: int, tick: int, size: int) -> None:
        """Rest an order of `size` at a tick."""
        depth = self.halves[side].open_level(tick)
        self.halves[side].level_at(depth).append(size)
        self._write_event(side, b"A", size, depth)

    def cancel(self, side: int, depth: int, place: int) -> None:
        """Take away the order at a place of the queue."""
        half = self.halves[side]
        tick = half.ticks[depth]
        size = half.level_at(depth).pop(place)
        half.drop_if_empty(depth)
        self._write_event(side, b"C", size, depth, tick)

    def modify(self, side: int, depth: int, place: int, size: int) -> None:
        """Give the order at a place of the queue another size."""
        self.halves[side].level_at(depth)[place] = size
        self._write_event(side, b"M", size, depth)

    def sweep(self, side: int, quantity: int, prints: int = 1) -> None:
        """Let an aggressor take `quantity` from the resting `side`, level by level.

        Every level is printed as one trade or as `prints` equal ones where its share divides,
        and then shown as it is left. All rows are one event.
        """
        self.tape.event += 1
        while quantity:
            taken = min(quantity, sum(self.halves[side].orders[0]))
            half = self.halves[side]
            # Equal prints must sum up to what the level loses, else the tape contradicts the book.
            count = prints if taken % prints == 0 else 1
            self.tape.packet += 1
            trade = (AGGRESSOR_CODE[side], half.touch, taken // count, 0)
            for _ in range(count):
                self.tape.write(self, ord("T"), trade)
            # Filled from the front; the row is M with what is left of the last order, else C.
            tick = half.touch
            queue = half.level_at(0)
            left = taken
            while left and queue[0] <= left:
                left -= queue.pop(0)
            if left:
                queue[0] -= left
            action, size = (b"M", queue[0]) if left else (b"C", taken)
            half.drop_if_empty(0)
            self.tape.packet += 1
            self.tape.write(self, action[0], (SIDE_CODE[side], tick, size, 0))
            quantity -= taken

    def uncross(self, tick: int, size: int) -> None:
        """Trade at one price without an aggressor; the book is at rest below and at it then."""
        self.tape.event += 1
        for action in b"TC":
            self.tape.packet += 1
            # The trade still shows the crossed book, the row after it the one at rest.
            self.tape.write(self, action, (ord("N"), tick, size, 0))
            self.halves = resting_halves(tick - 1)

    def _write_event(
        self, side: int, action: bytes, size: int, depth: int, tick: int | None = None
    ) -> None:
        self.tape.event += 1
        self.tape.packet += 1
        at = self.halves[side].ticks[depth] if tick is None else tick
        self.tape.write(self, action[0], (SIDE_CODE[side], at, size, depth))


def split_orders(size: int, count: int) -> list[int]:
    """Return `count` order sizes, as equal as can be, that sum up to `size`."""
    each, larger = divmod(size, count)
    return [each + 1] * larger + [each] * (count - larger)


def resting(depth: int) -> tuple[int, int]:
    """Return the size and number of orders that a level rests at; the touch is thinner."""
    return _DEEP_RESTING if depth else _TOUCH_RESTING


def resting_levels(side: int, touch: int) -> list[Level]:
    """Return the ten levels of a book at rest, the same for both sides."""
    return [(touch + AWAY[side] * depth, *resting(depth)) for depth in range(LEVELS)]


def resting_halves(bid: int) -> tuple[Half, Half]:
    """Return both sides of a book at rest around a best bid, one tick wide."""
    return Half(BID, resting_levels(BID, bid)), Half(ASK, resting_levels(ASK, bid + 1))


def settle(book: Book) -> int:
    """Bring the visible book to rest by ordinary events, and return its best bid.

    First the spread is closed and the gaps are filled, then every level gets its number of
    orders, then its size.
    """
    bid = book.halves[BID].touch
    for side, touch in ((BID, bid), (ASK, bid + 1)):
        for tick, size, count in resting_levels(side, touch):
            _settle_level(book, side, tick, (size, count))
    return bid


def _settle_level(book: Book, side: int, tick: int, wanted: tuple[int, int]) -> None:
    size, count = wanted
    half = book.halves[side]
    if tick not in half.ticks:
        book.add(side, tick, 1)
    depth = half.ticks.index(tick)
    # Orders first: a level's size can be met only once it has its final number of orders.
    while len(half.orders[depth]) > count:
        book.cancel(side, depth, -1)
    while len(half.orders[depth]) < count:
        book.add(side, tick, 1)
    for place, order in enumerate(half.orders[depth]):
        missing = size - sum(half.orders[depth])
        if (target := max(1, order + missing)) != order:
            book.modify(side, depth, place, target)


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
        # Of 64 bits the remainder favours the lowest values by less than 1 in 10**15.
        return int(raw) % stop

    def events(self) -> Iterator[list[int]]:
        """Yield the draws of one event after another, without end."""
        while True:
            # Lists of int, made at once, take half the time of picking elements out of the array.
            yield from self.permille(_DRAWS_AT_ONCE, DRAWS_PER_EVENT).tolist()


def trade(book: Book, draws: Draws, rows: int) -> None:
    """Trade in continuous session until the tape holds at least `rows` rows."""
    events = draws.events()
    while len(book.tape) < rows:
        drawn = next(events)
        kind, side, depth, size, prints, *rest = drawn
        # 0..999 holds as many odd numbers as even ones: a fair coin.
        side &= 1
        half = book.halves[side]
        if book.spread > 1 and kind < IMPROVES_PERMILLE:
            book.add(side, half.touch - AWAY[side], ORDER_SIZES[size])
        elif kind >= _PERMILLE - TRADES_PERMILLE:
            book.sweep(side, TRADE_SIZES[size], PRINTS[prints])
        else:
            tick = half.touch + AWAY[side] * DEPTHS[depth]
            _passive_event(book, side, tick, (ORDER_SIZES[size], *rest))


def cross(book: Book, draws: Draws, rows: int) -> None:
    """Gather orders before an open until the tape holds `rows` rows; the book gets crossed."""
    bid, ask = book.halves[BID].touch, book.halves[ASK].touch
    # Without them a short gathering might end before chance has crossed the book.
    openers = [(BID, ask + CROSSING_TICKS), (ASK, bid - CROSSING_TICKS)]
    for side, tick in openers[: rows - len(book.tape)]:
        book.add(side, tick, ORDER_SIZES[draws.below(_PERMILLE)])
    events = draws.events()
    while len(book.tape) < rows:
        _, side, depth, size, *_ = next(events)
        at = book.halves[side & 1].touch + AWAY[side & 1] * DEPTHS[depth]
        book.add(side & 1, at, ORDER_SIZES[size])


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
