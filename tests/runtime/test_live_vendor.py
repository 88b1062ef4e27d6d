from __future__ import annotations

import logging

import pytest

from ingestor.config.schema import Polygon
from ingestor.model.blocks import Source
from ingestor.model.errors import VendorRefusedError
from ingestor.runtime.feed_factory import DEMO_KEY, demo_vendor, real_vendor
from tests.sim.polygon.helpers import client


def test_without_a_key_nothing_is_tried() -> None:
    with pytest.raises(VendorRefusedError, match="set POLYGON_API_KEY"), real_vendor(Polygon()):
        pass


def test_the_vendor_is_the_one_of_the_configuration() -> None:
    with real_vendor(Polygon(api_key="s3cret", stocks_url="wss://host/a")) as vendor:
        assert (vendor.stocks_url, vendor.source) == ("wss://host/a", Source.POLYGON_WS)
        assert vendor.options_url == "wss://socket.massive.com/options"
        assert vendor.problem() is None
        assert "s3cret" not in repr(vendor)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("ws://example.com/stocks", True),
        ("wss://example.com/stocks", False),
        ("ws://127.0.0.1:5/stocks", False),
        ("ws://localhost/stocks", False),
        ("ws://[::1]:5/stocks", False),
    ],
)
def test_a_key_on_its_way_in_plain_text_is_warned_of(
    caplog: pytest.LogCaptureFixture, url: str, warned: bool
) -> None:
    caplog.set_level(logging.WARNING)
    with real_vendor(Polygon(api_key="k", stocks_url=url)):
        assert [url in message for message in caplog.messages] == [True] * warned


def test_the_demo_has_a_simulator_that_is_missed_when_it_goes() -> None:
    with demo_vendor() as vendor:
        assert vendor.source is Source.SIM
        assert vendor.problem() is None
        with client(vendor.stocks_url) as joined:
            joined.log_in(DEMO_KEY)
