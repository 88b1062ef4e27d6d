"""From quotes of the underlying to subscribed contracts.

The stocks feed follows the *reference price* that strikes are centred on: the mid of the newest
sane quote, else the last trade. A quote is sane with both sides, not crossed, and no wider than
`MAX_SPREAD_E9` or the part of its mid that `SPREAD_SHARE` says, whichever is more: shares of 5,000
trade 4.50 apart. A trade counts when it was reported in time, on an exchange (not through a
reporting facility), and under ordinary conditions only. The trade is asked only where no sane quote
was seen for `QUOTE_FRESH_NS`. Quotes that stay too wide, with no trade between them, leave the
strikes without a price or with an old one; that is said once, until there is a price again.

The options feed, in another process, asks for that price at every tick. `OptionFollower` turns the
movements of the followed contracts (`ingestor.feeds.polygon.strikes`) into subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ingestor.feeds.polygon.decode import Decoded
from ingestor.feeds.polygon.hours import MarketHours
from ingestor.feeds.polygon.session import Phase, Session
from ingestor.feeds.polygon.strikes import Action, StrikeManager, StrikePlan
from ingestor.feeds.polygon.subscriptions import Command, Report, ReportKind, channel_names
from ingestor.model.blocks import Int64s
from ingestor.model.records import STOCK_QUOTE, RType
from ingestor.model.units import NS_PER_S, PRICE_SCALE, UNDEF_PRICE, new_york_date, price_text

MAX_SPREAD_E9: Final = PRICE_SCALE // 2
SPREAD_SHARE: Final = 1_000
"""A thousandth."""

QUOTE_FRESH_NS: Final = 10 * NS_PER_S

OFF_EXCHANGE: Final = 4
"""Exchange id of the reporting facilities (FINRA)."""

ORDINARY_CONDITIONS: Final = frozenset((0, 3, 12, 14, 41))
"""Regular, automatic execution, extended hours, intermarket sweep, trade-through exempt. Not
among them: odd lots (37), average and derived prices, crosses, out of sequence, next day."""


TRADES: Final = ("T",)
TRADES_AND_QUOTES: Final = ("T", "Q")

_ROW_WORDS: Final = STOCK_QUOTE.itemsize // 8
"""Words of eight bytes a row of either type takes: four of the envelope, then bid and ask."""


class ReferencePrice:
    """Follows one symbol through the decoded frames of /stocks."""

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self._id: int | None = None
        self._mid: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None
        self._without_ns: int | None = None
        self._told = False

    @property
    def price_e9(self) -> int | None:
        """The reference in 1e-9; None before the first sane quote or ordinary trade."""
        # A trade may be off the market or minutes old; a quote is what one can trade at.
        newest = self._mid or self._last
        if self._mid and self._last and self._last[1] - self._mid[1] > QUOTE_FRESH_NS:
            newest = self._last
        return newest and newest[0]

    def on_frame(self, decoded: Decoded) -> str | None:
        """Note the newest sane quote of a frame, else its newest ordinary trade.

        Returns, once for each time without a price, why there is none.
        """
        for instrument_id, symbol in decoded.new_symbols:
            if symbol == self._symbol:
                self._id = instrument_id
        if self._id is None or not len(decoded.records):
            return None
        # One comparison over eight-byte words finds the rows: no field of the records is unpacked.
        words = decoded.records.view(np.int64)
        quotes = self._rows_of(words, RType.STOCK_QUOTE)
        # The newest sane one decides; the quotes before it in the frame are history.
        if self._note_quote(words, quotes):
            return None
        if self._note_trade(decoded, self._rows_of(words, RType.STOCK_TRADE)) or not quotes:
            return None
        return self._trouble(*_sides(words, quotes[-1]))

    def _rows_of(self, words: Int64s, rtype: RType) -> list[int]:
        """Return the rows of a type: the first word of a row holds its type and instrument."""
        head = _ROW_WORDS * 2 | rtype << 8 | (self._id or 0) << 32
        rows: list[int] = (words[::_ROW_WORDS] == head).nonzero()[0].tolist()
        return rows

    def _note_quote(self, words: Int64s, rows: list[int]) -> bool:
        for row in reversed(rows):
            bid_e9, ask_e9, recv_ns = _sides(words, row)
            if 0 <= _spread_e9(bid_e9, ask_e9) <= _widest_e9(bid_e9, ask_e9):
                self._mid = ((bid_e9 + ask_e9) // 2, recv_ns)
                self._without_ns, self._told = None, False
                return True
        return False

    def _note_trade(self, decoded: Decoded, rows: list[int]) -> bool:
        for row in reversed(rows):
            trade = decoded.records[row]
            if row not in decoded.late and _is_ordinary(trade):
                self._last = (int(trade["price_e9"]), int(trade["ts_recv_ns"]))
                self._without_ns, self._told = None, False
                return True
        return False

    def _trouble(self, bid_e9: int, ask_e9: int, recv_ns: int) -> str | None:
        """Return why this quote, the newest, gives no price, if that was so for a while."""
        widest_e9 = _widest_e9(bid_e9, ask_e9)
        if _spread_e9(bid_e9, ask_e9) <= widest_e9:
            return None
        if self._without_ns is None:
            self._without_ns = recv_ns
        # One wide quote between two sane ones is common and means nothing.
        if self._told or recv_ns - self._without_ns < QUOTE_FRESH_NS:
            return None
        self._told = True
        price_e9 = self.price_e9
        kept = "" if price_e9 is None else f"; the price stays {price_text(price_e9)}"
        return (
            f"no price of {self._symbol} for {QUOTE_FRESH_NS // NS_PER_S} s: its newest quote,"
            f" {price_text(bid_e9)} to {price_text(ask_e9)}, is wider than the"
            f" {price_text(widest_e9)} that tell one, and nothing was traded{kept}"
        )


def _sides(words: Int64s, row: int) -> tuple[int, int, int]:
    """Return bid and ask in 1e-9, and when it was received, of a row that is a quote."""
    _, _, recv_ns, _, bid_e9, ask_e9 = words[row * _ROW_WORDS :][:6].tolist()
    return bid_e9, ask_e9, recv_ns


def _spread_e9(bid_e9: int, ask_e9: int) -> int:
    """Ask less bid; below 0 for a quote with a side missing, as for a crossed one."""
    return -1 if UNDEF_PRICE in (bid_e9, ask_e9) else ask_e9 - bid_e9


def _widest_e9(bid_e9: int, ask_e9: int) -> int:
    return max(MAX_SPREAD_E9, (bid_e9 + ask_e9) // 2 // SPREAD_SHARE)


def _is_ordinary(trade: Any) -> bool:
    if trade["exchange"] == OFF_EXCHANGE:
        return False
    codes = trade["conditions"][: trade["n_conditions"]].tolist()
    return ORDINARY_CONDITIONS.issuperset(codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedStrikes:
    """Which contracts an options feed follows: what moves them, and what is subscribed of each.

    `price` answers with the newest reference price in 1e-9, None before the first; it is asked
    some ten times a second. With `quotes` the contracts' quotes are subscribed beside their trades.
    `replanned` is asked as often for a plan to follow instead, and answers with each one once.
    """

    manager: StrikeManager
    price: Callable[[], int | None]
    quotes: bool = False
    replanned: Callable[[], StrikePlan | None] = lambda: None


class OptionFollower:
    """Keeps a session's names up with the price and the date; says so where it follows nothing.

    Times are int nanoseconds: `now_ns` of a clock that cannot be set, `wall_ns` UTC.
    """

    def __init__(
        self, strikes: FollowedStrikes, session: Session, hours: MarketHours, patience_ns: int
    ) -> None:
        """`patience_ns` is how long nothing may be followed, unsaid, in an open market."""
        self._strikes = strikes
        self._session = session
        self._hours = hours
        self._patience_ns = patience_ns
        self._channels = TRADES_AND_QUOTES if strikes.quotes else TRADES
        self._idle_since_ns: int | None = None
        self._told: str | None = None

    def on_tick(self, now_ns: int, wall_ns: int) -> tuple[Command, ...]:
        """Bring the names up to the price of now and the New York date of now."""
        commands: list[Command] = []
        date, subscriptions = new_york_date(wall_ns), self._session.subscriptions
        plan = self._strikes.replanned()
        if plan is not None:
            self._strikes.manager.replan(plan)
        counts = {Action.ADD: 0, Action.DROP: 0}
        for step in self._strikes.manager.update(date, self._strikes.price()):
            # Adds come first, so that no strike near the price is without data.
            adds = step.action is Action.ADD
            change = subscriptions.subscribe if adds else subscriptions.unsubscribe
            commands += change(channel_names(self._channels, step.contracts), now_ns)
            counts[step.action] += len(step.contracts)
        if plan is not None:
            text = f"strikes: {counts[Action.ADD]} contracts added, {counts[Action.DROP]} removed"
            commands.append(Report(ReportKind.SETTINGS, text))
        return (*commands, *self._complain(now_ns, wall_ns))

    def _complain(self, now_ns: int, wall_ns: int) -> tuple[Report, ...]:
        """Say why nothing is followed: once, and again when the reason is another one."""
        reason = self._strikes.manager.why_none
        if reason is None or self._hours.open_since_ns(wall_ns) is None:
            self._idle_since_ns = self._told = None
            return ()
        # Without a connection the reason is another one, and told by others.
        if self._session.phase is not Phase.STREAMING:
            self._idle_since_ns = None
            return ()
        if self._idle_since_ns is None:
            self._idle_since_ns = now_ns
        if reason == self._told or now_ns - self._idle_since_ns < self._patience_ns:
            return ()
        self._told = reason
        idle_s = (now_ns - self._idle_since_ns) / NS_PER_S
        text = f"no option contract is followed for {idle_s:.0f} s: {reason}"
        return (Report(ReportKind.NOT_FOLLOWED, text),)
