"""The stock tape: NBBO quotes and trades of SPY, as the vendor writes them.

A trade prints at the bid, at the ask or between them, judged by the quote before it on the tape.
Every event uses the same number of random draws, so the tape does not depend on how it is cut
into batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import repeat
from string import ascii_uppercase
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from ingestor.sim.polygon.event_stream import (
    MILLS_PER_CENT,
    Bools,
    DueTimes,
    EventBatch,
    Floats,
    Ints,
    Underlying,
    choose,
    prices,
    sequence_steps,
    write,
)

SYMBOL: Final = "SPY"
MAX_STOCKS: Final = 20_000

ROUND_LOT_SHARES: Final = 40
"""SPY trades between 250.01 and 1,000: quote sizes are multiples of 40 shares."""
FIRST_TRADE_Q: Final = 9_059_424
FIRST_QUOTE_Q: Final = 106_078_192

TRF_SHARE: Final = 0.4
LATE_SHARE: Final = 0.001
LATE_MIN_MS: Final = 1_500
LATE_MAX_MS: Final = 600_000
LAG_MAX_MS: Final = 3
WIDE_SHARE: Final = 0.2

_LIT: Final = (1, 7, 8, 10, 11, 12, 15, 18, 19, 20, 21)
_TRF_VENUE: Final = 4
"""FINRA, for every trade that a trade reporting facility (TRF) reports."""
_TRF: Final = (201, 202, 203)
_SIZES: Final = (
    *((whole, f"{whole}.0") for whole in (1, 2, 5, 10, 15, 25, 40, 50, 100, 100, 100, 100)),
    *((whole, f"{whole}.0") for whole in (129, 200, 300, 400, 500, 1000, 2500, 10000)),
    *((0, "0.740474"), (3, "3.25")),
)
"""Whole shares, and the same with its fraction."""
_CONDITIONS: Final = (UNSET, UNSET, UNSET, UNSET, (37,), (37,), (14, 41), (14, 37, 41), (12,))
_LOTS: Final = tuple(ROUND_LOT_SHARES * lots for lots in range(1, 65))
_INDICATORS: Final = (UNSET, UNSET, UNSET, (604,))

# The names and the order of the fields are those of the vendor's keys. Structs without the
# collector's bookkeeping are made faster, and none of these can be part of a cycle.


class _Trade(msgspec.Struct, tag_field="ev", tag="T", gc=False):
    sym: str
    i: str
    x: int
    p: float
    s: int
    ds: str
    c: tuple[int, ...] | UnsetType
    t: int
    pt: int
    q: int
    z: int
    trfi: int | UnsetType
    trft: int | UnsetType


class _Quote(msgspec.Struct, tag_field="ev", tag="Q", rename={"as_": "as"}, gc=False):
    sym: str
    i: tuple[int, ...] | UnsetType
    bx: int
    ax: int
    bp: float
    ap: float
    bs: int
    as_: int
    t: int
    pt: int
    q: int
    z: int


_KIND, _GAP, _LAG, _PLACE, _A, _B, _C, _D = range(8)
_DRAWS: Final = 8


def symbols_of(stocks: int) -> tuple[str, ...]:
    """Return `stocks` symbols: SPY, then made-up ones of five letters."""
    letters, places = ascii_uppercase, (1, 26, 26**2, 26**3)
    made = (f"Z{''.join(letters[n // p % 26] for p in places)}" for n in range(stocks - 1))
    return (SYMBOL, *made)


class _Events(NamedTuple):
    """A batch before it is written: per event time, stock, draws and the NBBO in force."""

    t_ms: Ints
    stock: Ints
    draws: Floats
    bid_cents: Ints
    ask_cents: Ints

    def take(self, index: Ints) -> _Events:
        return _Events._make(column[index] for column in self)

    def lag_ms(self) -> Ints:
        return (self.draws[:, _LAG] * (LAG_MAX_MS + 1)).astype(np.int64)


class StockTape:
    """Trades and quotes of SPY; ``quote_share`` of the events are quotes.

    With more `stocks` each event is of any of them, all at the price of SPY.
    """

    def __init__(
        self, seed: int, underlying: Underlying, quote_share: float, stocks: int = 1
    ) -> None:
        self._rng = np.random.default_rng([seed, 1])
        # Draws of its own: with one stock the tape is the same as before there were more.
        self._stock_rng = np.random.default_rng([seed, 3])
        self._symbols = symbols_of(stocks)
        self._channels = tuple(f"{topic}.{symbol}" for symbol in self._symbols for topic in "TQ")
        self._underlying = underlying
        self._quote_share = quote_share
        self._trade_count = 0
        self._trade_q, self._quote_q = FIRST_TRADE_Q, FIRST_QUOTE_Q
        self._bid_cents = underlying.at(0)
        self._ask_cents = self._bid_cents + 1
        self._late_prints, self._late_ms = 0, 0

    def select(self, subscriptions: Collection[str]) -> bool:
        """Whether anybody wants any of the stocks."""
        return not {*self._channels, "T.*", "Q.*"}.isdisjoint(subscriptions)

    def skip(self, events: int) -> None:
        """Both sequences go on."""
        self._trade_q += events
        self._quote_q += events

    def delay_prints(self, count: int, ms: int) -> None:
        """The next ``count`` trades are reported ``ms`` late."""
        self._late_prints, self._late_ms = count, ms

    def batch(self, due: DueTimes) -> EventBatch:
        """Write the next events."""
        # Always eight draws an event, used or not: another batch size gives the same tape.
        draws = self._rng.random((len(due), _DRAWS))
        is_quote = draws[:, _KIND] < self._quote_share
        stock = (self._stock_rng.random(len(due)) * len(self._symbols)).astype(np.int64)
        events = _Events(due.t_ms, stock, draws, *self._nbbo(due, draws, is_quote))
        quotes = self._quotes(events.take(np.nonzero(is_quote)[0]))
        trades = self._trades(events.take(np.nonzero(~is_quote)[0]))
        written = write(is_quote, trades, quotes)
        return EventBatch(written, self._channels, 2 * stock + is_quote, is_quote)

    def _nbbo(self, due: DueTimes, draws: Floats, is_quote: Bools) -> tuple[Ints, Ints]:
        """Bid and ask in force at each event: those of the last quote up to it.

        In a market without quotes on the tape every event sees the price as it is.
        """
        renewed = is_quote | (self._quote_share == 0)
        mid = self._underlying.cents(due.elapsed_ns)
        spread = 1 + (draws[:, _PLACE] < WIDE_SHARE)
        # 0 stands for the quote in force when the last batch ended.
        last = np.maximum.accumulate(np.where(renewed, np.arange(1, len(due) + 1), 0))
        bid = np.concatenate(([self._bid_cents], mid))[last]
        ask = np.concatenate(([self._ask_cents], mid + spread))[last]
        self._bid_cents, self._ask_cents = int(bid[-1]), int(ask[-1])
        return bid, ask

    def _quotes(self, quotes: _Events) -> Iterable[_Quote]:
        draws = quotes.draws
        q = self._quote_q + np.cumsum(sequence_steps(draws[:, _GAP]))
        self._quote_q = int(q[-1]) if len(q) else self._quote_q
        return map(
            _Quote,
            [self._symbols[index] for index in quotes.stock.tolist()],
            choose(_INDICATORS, draws[:, _LAG]),
            choose(_LIT, draws[:, _A]),
            choose(_LIT, draws[:, _B]),
            prices(quotes.bid_cents * MILLS_PER_CENT),
            prices(quotes.ask_cents * MILLS_PER_CENT),
            choose(_LOTS, draws[:, _C]),
            choose(_LOTS, draws[:, _D]),
            quotes.t_ms.tolist(),
            (quotes.t_ms - quotes.lag_ms()).tolist(),
            q.tolist(),
            repeat(2),
        )

    def _trades(self, trades: _Events) -> Iterable[_Trade]:
        draws, count = trades.draws, len(trades.t_ms)
        q = self._trade_q + np.cumsum(sequence_steps(draws[:, _GAP]))
        self._trade_q = int(q[-1]) if count else self._trade_q
        numbers = range(self._trade_count + 1, self._trade_count + count + 1)
        self._trade_count += count
        late_ms = self._lateness(draws)
        # What is late by seconds has been reported, not matched on an exchange.
        is_trf = ((draws[:, _A] < TRF_SHARE) | (late_ms > 0)).tolist()
        lit, trf = choose(_LIT, draws[:, _B]), choose(_TRF, draws[:, _B])
        sizes, t_ms = choose(_SIZES, draws[:, _C]), trades.t_ms.tolist()
        # At the bid or at the ask, one in ten at the midpoint.
        place = draws[:, _PLACE]
        at_side = np.where(place < 0.45, trades.bid_cents, trades.ask_cents) * MILLS_PER_CENT
        midpoint = (trades.bid_cents + trades.ask_cents) * MILLS_PER_CENT // 2
        return map(
            _Trade,
            [self._symbols[index] for index in trades.stock.tolist()],
            map(str, numbers),
            [_TRF_VENUE if off else venue for off, venue in zip(is_trf, lit, strict=True)],
            prices(np.where(place < 0.9, at_side, midpoint)),
            [whole for whole, _ in sizes],
            [fraction for _, fraction in sizes],
            choose(_CONDITIONS, draws[:, _D]),
            t_ms,
            (trades.t_ms - np.where(late_ms > 0, late_ms, trades.lag_ms())).tolist(),
            q.tolist(),
            repeat(2),
            [facility if off else UNSET for off, facility in zip(is_trf, trf, strict=True)],
            [at_ms if off else UNSET for off, at_ms in zip(is_trf, t_ms, strict=True)],
        )

    def _lateness(self, draws: Floats) -> Ints:
        """Per trade how late it is reported in ms, 0 for on time."""
        # Digits of the draw that the choice between quote and trade has left unused.
        chance = draws[:, _KIND] * 1e6 % 1
        span = LATE_MIN_MS + chance / LATE_SHARE * (LATE_MAX_MS - LATE_MIN_MS)
        late_ms = np.where(chance < LATE_SHARE, span, 0).astype(np.int64)
        ordered = min(self._late_prints, len(late_ms))
        late_ms[:ordered] = self._late_ms
        self._late_prints -= ordered
        return late_ms
