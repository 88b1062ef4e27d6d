"""The driver of one connection to the vendor: sockets, time, and what a session asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.outlet import FrameLog, Outlet
from ingestor.feeds.polygon.reference import ReferencePrice
from ingestor.feeds.polygon.settings import FeedSettings, Strikes

__all__ = ["FeedSettings", "PolygonFeed", "Strikes"]


class PolygonFeed:
    """One feed, from the socket to the outlet; `run` it on an event loop (uvloop)."""

    def __init__(  # noqa: PLR0913 - everything that a feed is connected with
        self,
        settings: FeedSettings,
        decoder: StockDecoder | OptionDecoder,
        outlet: Outlet,
        *,
        names: Iterable[str] = (),
        frame_log: FrameLog | None = None,
        reference: ReferencePrice | None = None,
        strikes: Strikes | None = None,
    ) -> None:
        """`names` are channels such as ``T.SPY``; `reference` is for stocks, `strikes` for options.

        `frame_log` stays open: whoever made it closes it.
        """

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Stream until `stopping` turns true; then close the socket and hand on what is held.

        Raises:
            VendorRefusedError: the key or the plan is refused for good.
        """
        raise NotImplementedError
