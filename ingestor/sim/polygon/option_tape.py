"""The option tape: a chain of daily expiries around SPY, trades and quotes of what is wanted.

A price is intrinsic value plus a time value that fades away from the money: enough to look right
and to move with the underlying, not a pricing model. Contracts near the money are busier.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from ingestor.model.errors import BadDataError
from ingestor.model.symbols import OptionTicker, parse_option_ticker
from ingestor.model.units import PRICE_SCALE
from ingestor.sim.polygon.event_stream import (
    CENTS_PER_UNIT,
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
from ingestor.sim.polygon.stock_tape import SYMBOL

ALL_TRADES: Final = "T.*"
EXPIRIES: Final = 4
CHAIN_STRIKES: Final = 20
"""Strikes on each side of the price that trade under ``T.*``."""
E9_PER_CENT: Final = PRICE_SCALE // CENTS_PER_UNIT
FIRST_Q: Final = 1_864_261_653

YEARLY_VOLATILITY: Final = 0.16
NEAR_STRIKES_CENTS: Final = 400
FAR_WEIGHT: Final = 0.002
"""A contract far from the money is quiet, not dead."""
SPREAD_STEP_CENTS: Final = 500

_EXCHANGES: Final = (300, 301, 302, 303, 304, 307, 309, 312, 313, 316)
_SIZES: Final = (1, 1, 1, 1, 2, 3, 5, 10, 20, 50)
_DEPTHS: Final = (1, 5, 8, 12, 17, 24, 40, 85, 130, 210)
_CONDITIONS: Final = ((209,), (227,), (233,), (236,), UNSET, UNSET)

_KIND, _GAP, _PLACE, _A, _B, _C, _D = range(7)
_DRAWS: Final = 7

# The names and the order of the fields are those of the vendor's keys; see `stock_tape` for gc.


class _Trade(msgspec.Struct, tag_field="ev", tag="T", gc=False):
    sym: str
    x: int
    p: float
    s: int
    c: tuple[int, ...] | UnsetType
    t: int
    q: int


class _Quote(msgspec.Struct, tag_field="ev", tag="Q", rename={"as_": "as"}, gc=False):
    sym: str
    bx: int
    ax: int
    bp: float
    ap: float
    bs: int
    as_: int
    t: int
    q: int


def expiries(today: dt.date) -> tuple[dt.date, ...]:
    """Today, if it is a weekday, and the weekdays after it: SPY has one expiry each."""
    days = (today + dt.timedelta(days=ahead) for ahead in range(2 * EXPIRIES + 2))
    return tuple(day for day in days if day.weekday() < 5)[:EXPIRIES]


@dataclass(frozen=True, slots=True, eq=False)
class _Board:
    """The channels that have data, as columns; one entry is one contract's trades or quotes."""

    channels: tuple[str, ...]
    symbols: tuple[str, ...]
    strike_cents: Ints
    direction: Ints
    years: Floats
    is_quote: Bools


class _Events(NamedTuple):
    """A batch before it is written; one row is one event."""

    entry: Ints
    draws: Floats
    theory_cents: Ints
    t_ms: Ints
    q: Ints

    def take(self, rows: Bools) -> _Events:
        return _Events._make(column[rows] for column in self)

    def bid_and_ask_cents(self) -> tuple[Ints, Ints]:
        half = 1 + self.theory_cents // SPREAD_STEP_CENTS
        return np.maximum(self.theory_cents - half, 0), self.theory_cents + half


class OptionTape:
    """Trades and quotes of the wanted contracts; ``today`` is the New York date of the session."""

    def __init__(
        self, seed: int, underlying: Underlying, quote_share: float, today: dt.date
    ) -> None:
        self._rng = np.random.default_rng([seed, 2])
        self._underlying = underlying
        self._quote_share = quote_share
        self._expiries = expiries(today)
        self._q = FIRST_Q
        self._wanted: frozenset[str] = frozenset()
        self._centre = round(underlying.at(0) / CENTS_PER_UNIT)
        self._board: _Board | None = None

    def select(self, subscriptions: Collection[str]) -> bool:
        """Trade and quote the subscribed contracts that exist, or the chain for ``T.*``."""
        self._wanted = frozenset(subscriptions)
        self._board = self._make_board()
        return self._board is not None

    def skip(self, events: int) -> None:
        """The sequence goes on."""
        self._q += events

    def batch(self, due: DueTimes) -> EventBatch:
        """Write the next events. `select` must have said that there are any."""
        spot_cents = self._underlying.cents(due.elapsed_ns)
        board = self._follow(int(spot_cents[0]))
        draws = self._rng.random((len(due), _DRAWS))
        entry = self._pick_entries(board, int(spot_cents[0]), draws[:, _KIND])
        distance = (spot_cents - board.strike_cents[entry]) * board.direction[entry]
        deviation = YEARLY_VOLATILITY * spot_cents * np.sqrt(board.years[entry])
        time_value = 0.4 * deviation * np.exp(-np.abs(distance) / deviation)
        theory_cents: Ints = np.rint(np.maximum(distance, 0) + time_value).astype(np.int64)
        is_quote = board.is_quote[entry]
        q = self._q + np.cumsum(sequence_steps(draws[:, _GAP]))
        # One sequence for trades and quotes of all contracts, as on the vendor's options feed.
        self._q = int(q[-1])
        events = _Events(entry, draws, theory_cents, due.t_ms, q)
        trades = _trades(board, events.take(~is_quote))
        quotes = _quotes(board, events.take(is_quote))
        return EventBatch(write(is_quote, trades, quotes), board.channels, entry, is_quote)

    def chain(self) -> Iterable[OptionTicker]:
        """Contracts around the price, for every expiry."""
        strikes = range(max(1, self._centre - CHAIN_STRIKES), self._centre + CHAIN_STRIKES + 1)
        for expiry in self._expiries:
            for strike in strikes:
                for right in "CP":
                    yield OptionTicker(SYMBOL, expiry, right, strike * PRICE_SCALE)

    def _exists(self, ticker: OptionTicker) -> bool:
        return (
            ticker.underlying == SYMBOL
            and ticker.expiry in self._expiries
            and ticker.strike_e9 > 0
            and ticker.strike_e9 % PRICE_SCALE == 0
        )

    def _follow(self, spot_cents: int) -> _Board:
        """Move the chain along when the price has crossed a strike."""
        centre = round(spot_cents / CENTS_PER_UNIT)
        if centre != self._centre:
            self._centre = centre
            if ALL_TRADES in self._wanted:
                self._board = self._make_board()
        if self._board is None:
            raise RuntimeError("a batch was asked for with nothing selected")
        return self._board

    def _make_board(self) -> _Board | None:
        named = {name: ticker for name in self._wanted if (ticker := self._known(name))}
        if ALL_TRADES in self._wanted:
            named |= {f"T.{ticker.text}": ticker for ticker in self.chain()}
        if not named:
            return None
        channels = tuple(sorted(named))
        tickers = [named[name] for name in channels]
        today = self._expiries[0]
        # Half a day more than the calendar's: what expires today still has time value.
        days = np.array([(ticker.expiry - today).days for ticker in tickers])
        return _Board(
            channels=channels,
            symbols=tuple(ticker.text for ticker in tickers),
            strike_cents=np.array([ticker.strike_e9 // E9_PER_CENT for ticker in tickers]),
            direction=np.array([1 if ticker.right == "C" else -1 for ticker in tickers]),
            years=(days + 0.5) / 365,
            is_quote=np.array([name.startswith("Q.") for name in channels]),
        )

    def _known(self, channel: str) -> OptionTicker | None:
        topic, _, text = channel.partition(".")
        try:
            ticker = parse_option_ticker(text)
        except BadDataError:
            return None
        return ticker if topic in ("T", "Q") and self._exists(ticker) else None

    def _pick_entries(self, board: _Board, spot_cents: int, draws: Floats) -> Ints:
        weight = FAR_WEIGHT + np.exp(-np.abs(board.strike_cents - spot_cents) / NEAR_STRIKES_CENTS)
        for kind, share in ((True, self._quote_share), (False, 1 - self._quote_share)):
            of_kind = board.is_quote == kind
            # Whatever is subscribed, quotes and trades keep their shares; one kind may be missing.
            weight[of_kind] *= share / max(weight[of_kind].sum(), FAR_WEIGHT)
        total = np.cumsum(weight)
        picked: Ints = np.searchsorted(total, draws * total[-1], side="right").astype(np.int64)
        # A draw just below 1 times the sum may round up to the sum itself.
        return picked.clip(max=len(total) - 1)


def _trades(board: _Board, events: _Events) -> Iterable[_Trade]:
    """At the bid or at the ask, one as often as the other."""
    draws = events.draws
    bid_cents, ask_cents = events.bid_and_ask_cents()
    # A worthless contract has no bid to hit; readers refuse a price of 0.
    cents = np.where((draws[:, _PLACE] < 0.5) & (bid_cents > 0), bid_cents, ask_cents)
    return map(
        _Trade,
        [board.symbols[entry] for entry in events.entry.tolist()],
        choose(_EXCHANGES, draws[:, _A]),
        prices(cents * MILLS_PER_CENT),
        choose(_SIZES, draws[:, _C]),
        choose(_CONDITIONS, draws[:, _D]),
        events.t_ms.tolist(),
        events.q.tolist(),
    )


def _quotes(board: _Board, events: _Events) -> Iterable[_Quote]:
    draws = events.draws
    bid_cents, ask_cents = events.bid_and_ask_cents()
    return map(
        _Quote,
        [board.symbols[entry] for entry in events.entry.tolist()],
        choose(_EXCHANGES, draws[:, _A]),
        choose(_EXCHANGES, draws[:, _B]),
        prices(bid_cents * MILLS_PER_CENT),
        prices(ask_cents * MILLS_PER_CENT),
        choose(_DEPTHS, draws[:, _C]),
        choose(_DEPTHS, draws[:, _D]),
        events.t_ms.tolist(),
        events.q.tolist(),
    )
