"""An options feed: contracts that follow the price, their trades and quotes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.feeds.polygon.option_follower import FollowedStrikes
from ingestor.feeds.polygon.strikes import StrikeManager, StrikePlan
from ingestor.feeds.polygon.subscriptions import channel_names
from ingestor.model.events import OptionTrade
from ingestor.model.feed_status import What
from ingestor.model.symbols import OptionTicker
from ingestor.model.units import NS_PER_S, PRICE_SCALE, new_york_date, new_york_ns, now_ns
from tests.feeds.polygon.rig import QUICK, WORKDAY, Options, Rig, clock_from, drive
from tests.sim.polygon.conftest import Start

HOURS = MarketHours(OPTIONS)
EXPIRY = HOURS.trading_days_from(new_york_date(now_ns()), 1)[0]


class Price:
    """What the stocks feed would say."""

    def __init__(self, dollars: float | None = None) -> None:
        self.e9 = None if dollars is None else round(dollars * PRICE_SCALE)

    def set(self, dollars: float) -> None:
        self.e9 = round(dollars * PRICE_SCALE)

    def __call__(self) -> int | None:
        return self.e9


def following(price: Price, *, quotes: bool = False, **plan: Any) -> Options:
    manager = StrikeManager(StrikePlan(**plan), HOURS.trading_days_from)
    return Options(strikes=FollowedStrikes(manager=manager, price=price, quotes=quotes))


def contracts(strikes: Sequence[int], expiry: dt.date = EXPIRY) -> set[str]:
    tickers = (
        OptionTicker("SPY", expiry, right, s * PRICE_SCALE) for s in strikes for right in "CP"
    )
    return {ticker.text for ticker in tickers}


def trades_of(strikes: Sequence[int], expiry: dt.date = EXPIRY) -> set[str]:
    return set(channel_names(("T",), contracts(strikes, expiry)))


def test_contracts_around_the_price_stream_with_their_quotes(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 28)
        await rig.until_rows(200)

    options = following(Price(686.2), quotes=True)
    sink = drive(start("--options-rate", "1000"), scenario, (), options=options)
    events = trades(sink.events())
    assert {event.option_symbol for event in events} <= contracts(range(683, 690))
    quoted = [event for event in events if event.opt_bid and event.opt_ask]
    assert all(event.opt_bid < event.opt_ask for event in quoted if event.opt_bid)  # type: ignore[operator]
    assert any(event.aggressor for event in quoted)
    assert not any(event.aggressor for event in events if not event.opt_bid and not event.opt_ask)


def trades(events: Sequence[Any]) -> list[OptionTrade]:
    assert all(isinstance(event, OptionTrade) for event in events)
    return list(events)


def test_without_quotes_only_trades_are_subscribed(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        ((_, names),) = rig.history()
        assert set(names) == trades_of(range(683, 690))

    sink = drive(start("--options-rate", "500"), scenario, (), options=following(Price(686.2)))
    events = trades(sink.events())
    assert {(event.opt_bid, event.opt_ask, event.aggressor) for event in events} == {
        (None, None, 0)
    }


def test_nothing_is_asked_for_before_there_is_a_price(start: Start) -> None:
    price = Price()

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.streaming)
        assert rig.history() == []
        price.set(700.0)
        await rig.until(lambda: rig.sink.counts.subscribed == 14)

    drive(start(), scenario, (), options=following(price))


def test_following_nothing_in_an_open_market_is_an_alarm_with_its_reason(start: Start) -> None:
    price = Price()

    async def scenario(rig: Rig) -> None:
        await rig.until_told(What.ALARM)
        price.set(686.0)
        await rig.until(lambda: rig.sink.counts.subscribed == 14)

    impatient = replace(QUICK, unfollowed_ns=NS_PER_S // 5)
    sink = drive(
        start(),
        scenario,
        (),
        options=following(price),
        session=impatient,
        clock=clock_from(WORKDAY),
    )
    (text,) = sink.alarms()
    assert text.startswith("no option contract is followed for 0 s: there is no price of SPY yet")


def test_a_walk_across_twenty_strikes_asks_for_each_contract_once(start: Start) -> None:
    """The price comes from a stocks feed's eyes: the simulator's own SPY, walking."""
    price, most = Price(686.0), 20

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 14)
        rig.control("price", value=706, over_s=2)
        while price.e9 != 706 * PRICE_SCALE:
            price.set(rig.control("stats")["price"])
            await rig.until_beat()
            held = rig.stats()["connections"][0]["subscriptions"]
            assert len(held) <= most
        await rig.until(lambda: set(subscriptions(rig)) == trades_of(range(703, 710)))
        for name, messages in names_by_message(rig).items():
            kinds = [kind for kind, _ in messages]
            assert kinds in (["subscribe"], ["subscribe", "unsubscribe"]), name
        asked = [name for _, names in rig.history() for name in names]
        dropped = [name for _, names in rig.history("unsubscribe") for name in names]
        assert len(asked) == len(set(asked))
        assert set(asked) == trades_of(range(683, 710))
        assert len(dropped) == len(set(dropped))
        assert set(dropped) == trades_of(range(683, 703))

    options = following(price, max_contracts=most)
    drive(start("--volatility", "0"), scenario, (), options=options)


def subscriptions(rig: Rig) -> list[str]:
    return list(rig.stats()["connections"][0]["subscriptions"])


def names_by_message(rig: Rig) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for at, said in enumerate(rig.stats()["history"]):
        if said["action"] != "auth":
            for name in said["params"].split(","):
                found.setdefault(name, []).append((said["action"], at))
    return found


def test_what_is_new_is_asked_for_before_what_is_old_is_dropped(start: Start) -> None:
    price = Price(686.0)

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 14)
        price.set(688.0)
        await rig.until(lambda: len(rig.stats()["history"]) == 4)
        assert [(said["action"], set(said["params"].split(","))) for said in later(rig)] == [
            ("subscribe", trades_of((690, 691))),
            ("unsubscribe", trades_of((683, 684))),
        ]

    drive(start(), scenario, (), options=following(price))


def later(rig: Rig) -> list[dict[str, Any]]:
    return list(rig.stats()["history"][2:])


def test_after_a_reconnection_the_contracts_of_now_are_asked_for(start: Start) -> None:
    price = Price(686.0)

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 14)
        rig.control("refuse", for_s=0.5)
        rig.control("drop")
        await rig.until(lambda: not rig.sink.counts.streaming)
        price.set(690.0)
        await rig.until(lambda: rig.sink.counts.subscribed == 14)
        connection, names = rig.history()[-1]
        assert connection == 2
        assert set(names) == trades_of(range(687, 694))
        assert len(names) == 14
        assert rig.history("unsubscribe") == []

    drive(start(), scenario, (), options=following(price))


def test_a_new_day_brings_a_new_expiry(start: Start) -> None:
    """New York's midnight comes once the old day's contracts are subscribed."""
    today = dt.date(2025, 12, 16)
    tomorrow = dt.date(2025, 12, 17)
    midnight_ns = new_york_ns(tomorrow, dt.time())
    ahead_ns = [midnight_ns - 60 * NS_PER_S - now_ns()]

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 14)
        ahead_ns[0] += 60 * NS_PER_S
        await rig.until(lambda: len(rig.stats()["history"]) == 4)
        asked, dropped = later(rig)
        first = rig.stats()["history"][1]
        assert set(first["params"].split(",")) == trades_of(range(683, 690), today)
        assert (asked["action"], dropped["action"]) == ("subscribe", "unsubscribe")
        assert set(asked["params"].split(",")) == trades_of(range(683, 690), tomorrow)
        assert set(dropped["params"].split(",")) == trades_of(range(683, 690), today)
        await rig.until(lambda: rig.sink.counts.subscribed == 14)

    options = following(Price(686.0))
    sink = drive(start(), scenario, (), options=options, clock=lambda: now_ns() + ahead_ns[0])
    assert sink.counts.alarms == 0


@pytest.mark.parametrize("quotes", [False, True])
def test_all_of_a_wide_plan_is_granted(start: Start, quotes: bool) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 950 * (1 + quotes))

    options = following(Price(686.0), quotes=quotes, each_side=200, expiries_ahead=2)
    patient = replace(QUICK, ack_ns=10 * NS_PER_S)
    sink = drive(start(), scenario, (), options=options, session=patient)
    assert sink.told(What.ALARM) == []
