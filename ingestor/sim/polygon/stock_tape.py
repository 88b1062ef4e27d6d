"""The stock tape: NBBO quotes and trades of SPY, as the vendor writes them.

A trade prints at the bid, at the ask or between them, judged by the quote before it on the tape.
Every event uses the same number of random draws, so the tape does not depend on how it is cut
into batches.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ingestor.sim.polygon.market_tape import (
    DueTimes,
    EventBatch,
    Floats,
    Underlying,
    pick,
    sequence_steps,
)
from ingestor.sim.polygon.phrases import (
    MILLS_PER_UNIT,
    Choice,
    Ints,
    Layout,
    Number,
    Price,
    Words,
    interleave,
)

SYMBOL: Final = "SPY"
CHANNELS: Final = (f"T.{SYMBOL}", f"Q.{SYMBOL}")
TRADE, QUOTE = range(2)

ROUND_LOT_SHARES: Final = 40
"""SPY trades between 250.01 and 1,000: quote sizes are multiples of 40 shares."""
FIRST_TRADE_Q: Final = 9_059_424
FIRST_QUOTE_Q: Final = 106_078_192
MILLS_PER_CENT: Final = MILLS_PER_UNIT // 100

TRF_SHARE: Final = 0.4
LATE_SHARE: Final = 0.001
LATE_MIN_MS: Final = 1_500
LATE_MAX_MS: Final = 600_000
LAG_MAX_MS: Final = 3
WIDE_SHARE: Final = 0.2

_LIT: Final = Choice([str(x) for x in (1, 7, 8, 10, 11, 12, 15, 18, 19, 20, 21)])
_TRF: Final = Choice(["201", "202", "203"])
_SIZES: Final = Choice(
    [f'{whole},"ds":"{whole}.0"' for whole in (1, 2, 5, 10, 15, 25, 40, 50, 100, 100, 100, 100)]
    + [f'{whole},"ds":"{whole}.0"' for whole in (129, 200, 300, 400, 500, 1000, 2500, 10000)]
    + ['0,"ds":"0.740474"', '3,"ds":"3.25"']
)
_CONDITIONS: Final = Choice(
    ["", "", "", "", ',"c":[37]', ',"c":[37]', ',"c":[14,41]', ',"c":[14,37,41]', ',"c":[12]']
)
_LOTS: Final = Choice([str(ROUND_LOT_SHARES * lots) for lots in range(1, 65)])
_INDICATORS: Final = Choice(["", "", "", ',"i":[604]'])

_TRADE_HEAD: Final = f'{{"ev":"T","sym":"{SYMBOL}","i":"'
_MS: Final = Number(13)
_LIT_TRADE: Final = Layout(
    *(_TRADE_HEAD, ("i", Number(12)), '","x":', ("x", _LIT), ',"p":', ("p", Price())),
    *(',"s":', ("s", _SIZES), ("c", _CONDITIONS), ',"t":', ("t", _MS), ',"pt":', ("pt", _MS)),
    *(',"q":', ("q", Number(12)), ',"z":2},'),
)
_TRF_TRADE: Final = Layout(
    *(_TRADE_HEAD, ("i", Number(12)), '","x":4,"p":', ("p", Price())),
    *(',"s":', ("s", _SIZES), ("c", _CONDITIONS), ',"t":', ("t", _MS), ',"pt":', ("pt", _MS)),
    *(',"q":', ("q", Number(12)), ',"z":2,"trfi":', ("x", _TRF), ',"trft":', ("trft", _MS), "},"),
)
_QUOTE: Final = Layout(
    *(f'{{"ev":"Q","sym":"{SYMBOL}"', ("i", _INDICATORS), ',"bx":', ("bx", _LIT)),
    *(',"ax":', ("ax", _LIT), ',"bp":', ("bp", Price()), ',"ap":', ("ap", Price())),
    *(',"bs":', ("bs", _LOTS), ',"as":', ("as", _LOTS), ',"t":', ("t", _MS)),
    *(',"pt":', ("pt", _MS), ',"q":', ("q", Number(12)), ',"z":2},'),
)

_KIND, _GAP, _LAG, _PLACE, _A, _B, _C, _D = range(8)
_DRAWS: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Events:
    """A batch before it is written: per event its time, its draws and the NBBO in force."""

    t_ms: Ints
    draws: Floats
    bid: Ints
    ask: Ints

    def take(self, index: Ints) -> _Events:
        return _Events(self.t_ms[index], self.draws[index], self.bid[index], self.ask[index])

    def lag_ms(self) -> Ints:
        return pick(self.draws[:, _LAG], LAG_MAX_MS + 1)


class StockTape:
    """Trades and quotes of SPY; ``quote_share`` of the events are quotes."""

    def __init__(self, seed: int, underlying: Underlying, quote_share: float) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self._underlying = underlying
        self._quote_share = quote_share
        self._trades = 0
        self._trade_q, self._quote_q = FIRST_TRADE_Q, FIRST_QUOTE_Q
        self._bid = underlying.at(0)
        self._ask = self._bid + 1
        self._late_prints, self._late_ms = 0, 0

    def select(self, subscriptions: Collection[str]) -> bool:
        """Whether anybody wants SPY."""
        return not {*CHANNELS, "T.*", "Q.*"}.isdisjoint(subscriptions)

    def skip(self, events: int) -> None:
        """Both sequences go on."""
        self._trade_q += events
        self._quote_q += events

    def delay_prints(self, count: int, ms: int) -> None:
        """The next ``count`` trades are reported ``ms`` late."""
        self._late_prints, self._late_ms = count, ms

    def batch(self, due: DueTimes) -> EventBatch:
        """Write the next events."""
        draws = self._rng.random((len(due), _DRAWS))
        is_quote = draws[:, _KIND] < self._quote_share
        events = _Events(due.t_ms, draws, *self._nbbo(due, draws, is_quote))
        quotes, trades = np.nonzero(is_quote)[0], np.nonzero(~is_quote)[0]
        parts = [(quotes, self._quote_rows(events.take(quotes)))]
        parts += self._trade_parts(events.take(trades), trades)
        return EventBatch(
            interleave(len(due), parts), CHANNELS, is_quote.astype(np.int64), is_quote
        )

    def _nbbo(
        self, due: DueTimes, draws: Floats, is_quote: npt.NDArray[np.bool_]
    ) -> tuple[Ints, Ints]:
        """Bid and ask in force at each event: those of the last quote up to it.

        In a market without quotes on the tape every event sees the price as it is.
        """
        renewed = is_quote | (self._quote_share == 0)
        mid = self._underlying.cents(due.elapsed_ns)
        spread = 1 + (draws[:, _PLACE] < WIDE_SHARE)
        last = np.maximum.accumulate(np.where(renewed, np.arange(1, len(due) + 1), 0))
        bid = np.concatenate(([self._bid], mid))[last]
        ask = np.concatenate(([self._ask], mid + spread))[last]
        self._bid, self._ask = int(bid[-1]), int(ask[-1])
        return bid, ask

    def _quote_rows(self, quotes: _Events) -> Words:
        draws = quotes.draws
        q = self._quote_q + np.cumsum(sequence_steps(draws[:, _GAP]))
        self._quote_q = int(q[-1]) if len(q) else self._quote_q
        values = {
            "i": pick(draws[:, _LAG], len(_INDICATORS)),
            "bx": pick(draws[:, _A], len(_LIT)),
            "ax": pick(draws[:, _B], len(_LIT)),
            "bp": quotes.bid * MILLS_PER_CENT,
            "ap": quotes.ask * MILLS_PER_CENT,
            "bs": pick(draws[:, _C], len(_LOTS)),
            "as": pick(draws[:, _D], len(_LOTS)),
            "t": quotes.t_ms,
            "pt": quotes.t_ms - quotes.lag_ms(),
            "q": q,
        }
        return _QUOTE.rows(values)

    def _trade_parts(self, trades: _Events, index: Ints) -> list[tuple[Ints, Words]]:
        """Rows of lit and of off-exchange trades, each with the row numbers they go to."""
        late_ms = self._lateness(trades.draws)
        is_trf = (trades.draws[:, _A] < TRF_SHARE) | (late_ms > 0)
        values = self._trade_values(trades, late_ms)
        venues = trades.draws[:, _B]
        lit, trf = np.nonzero(~is_trf)[0], np.nonzero(is_trf)[0]
        lit_values = {name: value[lit] for name, value in values.items()}
        trf_values = {name: value[trf] for name, value in values.items()}
        lit_values["x"] = pick(venues[lit], len(_LIT))
        trf_values["x"] = pick(venues[trf], len(_TRF))
        trf_values["trft"] = trf_values["t"]
        return [
            (index[lit], _LIT_TRADE.rows(lit_values)),
            (index[trf], _TRF_TRADE.rows(trf_values)),
        ]

    def _trade_values(self, trades: _Events, late_ms: Ints) -> dict[str, Ints]:
        draws, count = trades.draws, len(trades.t_ms)
        q = self._trade_q + np.cumsum(sequence_steps(draws[:, _GAP]))
        self._trade_q = int(q[-1]) if count else self._trade_q
        number = self._trades + np.arange(1, count + 1)
        self._trades += count
        return {
            "i": number,
            "p": _trade_mills(trades),
            "s": pick(draws[:, _C], len(_SIZES)),
            "c": pick(draws[:, _D], len(_CONDITIONS)),
            "t": trades.t_ms,
            "pt": trades.t_ms - np.where(late_ms > 0, late_ms, trades.lag_ms()),
            "q": q,
        }

    def _lateness(self, draws: Floats) -> Ints:
        """Per trade how late it is reported in ms, 0 for on time."""
        chance = draws[:, _KIND] * 1e6 % 1
        span = LATE_MIN_MS + chance / LATE_SHARE * (LATE_MAX_MS - LATE_MIN_MS)
        late_ms = np.where(chance < LATE_SHARE, span, 0).astype(np.int64)
        ordered = min(self._late_prints, len(late_ms))
        late_ms[:ordered] = self._late_ms
        self._late_prints -= ordered
        return late_ms


def _trade_mills(trades: _Events) -> Ints:
    """At the bid or at the ask, one in ten at the midpoint."""
    place = trades.draws[:, _PLACE]
    at_side = np.where(place < 0.45, trades.bid, trades.ask) * MILLS_PER_CENT
    midpoint = (trades.bid + trades.ask) * MILLS_PER_CENT // 2
    return np.where(place < 0.9, at_side, midpoint)
