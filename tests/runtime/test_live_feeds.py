from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestor.config.schema import Config, Polygon, Record, Strikes
from ingestor.feeds.polygon.feed import PolygonFeed
from ingestor.feeds.polygon.status_reporter import Sink
from ingestor.feeds.polygon.strikes import Focus, StrikePlan
from ingestor.model.blocks import Source
from ingestor.model.errors import ConfigurationError
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.runtime.counters import CounterTable
from ingestor.runtime.feed_factory import (
    LiveFeeds,
    Vendor,
    journals,
    price_of,
    strike_plan,
)
from ingestor.runtime.feed_process import FeedContext
from ingestor.runtime.live_process import RingSink

VENDOR = Vendor("ws://127.0.0.1:1/stocks", "ws://127.0.0.1:1/options", "k", Source.SIM)


def place(index: int) -> FeedContext:
    return FeedContext(index, BlockRing(Doorbell(), 10_000), CounterTable(2))


def test_the_default_plan_is_the_default_of_the_strikes() -> None:
    assert strike_plan(Config()) == StrikePlan()


def test_prices_of_the_configuration_become_exact_numbers() -> None:
    strikes = Strikes(step=2.5, recentre=1.1, focus=687.005, focus_each_side=2, each_side=1)
    assert strike_plan(Config(strikes=strikes)) == StrikePlan(
        step_e9=2_500_000_000,
        recentre_e9=1_100_000_000,
        focus=Focus(687_005_000_000, 2),
        each_side=1,
    )


def test_a_price_is_not_rounded_to_fit() -> None:
    with pytest.raises(ConfigurationError, match=r"strikes\.focus = 687\.00000000001"):
        strike_plan(Config(strikes=Strikes(focus=687.00000000001)))


@pytest.mark.parametrize("name", ["step", "recentre", "focus"])
def test_a_price_between_the_tickers_steps_is_refused_by_name(name: str) -> None:
    strikes = msgspec.convert({name: 1.0005}, Strikes)
    with pytest.raises(ConfigurationError, match=rf"strikes\.{name} = 1\.0005 is not allowed"):
        strike_plan(Config(strikes=strikes))


def test_the_price_is_what_the_process_of_the_stocks_shows() -> None:
    here = place(1)
    price = price_of(Config, here)
    assert price() is None
    here.table.reference_price_e9 = 686_000_000_000
    assert price() == 686_000_000_000


def test_without_stocks_the_focus_is_the_price() -> None:
    config = Config(polygon=Polygon(feeds=("options",)), strikes=Strikes(focus=700.0))
    assert price_of(lambda: config, place(0))() == 700_000_000_000


@pytest.mark.parametrize("name", ["stocks", "options"])
def test_a_feed_is_made_inside_its_place(name: str) -> None:
    here = place(1)
    sink: Sink = RingSink(here)
    feed = getattr(LiveFeeds(Config(), VENDOR), name)(sink, None, here)
    assert isinstance(feed, PolygonFeed)


@pytest.mark.parametrize(
    ("symbols", "stocks"),
    [
        ("*", ("*",)),
        (("*",), ("*",)),
        (("SPY", "*", "QQQ"), ("*",)),
        (("SPY", "QQQ", "SPY"), ("SPY", "QQQ")),
    ],
)
def test_all_stocks_are_asked_for_as_one_and_none_twice(
    symbols: Any, stocks: tuple[str, ...]
) -> None:
    polygon = msgspec.convert({"symbols": symbols}, Polygon)
    assert polygon.stocks == stocks
    assert polygon.follows("SPY")
    assert polygon.follows("MSFT") is (stocks == ("*",))


@pytest.mark.parametrize("symbols", [["*"], "*", [f"Z{number}" for number in range(20_000)]])
def test_twenty_thousand_stocks_or_all_may_be_asked_for(symbols: Any) -> None:
    msgspec.convert({"symbols": symbols}, Polygon)


@pytest.mark.parametrize(
    "symbols", [[], "SPY", "T.*", ["SP*"], [f"Z{number}" for number in range(20_001)]]
)
def test_other_ways_to_ask_are_refused(symbols: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"symbols": symbols}, Polygon)


def test_without_a_folder_nothing_is_recorded(tmp_path: Path) -> None:
    with journals(Config()) as found:
        assert found == {}


def test_a_folder_is_taken_for_every_feed_and_released(tmp_path: Path) -> None:
    config = Config(record=Record(dir=tmp_path))
    with journals(config) as found:
        assert list(found) == ["stocks", "options"]
        with pytest.raises(ConfigurationError, match="in use"), journals(config):
            pass
    with journals(config) as again:
        assert list(again) == ["stocks", "options"]
