from __future__ import annotations

import pytest

from ingestor.config.schema import Config, Polygon, Strikes
from ingestor.model.errors import ConfigurationError
from ingestor.runtime.live_run import check


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(polygon=Polygon(feeds=("stocks",)), strikes=Strikes(underlying="QQQ")),
        Config(polygon=Polygon(feeds=("options",)), strikes=Strikes(focus=700.0)),
        Config(polygon=Polygon(symbols=("AAPL", "QQQ")), strikes=Strikes(underlying="QQQ")),
        Config(polygon=Polygon(stocks_url="ws://[::1]:8765/stocks")),
    ],
)
def test_settings_that_go_together_are_accepted(config: Config) -> None:
    check(config)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Config(polygon=Polygon(feeds=("options",))), r"polygon.feeds = \[\"options\"\]"),
        (Config(strikes=Strikes(underlying="QQQ")), "strikes.underlying = 'QQQ'"),
        (Config(strikes=Strikes(focus=0.0015)), "strikes.focus = 0.0015"),
        (Config(polygon=Polygon(options_url="wss://h:x/")), "polygon.options_url = 'wss://h:x/'"),
        (
            Config(polygon=Polygon(api_key="k3y", standby_api_key="k3y")),
            "polygon.standby_api_key is not allowed to be polygon.api_key",
        ),
        (Config(polygon=Polygon(stocks_url="wss://h:65536/")), "the port is no number from 0 to"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(
    config: Config, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        check(config)
