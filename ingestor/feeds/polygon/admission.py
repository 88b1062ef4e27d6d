"""What was asked for on the connection of now, and hence what may come over it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ingestor.feeds.polygon.frames import Skip

WILDCARD: Final = "*"

_EARLY: Final = (Skip.BEFORE_SUBSCRIPTION, "data before anything was asked for")
_FOREIGN: Final = (Skip.NOT_SUBSCRIBED, "data under a name that was never subscribed")


class Admission:
    """Names only come; one that was given up a moment ago may still bring what is under way.

    Nothing is asked for before the vendor has let us in, so what comes earlier is not covered.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._prefixes: tuple[str, ...] = ()

    @property
    def refusal(self) -> tuple[Skip, str]:
        """Why something is not covered now, as `Tally.skip` takes it."""
        return _FOREIGN if self._names else _EARLY

    def ask(self, names: Iterable[str]) -> None:
        """These channels (``T.SPY``, ``T.*``) are asked for."""
        new = set(names) - self._names
        self._names |= new
        wild = (name for name in new if name.endswith(WILDCARD))
        self._prefixes += tuple(name.removesuffix(WILDCARD) for name in wild)

    def covers(self, channel: str, symbol: str) -> bool:
        """Whether an event of this channel (``T``) and symbol was asked for."""
        name = f"{channel}.{symbol}"
        return name in self._names or name.startswith(self._prefixes)
