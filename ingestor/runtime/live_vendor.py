"""Whose live feeds they are: the vendor's, as configured, or those of a simulator for a demo."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from ingestor.config.live import Polygon
from ingestor.model.blocks import Source
from ingestor.model.errors import VendorRefusedError
from ingestor.sim.polygon.simulator_process import SimulatorProcess

DEMO_RATES: Final = ("--rate", "1000", "--options-rate", "200")
"""Events a second: a lively market."""
DEMO_KEY: Final = "demo"

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)


def _no_problem() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Vendor:
    """Where the feeds are, the key to them, the ``source`` of their events.

    `problem` answers with a sentence when it is known that nothing more will come.
    """

    stocks_url: str
    options_url: str
    api_key: str = field(repr=False)
    source: Source
    problem: Callable[[], str | None] = _no_problem


@contextlib.contextmanager
def real_vendor(polygon: Polygon) -> Iterator[Vendor]:
    """Yield the vendor of the configuration. Raises VendorRefusedError without a key."""
    if polygon.api_key is None:
        raise VendorRefusedError(
            "there is no API key for the live feeds: set POLYGON_API_KEY, or polygon.api_key in a"
            " file that only you can read (--demo needs none)"
        )
    for url in (polygon.stocks_url, polygon.options_url):
        _warn_of_plain_text(url)
    yield Vendor(polygon.stocks_url, polygon.options_url, polygon.api_key, Source.POLYGON_WS)


@contextlib.contextmanager
def demo_vendor() -> Iterator[Vendor]:
    """Run the simulator that comes with this program for as long as the feeds run."""
    with SimulatorProcess("--api-key", DEMO_KEY, *DEMO_RATES) as simulator:
        log.info("demo: the feeds are those of the simulator at %s", simulator.stocks_url)
        yield Vendor(
            simulator.stocks_url,
            simulator.options_url,
            DEMO_KEY,
            Source.SIM,
            simulator.problem,
        )


def _warn_of_plain_text(url: str) -> None:
    address = urlsplit(url)
    if address.scheme == "ws" and address.hostname not in _LOOPBACK:
        log.warning("%s is not encrypted: everybody on the way can read the API key", url)
