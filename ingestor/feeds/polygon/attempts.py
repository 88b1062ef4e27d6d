"""Log lines about connections: each loss, each new reason why there is none, never a flood."""

from __future__ import annotations

import logging
from typing import Final

from ingestor.model.units import NS_PER_S

REPEAT_NS: Final = 60 * NS_PER_S
"""An unchanged reason is told again so often."""

log = logging.getLogger(__name__)


class ConnectLog:
    """The attempts of `feed` to be connected to `address`; times are of a clock never set."""

    def __init__(self, feed: str, address: str) -> None:
        self._feed = feed
        self._address = address
        self._failed = 0
        self._told: tuple[str, int] | None = None

    def opened(self) -> None:
        """There is a connection."""
        after = f" (failed attempts before: {self._failed})" if self._failed else ""
        log.info("%s: connected to %s%s", self._feed, self._address, after)
        self._failed, self._told = 0, None

    def ended(self, cause: str) -> None:
        """There was the last connection."""
        log.info("%s: connection to %s is gone: %s", self._feed, self._address, cause)

    def lost(self, cause: str, delay_ns: int) -> None:
        """There was a connection; the next attempt is due after a delay."""
        again_s = delay_ns / NS_PER_S
        log.warning(
            "%s: connection to %s is gone: %s; connecting again in %.1f s",
            *(self._feed, self._address, cause, again_s),
        )

    def failed(self, cause: str, delay_ns: int, now_ns: int) -> None:
        """An attempt failed; the next is due after a delay."""
        self._failed += 1
        told_cause, told_ns = self._told or ("", 0)
        if cause == told_cause and now_ns - told_ns < REPEAT_NS:
            return
        self._told = cause, now_ns
        log.warning(
            "%s: cannot connect to %s: %s; attempt %d, the next in %.1f s",
            *(self._feed, self._address, cause, self._failed, delay_ns / NS_PER_S),
        )
