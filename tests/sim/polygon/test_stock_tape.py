from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.sim.polygon.event_stream import Underlying
from ingestor.sim.polygon.stock_tape import LATE_MAX_MS, ROUND_LOT_SHARES, StockTape, symbols_of
from tests.sim.polygon.helpers import OPENING_MS, Event, due, events_of

TRADE_KEYS = {"ev", "sym", "i", "x", "p", "s", "ds", "t", "pt", "q", "z"}
QUOTE_KEYS = {"ev", "sym", "bx", "ax", "bp", "ap", "bs", "as", "t", "pt", "q", "z"}


def tape(seed: int = 1, quote_share: float = 0.5) -> StockTape:
    return StockTape(seed, Underlying(seed, 68_600, 4.5), quote_share)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return events_of(tape().batch(due(0, 20_000)))


@pytest.fixture(scope="module")
def trades(events: list[Event]) -> list[Event]:
    return [event for event in events if event["ev"] == "T"]


@pytest.fixture(scope="module")
def quotes(events: list[Event]) -> list[Event]:
    return [event for event in events if event["ev"] == "Q"]


def test_every_due_time_gets_its_event_in_order(events: list[Event]) -> None:
    assert [event["t"] for event in events] == [OPENING_MS + ms for ms in range(20_000)]


def test_quotes_and_trades_come_in_the_share_that_is_asked_for(quotes: list[Event]) -> None:
    assert len(quotes) == pytest.approx(10_000, rel=0.05)


def test_trades_have_the_vendors_keys(trades: list[Event]) -> None:
    for trade in trades:
        extra = {"trfi", "trft"} if trade["x"] == 4 else set()
        assert trade.keys() - {"c"} == TRADE_KEYS | extra


def test_quotes_have_the_vendors_keys(quotes: list[Event]) -> None:
    for quote in quotes:
        assert quote.keys() - {"i"} == QUOTE_KEYS


def test_conditions_are_a_list_that_is_left_out_when_empty(trades: list[Event]) -> None:
    conditions = [trade.get("c") for trade in trades]
    assert None in conditions
    assert [14, 37, 41] in conditions
    assert [] not in conditions


def test_a_trade_prints_at_or_between_the_quotes_before_it(events: list[Event]) -> None:
    bid, ask = 686.0, 686.01
    for event in events:
        if event["ev"] == "Q":
            bid, ask = event["bp"], event["ap"]
        else:
            assert bid <= event["p"] <= ask


def test_trades_print_at_the_bid_at_the_ask_and_between(events: list[Event]) -> None:
    places = set()
    for before, event in itertools.pairwise(events):
        if (before["ev"], event["ev"]) == ("Q", "T"):
            places.add((event["p"] > before["bp"]) + (event["p"] >= before["ap"]))
    assert places == {0, 1, 2}


def test_the_bid_is_below_the_ask(quotes: list[Event]) -> None:
    assert all(quote["bp"] < quote["ap"] for quote in quotes)


def test_quote_sizes_are_shares_in_round_lots(quotes: list[Event]) -> None:
    assert all(
        quote[side] % ROUND_LOT_SHARES == 0 < quote[side]
        for quote in quotes
        for side in ("bs", "as")
    )


def test_sequences_rise_with_gaps_each_kind_in_its_own_numbers(
    trades: list[Event], quotes: list[Event]
) -> None:
    for kind in (trades, quotes):
        steps = [after["q"] - before["q"] for before, after in itertools.pairwise(kind)]
        assert min(steps) == 1
        assert max(steps) > 1
    assert trades[-1]["q"] < quotes[0]["q"]


def test_trade_ids_are_unique_strings(trades: list[Event]) -> None:
    assert len({trade["i"] for trade in trades}) == len(trades)
    assert all(isinstance(trade["i"], str) for trade in trades)


def test_decimal_size_is_a_string_whose_whole_part_is_the_size(trades: list[Event]) -> None:
    assert all(int(float(trade["ds"])) == trade["s"] for trade in trades)
    assert "0.740474" in {trade["ds"] for trade in trades}


def test_the_participants_time_is_never_after_the_tape(events: list[Event]) -> None:
    assert all(event["pt"] <= event["t"] for event in events)


def test_some_off_exchange_prints_are_very_late(trades: list[Event]) -> None:
    late = [trade for trade in trades if trade["t"] - trade["pt"] > 1_000]
    assert 0 < len(late) < len(trades) / 100
    assert all(trade["x"] == 4 and trade["t"] - trade["pt"] <= LATE_MAX_MS for trade in late)


def test_ordered_late_prints_are_the_next_trades() -> None:
    market = tape(quote_share=0)
    market.delay_prints(3, 5_000)
    events = events_of(market.batch(due(0, 2))) + events_of(market.batch(due(2, 4)))
    assert [event["t"] - event["pt"] >= 5_000 for event in events] == [True] * 3 + [False] * 3


@settings(max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_the_tape_does_not_depend_on_how_it_is_cut(sizes: list[int]) -> None:
    cut, whole = tape(), tape()
    starts = itertools.accumulate(sizes, initial=0)
    pieces = [events_of(cut.batch(due(at, n))) for at, n in zip(starts, sizes, strict=False)]
    assert list(itertools.chain(*pieces)) == events_of(whole.batch(due(0, sum(sizes))))


def test_another_seed_is_another_market() -> None:
    assert events_of(tape(1).batch(due(0, 50))) != events_of(tape(2).batch(due(0, 50)))


def test_skipped_events_leave_a_hole_in_both_sequences() -> None:
    market = tape()
    before = {event["ev"]: event["q"] for event in events_of(market.batch(due(0, 50)))}
    market.skip(1_000)
    for event in events_of(market.batch(due(50, 50))):
        assert event["q"] > before[event["ev"]] + 1_000


@pytest.mark.parametrize(("share", "kinds"), [(0, {"T"}), (1, {"Q"})])
def test_a_market_of_one_kind_has_nothing_of_the_other(share: float, kinds: set[str]) -> None:
    batch = tape(quote_share=share).batch(due(0, 200))
    assert {event["ev"] for event in events_of(batch)} == kinds


def test_it_counts_what_it_wrote() -> None:
    batch = tape().batch(due(0, 500))
    trades = sum(event["ev"] == "T" for event in events_of(batch))
    assert batch.count(slice(0, 500)) == {"T": trades, "Q": 500 - trades}


@pytest.mark.parametrize(
    ("subscriptions", "wanted"),
    [(["T.SPY"], True), (["Q.*"], True), (["T.AAPL", "A.SPY", "T.SPY*"], False), ([], False)],
)
def test_only_spy_is_traded_here(subscriptions: list[str], wanted: bool) -> None:
    assert tape().select(subscriptions) is wanted


def test_many_stocks_share_the_tape_and_each_event_names_its_own() -> None:
    batch = StockTape(1, Underlying(1, 68_600, 4.5), 0.5, 300).batch(due(0, 6_000))
    events = events_of(batch)
    named = [f"{event['ev']}.{event['sym']}" for event in events]
    assert named == [batch.channels[index] for index in batch.channel.tolist()]
    assert {event["sym"] for event in events} == set(symbols_of(300))


def test_whoever_asks_for_one_of_many_stocks_gets_its_events_alone() -> None:
    batch = StockTape(1, Underlying(1, 68_600, 4.5), 0.5, 300).batch(due(0, 6_000))
    wanted = batch.wanted_by({"T.SPY"}.__contains__)
    assert wanted is not None
    assert {batch.channels[index] for index in batch.channel[wanted].tolist()} == {"T.SPY"}
    assert batch.wanted_by(lambda _: True) is None


def test_made_up_symbols_differ_and_begin_with_spy() -> None:
    assert symbols_of(1) == ("SPY",)
    assert len(set(symbols_of(20_000))) == 20_000
