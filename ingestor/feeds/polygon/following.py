"""Turns the movements of the followed contracts into subscriptions, adds before drops."""

from __future__ import annotations

import datetime as dt
from typing import Final

from ingestor.feeds.polygon.outputs import Output, channel_names
from ingestor.feeds.polygon.session import Session
from ingestor.feeds.polygon.settings import Strikes
from ingestor.feeds.polygon.strikes import Action

TRADES: Final = ("T",)
TRADES_AND_QUOTES: Final = ("T", "Q")


def follow(strikes: Strikes, session: Session, date: dt.date, now_ns: int) -> tuple[Output, ...]:
    """Bring the session's names up to the price of now and this New York date."""
    channels = TRADES_AND_QUOTES if strikes.quotes else TRADES
    outputs: list[Output] = []
    for step in strikes.manager.update(date, strikes.price()):
        change = session.subscribe if step.action is Action.ADD else session.unsubscribe
        outputs += change(channel_names(channels, step.contracts), now_ns)
    return tuple(outputs)
