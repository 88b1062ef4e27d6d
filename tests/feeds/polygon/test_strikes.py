from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.feeds.polygon.session import Session
from ingestor.feeds.polygon.strikes import (
    MAX_CONTRACTS,
    Action,
    Focus,
    Step,
    StrikeManager,
    StrikePlan,
)
from ingestor.feeds.polygon.subscriptions import Command, Send, channel_names
from ingestor.model.errors import ConfigurationError
from ingestor.model.symbols import parse_option_ticker
from ingestor.model.units import PRICE_SCALE

TUESDAY = dt.date(2025, 12, 16)
WEDNESDAY = dt.date(2025, 12, 17)
NEW_YEARS_EVE = dt.date(2025, 12, 31)
HOURS = MarketHours(OPTIONS)


def e9(price: float) -> int:
    return round(price * PRICE_SCALE)


def manager(**plan: Any) -> StrikeManager:
    return StrikeManager(StrikePlan(**plan), HOURS.trading_days_from)


def strikes(contracts: tuple[str, ...]) -> list[float]:
    return sorted({parse_option_ticker(each).strike_e9 / PRICE_SCALE for each in contracts})


def expiries(contracts: tuple[str, ...]) -> list[str]:
    return sorted({str(parse_option_ticker(each).expiry) for each in contracts})


def tickers(date: str, *prices: int) -> set[str]:
    return {f"O:SPY{date}{right}{price:05d}000" for price in prices for right in "CP"}


def by_action(steps: tuple[Step, ...]) -> list[tuple[Action, set[str]]]:
    return [(step.action, set(step.contracts)) for step in steps]


# What is chosen --------------------------------------------------------------------------------


def test_three_strikes_each_side_of_the_money_both_rights_todays_expiry() -> None:
    (step,) = manager().update(TUESDAY, e9(686.2))
    assert step.action is Action.ADD
    assert set(step.contracts) == tickers("251216", *range(683, 690))
    assert len(step.contracts) == 14


def test_nothing_is_followed_before_the_first_price() -> None:
    strikes_ = manager()
    assert strikes_.update(TUESDAY, None) == ()
    assert strikes_.contracts == ()


@pytest.mark.parametrize(("price", "centre"), [(686.49, 686), (686.5, 687), (686.51, 687)])
def test_the_money_is_the_nearest_strike(price: float, centre: int) -> None:
    strikes_ = manager(each_side=0)
    strikes_.update(TUESDAY, e9(price))
    assert strikes(strikes_.contracts) == [centre]


def test_half_dollar_steps_work() -> None:
    strikes_ = manager(step_e9=e9(0.5), each_side=2)
    strikes_.update(TUESDAY, e9(686.3))
    assert strikes(strikes_.contracts) == [685.5, 686.0, 686.5, 687.0, 687.5]
    assert "O:SPY251216C00686500" in strikes_.contracts


def test_further_expiries_are_the_next_trading_days() -> None:
    strikes_ = manager(each_side=0, expiries_ahead=2)
    strikes_.update(NEW_YEARS_EVE, e9(686))
    assert expiries(strikes_.contracts) == ["2025-12-31", "2026-01-02", "2026-01-05"]


def test_on_a_day_without_trading_the_next_expiry_is_followed() -> None:
    strikes_ = manager(each_side=0)
    strikes_.update(dt.date(2025, 12, 25), e9(686))
    assert expiries(strikes_.contracts) == ["2025-12-26"]


def test_a_focus_strike_has_its_own_range() -> None:
    strikes_ = manager(each_side=1, focus=Focus(e9(700), 1))
    strikes_.update(TUESDAY, e9(686))
    assert strikes(strikes_.contracts) == [685, 686, 687, 699, 700, 701]


def test_a_focus_is_followed_before_the_first_price() -> None:
    strikes_ = manager(focus=Focus(e9(700), each_side=1))
    (step,) = strikes_.update(TUESDAY, None)
    assert set(step.contracts) == tickers("251216", 699, 700, 701)
    strikes_.update(TUESDAY, e9(686.2))
    assert strikes(strikes_.contracts) == [*range(683, 690), 699, 700, 701]


def test_weekly_expiries_are_the_last_trading_days_of_their_weeks() -> None:
    strikes_ = manager(expiries="weekly", expiries_ahead=2)
    strikes_.update(TUESDAY, e9(686))
    assert expiries(strikes_.contracts) == ["2025-12-19", "2025-12-26", "2026-01-02"]


def test_a_weekly_expiry_before_a_holiday_is_the_day_before() -> None:
    strikes_ = manager(expiries="weekly")
    strikes_.update(dt.date(2026, 3, 30), e9(686))  # Good Friday is 3 April
    assert expiries(strikes_.contracts) == ["2026-04-02"]


def test_of_listed_expiries_those_that_are_over_are_passed_over() -> None:
    listed = (dt.date(2026, 1, 16), dt.date(2025, 12, 15), TUESDAY)
    strikes_ = manager(expiries=listed, expiries_ahead=5)
    strikes_.update(TUESDAY, e9(686))
    assert expiries(strikes_.contracts) == ["2025-12-16", "2026-01-16"]
    strikes_.update(WEDNESDAY, e9(686))
    assert expiries(strikes_.contracts) == ["2026-01-16"]
    strikes_.update(dt.date(2026, 1, 17), e9(686))
    assert strikes_.contracts == ()


def test_a_dotted_underlying_has_tickers_without_its_dot() -> None:
    strikes_ = manager(underlying="BRK.B", each_side=0)
    (step,) = strikes_.update(TUESDAY, e9(500))
    assert set(step.contracts) == {f"O:BRKB251216{right}00500000" for right in "CP"}


def test_a_focus_within_the_range_adds_nothing() -> None:
    strikes_ = manager(each_side=1, focus=Focus(e9(686)))
    strikes_.update(TUESDAY, e9(686))
    assert len(strikes_.contracts) == 6


def test_the_cap_keeps_what_is_nearest_to_the_money() -> None:
    strikes_ = manager(max_contracts=5, expiries_ahead=1, focus=Focus(e9(650)))
    strikes_.update(TUESDAY, e9(686.1))
    assert strikes_.contracts == (
        "O:SPY251216C00686000",
        "O:SPY251216P00686000",
        "O:SPY251217C00686000",
        "O:SPY251217P00686000",
        "O:SPY251216C00687000",
    )


def test_no_strike_is_zero_or_below() -> None:
    strikes_ = manager()
    strikes_.update(TUESDAY, e9(1.2))
    assert strikes(strikes_.contracts) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"step_e9": 0},
        {"step_e9": 1},
        {"each_side": -1},
        {"expiries_ahead": -1},
        {"recentre_e9": 0},
        {"recentre_e9": e9(3.501)},
        {"recentre_e9": e9(0.501), "each_side": 0},
        {"focus": Focus(e9(686), -1)},
        {"focus": Focus(1)},
        {"focus": Focus(-e9(1))},
        {"max_contracts": 0},
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong)).removesuffix("_e9")):
        StrikePlan(**wrong)


def test_the_cap_leaves_room_below_the_vendors_thousand() -> None:
    assert StrikePlan().max_contracts == MAX_CONTRACTS < 1000


# When it changes -------------------------------------------------------------------------------


def test_a_move_below_the_threshold_changes_nothing() -> None:
    strikes_ = manager()
    strikes_.update(TUESDAY, e9(686.4))
    assert strikes_.update(TUESDAY, e9(686.89)) == ()
    assert strikes_.update(TUESDAY, e9(685.91)) == ()


def test_a_move_by_the_threshold_adds_before_it_drops() -> None:
    strikes_ = manager()
    strikes_.update(TUESDAY, e9(686.2))
    assert by_action(strikes_.update(TUESDAY, e9(686.7))) == [
        (Action.ADD, tickers("251216", 690)),
        (Action.DROP, tickers("251216", 683)),
    ]


def test_swinging_around_a_boundary_does_not_flap() -> None:
    strikes_ = manager()
    strikes_.update(TUESDAY, e9(686.49))
    swings = [strikes_.update(TUESDAY, e9(686.5 + swing)) for swing in (0.2, -0.2, 0.4, 0.0) * 50]
    assert swings == [()] * 200


def test_many_small_moves_are_followed() -> None:
    strikes_ = manager(each_side=0)
    for cents in range(68_600, 68_901):
        strikes_.update(TUESDAY, cents * 10_000_000)
    assert strikes(strikes_.contracts) == [689]


def test_the_days_change_rolls_to_the_next_expiry() -> None:
    strikes_ = manager(each_side=0)
    strikes_.update(TUESDAY, e9(686))
    assert by_action(strikes_.update(WEDNESDAY, None)) == [
        (Action.ADD, tickers("251217", 686)),
        (Action.DROP, tickers("251216", 686)),
    ]


def test_expiries_that_stay_are_neither_added_nor_dropped() -> None:
    strikes_ = manager(each_side=0, expiries_ahead=1)
    strikes_.update(TUESDAY, e9(686))
    assert by_action(strikes_.update(WEDNESDAY, e9(686))) == [
        (Action.ADD, tickers("251218", 686)),
        (Action.DROP, tickers("251216", 686)),
    ]


def test_where_the_cap_leaves_no_room_what_is_old_is_dropped_in_between() -> None:
    strikes_ = manager(each_side=0, max_contracts=3, expiries_ahead=0)
    strikes_.update(TUESDAY, e9(686))
    steps = strikes_.update(WEDNESDAY, e9(686))
    assert [(step.action, len(step.contracts)) for step in steps] == [
        (Action.ADD, 1),
        (Action.DROP, 2),
        (Action.ADD, 1),
    ]


def test_the_followed_contracts_can_be_asked_for_again() -> None:
    strikes_ = manager()
    (step,) = strikes_.update(TUESDAY, e9(686))
    assert strikes_.contracts == step.contracts
    assert strikes_.update(TUESDAY, e9(686)) == ()


# A walk, down to the messages ------------------------------------------------------------------


class Wire:
    """The options socket: what was sent, and what the vendor would then be serving."""

    def __init__(self, cap: int) -> None:
        self.session = Session("key", (), random=lambda: 0.0)
        self.served: set[str] = set()
        self.messages: list[tuple[str, list[str]]] = []
        self._cap = cap
        self.open()

    def open(self) -> None:
        self.served.clear()
        self.session.on_open(0)
        greeting = (StatusMessage("connected"), StatusMessage("auth_success"))
        self.carry_out(self.session.on_statuses(greeting, 0))

    def carry_out(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            assert isinstance(command, Send)
            message = json.loads(command.text)
            if message["action"] != "auth":
                self._serve(message["action"], message["params"].split(","))

    def _serve(self, action: str, names: list[str]) -> None:
        self.messages.append((action, names))
        assert len(names) == len(set(names))
        if action == "subscribe":
            assert self.served.isdisjoint(names)
            self.served |= set(names)
        else:
            assert self.served >= set(names)
            self.served -= set(names)
        assert len(self.served) <= self._cap

    def take(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            names = channel_names(("T",), step.contracts)
            change = (
                self.session.subscriptions.subscribe
                if step.action is Action.ADD
                else self.session.subscriptions.unsubscribe
            )
            self.carry_out(change(names, 0))


def test_a_walk_over_twenty_strikes_and_a_days_change_sends_exactly_these_messages() -> None:
    strikes_, wire = manager(each_side=1), Wire(MAX_CONTRACTS)
    for price in range(680, 701):
        wire.take(strikes_.update(TUESDAY, e9(price)))
    wire.take(strikes_.update(WEDNESDAY, None))

    def names(date: str, *prices: int) -> list[str]:
        return [f"T.O:SPY{date}{right}{price:05d}000" for price in prices for right in "CP"]

    expected = [("subscribe", names("251216", 680, 679, 681))]
    for price in range(681, 701):
        expected.append(("subscribe", names("251216", price + 1)))
        expected.append(("unsubscribe", names("251216", price - 2)))
    expected.append(("subscribe", names("251217", 700, 699, 701)))
    expected.append(("unsubscribe", names("251216", 700, 699, 701)))
    assert wire.messages == expected


def test_after_a_reconnection_exactly_the_followed_contracts_are_subscribed() -> None:
    strikes_, wire = manager(), Wire(MAX_CONTRACTS)
    for price in (680, 685.5, 684):
        wire.take(strikes_.update(TUESDAY, e9(price)))
    wire.session.on_close(0, "torn")
    wire.take(strikes_.update(TUESDAY, e9(690)))
    wire.open()
    assert wire.served == set(channel_names(("T",), strikes_.contracts))


focuses = st.builds(Focus, st.integers(1, 1400).map(lambda n: n * e9(0.5)), st.integers(0, 2))


@st.composite
def some_plans(draw: st.DrawFn) -> StrikePlan:
    step_e9 = draw(st.sampled_from((e9(0.5), e9(1), e9(5))))
    each_side = draw(st.integers(0, 4))
    return StrikePlan(
        step_e9=step_e9,
        each_side=each_side,
        expiries_ahead=draw(st.integers(0, 2)),
        recentre_e9=draw(st.integers(1, each_side * step_e9 + step_e9 // 2)),
        focus=draw(st.none() | focuses),
        max_contracts=draw(st.integers(1, 40)),
    )


plans = some_plans()
prices = st.none() | st.integers(1, e9(700)) | st.integers(e9(680), e9(700))
walks = st.lists(st.tuples(st.integers(0, 4), prices), max_size=30)


def model(plan: StrikePlan, date: dt.date, anchor_e9: int | None) -> set[tuple[dt.date, int, str]]:
    """The contracts to follow, by looking at every strike there could be."""
    grid = range(plan.step_e9, e9(1500), plan.step_e9)
    wanted: set[int] = set()
    if anchor_e9 is not None:
        middle_e9 = anchor_e9
        nearest = min([0, *grid], key=lambda strike: (abs(strike - middle_e9), -strike))
        reach_e9 = plan.each_side * plan.step_e9
        wanted = {strike for strike in grid if abs(strike - nearest) <= reach_e9}
    elif plan.focus is not None:
        middle_e9 = plan.focus.strike_e9
    else:
        return set()
    if plan.focus is not None:
        offsets = range(-plan.focus.each_side, plan.focus.each_side + 1)
        wanted |= {plan.focus.strike_e9 + offset * plan.step_e9 for offset in offsets}
    days = HOURS.trading_days_from(date, plan.expiries_ahead + 1)
    ranked = sorted(
        (abs(strike - middle_e9), day, strike, right)
        for strike in wanted
        if strike > 0
        for day in days
        for right in "CP"
    )
    return {(day, strike, right) for _, day, strike, right in ranked[: plan.max_contracts]}


@settings(max_examples=150, deadline=None)
@given(plans, walks)
def test_any_walk_follows_the_model_and_serves_no_name_twice_and_none_over_the_cap(
    plan: StrikePlan, walk: list[tuple[int, int | None]]
) -> None:
    strikes_, wire = StrikeManager(plan, HOURS.trading_days_from), Wire(plan.max_contracts)
    date = NEW_YEARS_EVE
    anchor_e9: int | None = None
    for days, price_e9 in walk:
        date += dt.timedelta(days=days)
        wire.take(strikes_.update(date, price_e9))
        if price_e9 is not None and (
            anchor_e9 is None or abs(price_e9 - anchor_e9) >= plan.recentre_e9
        ):
            anchor_e9 = price_e9
        served = [parse_option_ticker(name.removeprefix("T.")) for name in wire.served]
        followed = {(each.expiry, each.strike_e9, each.right) for each in served}
        assert followed == model(plan, date, anchor_e9)


def test_another_plan_is_followed_from_the_next_update_on_around_the_same_price() -> None:
    strikes_ = manager(each_side=1)
    strikes_.update(TUESDAY, e9(686.0))
    strikes_.replan(StrikePlan(each_side=2))
    steps = strikes_.update(TUESDAY, e9(686.2))
    assert by_action(steps) == [(Action.ADD, tickers("251216", 684, 688))]


def test_a_plan_of_fewer_contracts_drops_before_it_adds() -> None:
    strikes_ = manager(each_side=1)
    strikes_.update(TUESDAY, e9(686.0))
    tomorrow = TUESDAY + dt.timedelta(days=1)
    strikes_.replan(StrikePlan(each_side=1, expiries=(tomorrow,), max_contracts=4))
    drop, add = strikes_.update(TUESDAY, e9(686.0))
    assert (drop.action, len(drop.contracts), add.action, len(add.contracts)) == (
        *(Action.DROP, 6),
        *(Action.ADD, 4),
    )
