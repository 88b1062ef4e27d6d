"""Which option contracts to follow while the price of the underlying moves.

The followed contracts are a plain function of two things: the New York date, and an anchor price
that moves to the newest price only when that is `recentre_e9` or more away. A price that swings
by less than that, around a strike or wherever, changes nothing. Each update answers with the
steps from the contracts followed before to those to follow now: what is new is added before what
is old is dropped, as far as `max_contracts` leaves room at every moment.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ingestor.errors import ConfigurationError
from ingestor.symbols import STRIKE_E9_PER_UNIT, OptionTicker
from ingestor.units import PRICE_SCALE

MAX_CONTRACTS: Final = 950
"""The vendor takes quotes of 1,000 contracts on one connection; the rest is room to churn."""

MAX_STRIKE_E9: Final = 99_999_999 * STRIKE_E9_PER_UNIT
"""The ticker has eight digits of thousandths."""

TradingDays = Callable[[dt.date, int], Sequence[dt.date]]
"""The first n trading days on or after a date, as `MarketHours.trading_days_from`."""


@dataclass(frozen=True, slots=True)
class Focus:
    """A strike to follow whatever the price does, with `each_side` strikes around it."""

    strike_e9: int
    each_side: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StrikePlan:
    """What to follow; prices and steps in 1e-9. Raises `ConfigurationError`."""

    underlying: str = "SPY"
    step_e9: int = PRICE_SCALE
    each_side: int = 3
    expiries_ahead: int = 0
    recentre_e9: int = PRICE_SCALE // 2
    focus: Focus | None = None
    max_contracts: int = MAX_CONTRACTS

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        focus = self.focus or Focus(STRIKE_E9_PER_UNIT)
        checks = {
            "step_e9": self.step_e9 > 0 and self.step_e9 % STRIKE_E9_PER_UNIT == 0,
            "each_side": self.each_side >= 0,
            "expiries_ahead": self.expiries_ahead >= 0,
            "recentre_e9": self.recentre_e9 > 0,
            "focus": focus.each_side >= 0 and _is_a_strike(focus.strike_e9),
            "max_contracts": self.max_contracts > 0,
        }
        for name, sound in checks.items():
            if not sound:
                raise ConfigurationError(f"{name} = {getattr(self, name)} cannot be followed")


class Action(StrEnum):
    """What to do with contracts."""

    ADD = "add"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Step:
    """Add or drop these option tickers (``O:SPY251216C00686000``); never empty."""

    action: Action
    contracts: tuple[str, ...]


class StrikeManager:
    """Keeps the set of followed contracts; it outlives reconnections."""

    def __init__(self, plan: StrikePlan, trading_days: TradingDays) -> None:
        self._plan = plan
        self._trading_days = trading_days
        self._anchor_e9: int | None = None
        self._date: dt.date | None = None
        self._followed: dict[str, None] = {}

    @property
    def contracts(self) -> tuple[str, ...]:
        """Tickers followed now, nearest to the money first."""
        return tuple(self._followed)

    def update(self, date: dt.date, price_e9: int | None) -> tuple[Step, ...]:
        """Return the steps for this New York date and the newest price, None if there is none.

        Nothing is followed before the first price.
        """
        anchor_e9 = self._moved(price_e9)
        if anchor_e9 is None or (anchor_e9, date) == (self._anchor_e9, self._date):
            return ()
        self._anchor_e9, self._date = anchor_e9, date
        before, self._followed = self._followed, dict.fromkeys(self._choose(anchor_e9, date))
        return tuple(_steps(before, self._followed, self._plan.max_contracts))

    def _moved(self, price_e9: int | None) -> int | None:
        if price_e9 is None:
            return self._anchor_e9
        if self._anchor_e9 is None:
            return price_e9
        far = abs(price_e9 - self._anchor_e9) >= self._plan.recentre_e9
        return price_e9 if far else self._anchor_e9

    def _choose(self, anchor_e9: int, date: dt.date) -> list[str]:
        tickers = [
            OptionTicker(self._plan.underlying, expiry, right, strike_e9)
            for expiry in self._trading_days(date, 1 + self._plan.expiries_ahead)
            for strike_e9 in self._strikes(anchor_e9)
            for right in "CP"
        ]
        tickers.sort(key=lambda ticker: abs(ticker.strike_e9 - anchor_e9))
        return [ticker.text for ticker in tickers[: self._plan.max_contracts]]

    def _strikes(self, anchor_e9: int) -> list[int]:
        step_e9 = self._plan.step_e9
        at_the_money = (2 * anchor_e9 + step_e9) // (2 * step_e9) * step_e9
        strikes = set(_around(at_the_money, self._plan.each_side, step_e9))
        focus = self._plan.focus
        if focus is not None:
            strikes.update(_around(focus.strike_e9, focus.each_side, step_e9))
        return sorted(strike for strike in strikes if _is_a_strike(strike))


def _is_a_strike(strike_e9: int) -> bool:
    return 0 < strike_e9 <= MAX_STRIKE_E9 and strike_e9 % STRIKE_E9_PER_UNIT == 0


def _around(strike_e9: int, each_side: int, step_e9: int) -> range:
    return range(strike_e9 - each_side * step_e9, strike_e9 + each_side * step_e9 + 1, step_e9)


def _steps(before: dict[str, None], after: dict[str, None], room: int) -> Iterator[Step]:
    new = tuple(name for name in after if name not in before)
    old = tuple(name for name in before if name not in after)
    now = room - len(before)
    for action, contracts in (
        (Action.ADD, new[:now]),
        (Action.DROP, old),
        (Action.ADD, new[now:]),
    ):
        if contracts:
            yield Step(action, contracts)
