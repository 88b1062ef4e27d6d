"""Which option contracts to follow while the price of the underlying moves.

Expiries are the trading days from today on, the last trading day of each week from this one on, or
those of a list that are not over: few underlyings have one every day, and the vendor acknowledges
contracts that do not exist. The root of a ticker is the underlying without what is no letter or
digit: contracts of ``BRK.B`` are ``O:BRKB...``.

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
from itertools import pairwise
from typing import Final, Literal

from ingestor.model.errors import ConfigurationError
from ingestor.model.symbols import STRIKE_E9_PER_UNIT, OptionTicker
from ingestor.model.units import PRICE_SCALE, price_text

MAX_CONTRACTS: Final = 950
"""The vendor takes quotes of 1,000 contracts on one connection; the rest is room to churn."""

_DAYS_A_WEEK: Final = 5
"""Trading days, at most."""

MAX_STRIKE_E9: Final = 99_999_999 * STRIKE_E9_PER_UNIT
"""The ticker has eight digits of thousandths."""

Expiries = Literal["daily", "weekly"] | tuple[dt.date, ...]
"""Every trading day, the last one of each week, or these."""

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
    expiries: Expiries = "daily"
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
        # Else the money itself could be without a contract until the price has moved on.
        if self.recentre_e9 > self.covered_e9:
            raise ConfigurationError(
                f"recentre = {price_text(self.recentre_e9)} is more than the"
                f" {price_text(self.covered_e9)} that the strikes cover on each side of the money:"
                " the price would leave them before they move"
            )

    @property
    def covered_e9(self) -> int:
        """How far from the middle strike a price may be whose nearest strike is followed."""
        return self.each_side * self.step_e9 + self.step_e9 // 2

    @property
    def root(self) -> str:
        """The root of the contracts' tickers."""
        return option_root(self.underlying)


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

    @property
    def why_none(self) -> str | None:
        """Why no contract is followed; None where one is, and before the first update."""
        plan, date = self._plan, self._date
        if self._followed or date is None:
            return None
        if not self._expiries(date):
            return f"none of strikes.expiries is left on {date}"
        if self._anchor_e9 is None and plan.focus is None:
            return f"there is no price of {plan.underlying} yet; the stocks feed tells what it sees"
        return f"no strike of {plan.underlying} lies around {price_text(self._anchor_e9 or 0)}"

    def replan(self, plan: StrikePlan) -> None:
        """Follow another plan from the next update on; the anchor stays where it is."""
        self._plan, self._date = plan, None

    def update(self, date: dt.date, price_e9: int | None) -> tuple[Step, ...]:
        """Return the steps for this New York date and the newest price, None if there is none.

        Before the first price only the focus is followed, where there is one.
        """
        anchor_e9 = self._moved(price_e9)
        if (anchor_e9, date) == (self._anchor_e9, self._date):
            return ()
        self._anchor_e9, self._date = anchor_e9, date
        before, self._followed = self._followed, dict.fromkeys(self._choose(anchor_e9, date))
        return tuple(_steps(before, self._followed, self._plan.max_contracts))

    def _moved(self, price_e9: int | None) -> int | None:
        if price_e9 is None:
            return self._anchor_e9
        if self._anchor_e9 is None:
            return price_e9
        # Hysteresis: a price at a boundary would else move the strikes with every quote.
        far = abs(price_e9 - self._anchor_e9) >= self._plan.recentre_e9
        return price_e9 if far else self._anchor_e9

    def _choose(self, anchor_e9: int | None, date: dt.date) -> list[str]:
        tickers = [
            OptionTicker(self._plan.root, expiry, right, strike_e9)
            for expiry in self._expiries(date)
            for strike_e9 in self._strikes(anchor_e9)
            for right in "CP"
        ]
        focus = self._plan.focus
        middle_e9 = anchor_e9 if anchor_e9 is not None else focus.strike_e9 if focus else 0
        # Nearest to the money first: that is what stays when `max_contracts` cuts the list.
        tickers.sort(key=lambda ticker: abs(ticker.strike_e9 - middle_e9))
        return [ticker.text for ticker in tickers[: self._plan.max_contracts]]

    def _expiries(self, date: dt.date) -> Sequence[dt.date]:
        expiries, count = self._plan.expiries, 1 + self._plan.expiries_ahead
        if expiries == "daily":
            return self._trading_days(date, count)
        if expiries == "weekly":
            # One day more than asked for: the last day of a week is known by the first of the next.
            days = self._trading_days(date, count * _DAYS_A_WEEK + 1)
            return [day for day, after in pairwise(days) if _week(day) != _week(after)][:count]
        return sorted(day for day in set(expiries) if day >= date)[:count]

    def _strikes(self, anchor_e9: int | None) -> list[int]:
        step_e9 = self._plan.step_e9
        strikes: set[int] = set()
        if anchor_e9 is not None:
            # Whole numbers, halves up: a float would move a strike at prices that end in .5.
            at_the_money = (2 * anchor_e9 + step_e9) // (2 * step_e9) * step_e9
            strikes.update(_around(at_the_money, self._plan.each_side, step_e9))
        focus = self._plan.focus
        if focus is not None:
            strikes.update(_around(focus.strike_e9, focus.each_side, step_e9))
        return sorted(strike for strike in strikes if _is_a_strike(strike))


def option_root(underlying: str) -> str:
    """Return the root of an underlying's option tickers: ``BRKB`` for ``BRK.B``."""
    return "".join(filter(str.isalnum, underlying))


def _week(day: dt.date) -> tuple[int, int]:
    return day.isocalendar()[:2]


def _is_a_strike(strike_e9: int) -> bool:
    return 0 < strike_e9 <= MAX_STRIKE_E9 and strike_e9 % STRIKE_E9_PER_UNIT == 0


def _around(strike_e9: int, each_side: int, step_e9: int) -> range:
    return range(strike_e9 - each_side * step_e9, strike_e9 + each_side * step_e9 + 1, step_e9)


def _steps(before: dict[str, None], after: dict[str, None], room: int) -> Iterator[Step]:
    new = tuple(name for name in after if name not in before)
    old = tuple(name for name in before if name not in after)
    # What does not fit beside the old waits until they are dropped.
    now = max(0, room - len(before))  # another plan may have less of it than the one before
    for action, contracts in (
        (Action.ADD, new[:now]),
        (Action.DROP, old),
        (Action.ADD, new[now:]),
    ):
        if contracts:
            yield Step(action, contracts)
