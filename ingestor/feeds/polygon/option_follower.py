"""Turns the movements of the followed contracts into subscriptions, adds before drops."""

from __future__ import annotations

from typing import Final

from ingestor.feeds.polygon.commands import Command, Report, ReportKind, channel_names
from ingestor.feeds.polygon.hours import MarketHours
from ingestor.feeds.polygon.session import Phase, Session
from ingestor.feeds.polygon.settings import Strikes
from ingestor.feeds.polygon.strikes import Action
from ingestor.model.clock import new_york_date
from ingestor.model.units import NS_PER_S

TRADES: Final = ("T",)
TRADES_AND_QUOTES: Final = ("T", "Q")


class OptionFollower:
    """Keeps a session's names up with the price and the date; says so where it follows nothing.

    Times are int nanoseconds: `now_ns` of a clock that cannot be set, `wall_ns` UTC.
    """

    def __init__(
        self, strikes: Strikes, session: Session, hours: MarketHours, patience_ns: int
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
        date = new_york_date(wall_ns)
        for step in self._strikes.manager.update(date, self._strikes.price()):
            adds = step.action is Action.ADD
            change = self._session.subscribe if adds else self._session.unsubscribe
            commands += change(channel_names(self._channels, step.contracts), now_ns)
        return (*commands, *self._complain(now_ns, wall_ns))

    def _complain(self, now_ns: int, wall_ns: int) -> tuple[Report, ...]:
        """Say why nothing is followed: once, and again when the reason is another one."""
        reason = self._strikes.manager.why_none
        if reason is None or self._hours.open_since_ns(wall_ns) is None:
            self._idle_since_ns = self._told = None
            return ()
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
