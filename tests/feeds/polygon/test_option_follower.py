from __future__ import annotations

import datetime as dt
from typing import Any

from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.feeds.polygon.option_follower import FollowedStrikes, OptionFollower
from ingestor.feeds.polygon.session import Session
from ingestor.feeds.polygon.strikes import Focus, StrikeManager, StrikePlan
from ingestor.feeds.polygon.subscriptions import Command, Report, ReportKind, Send
from ingestor.model.units import NS_PER_S, PRICE_SCALE, new_york_ns

HOURS = MarketHours(OPTIONS)
TUESDAY = dt.date(2025, 12, 16)
NOON = new_york_ns(TUESDAY, dt.time(12))
PATIENCE = 60 * NS_PER_S


class Following:
    """A follower whose session streams; `at` looks around after so many seconds."""

    def __init__(self, wall_ns: int = NOON, **plan: Any) -> None:
        self.price_e9: int | None = None
        self.session = Session("key", (), random=lambda: 0.5)
        self.open()
        manager = StrikeManager(StrikePlan(**plan), HOURS.trading_days_from)
        self.plans: list[StrikePlan] = []
        strikes = FollowedStrikes(
            manager=manager,
            price=lambda: self.price_e9,
            replanned=lambda: self.plans.pop() if self.plans else None,
        )
        self._follower = OptionFollower(strikes, self.session, HOURS, PATIENCE)
        self._wall_ns = wall_ns

    def open(self) -> None:
        self.session.on_open(0)
        self.session.on_statuses((StatusMessage("connected"), StatusMessage("auth_success")), 0)

    def at(self, seconds: float) -> tuple[Command, ...]:
        after_ns = round(seconds * NS_PER_S)
        return self._follower.on_tick(after_ns, self._wall_ns + after_ns)

    def told(self, seconds: float) -> list[str]:
        reports = [each for each in self.at(seconds) if isinstance(each, Report)]
        assert all(report.kind is ReportKind.NOT_FOLLOWED for report in reports)
        return [report.text for report in reports]


def test_without_a_price_that_is_told_once_when_time_is_up() -> None:
    following = Following()
    assert following.told(0) == []
    assert following.told(59.9) == []
    assert following.told(60) == [
        "no option contract is followed for 60 s: there is no price of SPY yet;"
        " the stocks feed tells what it sees"
    ]
    assert following.told(61) == following.told(3600) == []


def test_listed_expiries_that_are_over_are_told() -> None:
    following = Following(expiries=(dt.date(2025, 12, 12),))
    following.price_e9 = 686 * PRICE_SCALE
    following.at(0)
    assert following.told(60) == [
        "no option contract is followed for 60 s: none of strikes.expiries is left on 2025-12-16"
    ]


def test_another_reason_is_told_anew() -> None:
    following = Following(each_side=0)
    following.at(0)
    assert "no price of SPY" in following.told(60)[0]
    following.price_e9 = PRICE_SCALE // 4
    (text,) = following.told(61)
    assert text.endswith("no strike of SPY lies around 0.25")
    assert following.told(62) == []


def test_what_is_followed_is_subscribed_and_nothing_is_told() -> None:
    following = Following()
    following.at(0)
    following.price_e9 = 686 * PRICE_SCALE
    (send,) = following.at(59)
    assert isinstance(send, Send)
    assert len(send.names) == 14
    assert following.told(3600) == []


def test_a_focus_needs_no_price() -> None:
    following = Following(focus=Focus(700 * PRICE_SCALE))
    assert len(following.at(0)) == 1
    assert following.told(60) == []


def test_a_closed_market_follows_nothing_without_a_word_and_the_next_day_is_told_anew() -> None:
    following = Following()
    following.at(0)
    assert following.told(60)
    evening = 8 * 3600
    assert following.told(evening) == following.told(evening + 120) == []
    following.at(24 * 3600)
    assert len(following.told(24 * 3600 + 60)) == 1


def test_time_without_a_connection_does_not_count_and_a_reason_is_not_repeated_after_it() -> None:
    following = Following()
    following.at(0)
    following.session.on_close(0, "gone")
    assert following.told(100) == []
    following.open()
    assert following.told(101) == following.told(160) == []
    assert following.told(161)
    following.session.on_close(0, "gone")
    following.at(162)
    following.open()
    assert following.told(163) == following.told(300) == []


def test_another_plan_is_followed_at_once_and_reported_once() -> None:
    following = Following(each_side=1)
    following.price_e9 = 686 * PRICE_SCALE
    following.at(0)
    following.plans.append(StrikePlan(each_side=2))
    *_, report = following.at(1)
    assert report == Report(ReportKind.SETTINGS, "strikes: 4 contracts added, 0 removed")
    assert len(following.session.subscriptions.wanted) == 10
    assert following.at(2) == ()
