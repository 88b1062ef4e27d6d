from __future__ import annotations

import datetime as dt

import pytest

from ingestor.model.symbols import parse_option_ticker
from ingestor.model.units import NS_PER_S
from ingestor.sim.polygon.event_stream import Underlying
from ingestor.sim.polygon.option_tape import CHAIN_STRIKES, EXPIRIES, OptionTape, expiries
from tests.sim.polygon.helpers import Event, due, events_of

TUESDAY = dt.date(2026, 11, 24)
CALL, PUT = "O:SPY261124C00686000", "O:SPY261124P00686000"


def tape(underlying: Underlying | None = None) -> OptionTape:
    return OptionTape(1, underlying or Underlying(1, 68_600, 0), 0.5, TUESDAY)


def events(*subscriptions: str, count: int = 2_000) -> list[Event]:
    market = tape()
    assert market.select(subscriptions)
    return events_of(market.batch(due(0, count)))


def test_expiries_are_today_and_the_next_weekdays() -> None:
    assert expiries(TUESDAY) == tuple(dt.date(2026, 11, day) for day in (24, 25, 26, 27))


def test_expiries_leave_the_weekend_out() -> None:
    assert expiries(dt.date(2026, 11, 28))[0] == dt.date(2026, 11, 30)
    assert len(expiries(dt.date(2026, 11, 28))) == EXPIRIES


def test_only_subscribed_contracts_and_topics_have_data() -> None:
    seen = {(event["ev"], event["sym"]) for event in events(f"T.{CALL}", f"Q.{PUT}")}
    assert seen == {("T", CALL), ("Q", PUT)}


def test_all_trades_cover_the_chain_around_the_price_and_no_quotes() -> None:
    seen = events("T.*", count=20_000)
    assert {event["ev"] for event in seen} == {"T"}
    tickers = {parse_option_ticker(event["sym"]) for event in seen}
    strikes = {ticker.strike_e9 // NS_PER_S for ticker in tickers}
    assert max(strikes) <= 686 + CHAIN_STRIKES
    assert min(strikes) >= 686 - CHAIN_STRIKES
    assert {ticker.expiry for ticker in tickers} == set(expiries(TUESDAY))
    assert {ticker.right for ticker in tickers} == {"C", "P"}


def test_contracts_near_the_money_are_busier() -> None:
    far = "O:SPY261124C00720000"
    seen = [event["sym"] for event in events(f"T.{CALL}", f"T.{far}")]
    assert seen.count(CALL) > 10 * seen.count(far) > 0


def test_trades_have_the_vendors_keys() -> None:
    seen = events(f"T.{CALL}")
    assert all(event.keys() - {"c"} == {"ev", "sym", "x", "p", "s", "t", "q"} for event in seen)
    assert any("c" in event for event in seen)
    assert any("c" not in event for event in seen)


def test_quotes_have_the_vendors_keys() -> None:
    keys = {"ev", "sym", "bx", "ax", "bp", "ap", "bs", "as", "t", "q"}
    assert all(event.keys() == keys for event in events(f"Q.{CALL}"))


def test_one_sequence_runs_through_all_contracts() -> None:
    sequence = [event["q"] for event in events(f"T.{CALL}", f"Q.{PUT}")]
    assert sequence == sorted(set(sequence))


def test_a_trade_prints_at_a_quoted_price() -> None:
    seen = events(f"T.{CALL}", f"Q.{CALL}")
    quoted = {event[side] for event in seen if event["ev"] == "Q" for side in ("bp", "ap")}
    assert {event["p"] for event in seen if event["ev"] == "T"} == quoted


def test_a_contract_in_the_money_is_worth_at_least_its_intrinsic_value() -> None:
    seen = events("Q.O:SPY261124C00666000", "Q.O:SPY261124P00706000")
    assert all(event["ap"] >= 20 for event in seen)


def test_a_worthless_contract_has_no_bid() -> None:
    assert {event["bp"] for event in events("Q.O:SPY261124C00800000")} == {0}


def test_later_expiries_cost_more() -> None:
    today, later = events("Q.O:SPY261124C00686000"), events("Q.O:SPY261127C00686000")
    assert later[0]["bp"] > today[0]["ap"]


def test_calls_follow_the_price_up() -> None:
    underlying = Underlying(1, 68_600, 0)
    market = tape(underlying)
    market.select([f"Q.{CALL}"])
    before = events_of(market.batch(due(0, 1)))[0]
    underlying.move(69_600, at_ns=0)
    assert events_of(market.batch(due(1, 1)))[0]["bp"] > before["ap"] + 7


def test_the_chain_follows_the_price() -> None:
    underlying = Underlying(1, 68_600, 0)
    market = tape(underlying)
    market.select(["T.*"])
    underlying.move(78_600, at_ns=0)
    tickers = [parse_option_ticker(e["sym"]) for e in events_of(market.batch(due(1, 500)))]
    assert all(abs(t.strike_e9 // NS_PER_S - 786) <= CHAIN_STRIKES for t in tickers)


@pytest.mark.parametrize(
    "name",
    [
        *("T.O:SPY*", "T.O:SPX261124C00686000", "T.O:SPY261124C00686500", "A.O:SPY261124C00686000"),
        *("T.O:SPY251124C00686000", "T.SPY", "T.", "Q.*", "T.O:SPY261124C00000000"),
    ],
)
def test_what_does_not_exist_has_no_data(name: str) -> None:
    assert not tape().select([name])


def test_the_same_seed_and_times_give_the_same_tape() -> None:
    assert events("T.*", f"Q.{PUT}") == events("T.*", f"Q.{PUT}")


def test_skipped_events_leave_a_hole_in_the_sequence() -> None:
    market = tape()
    market.select([f"T.{CALL}"])
    before = events_of(market.batch(due(0, 1)))[0]["q"]
    market.skip(1_000)
    assert events_of(market.batch(due(1, 1)))[0]["q"] > before + 1_000


def test_asking_for_events_with_nothing_selected_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="nothing selected"):
        tape().batch(due(0, 1))
