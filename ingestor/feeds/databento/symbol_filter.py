"""Under which of its names an instrument is published, and which names nothing bears."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import nsmallest
from typing import Final

from ingestor.model.bounds import printable

NAMES_SHOWN: Final = 12
_NAMES_HELD: Final = 4096
_ASKED_COMPARED: Final = 4


class SymbolFilter:
    """What configuration says about symbols, and which of them have been seen.

    Attributes:
        missing: Symbols asked for that no name seen is, nor is renamed to.
    """

    def __init__(
        self,
        symbols: Collection[str] = (),
        rename: Mapping[str, str] | None = None,
        elsewhere: Collection[str] = (),
    ) -> None:
        """Begin with nothing seen.

        Args:
            symbols: Names wanted, before or after `rename`; none wants every instrument.
            rename: Name to the one to publish instead.
            elsewhere: Those of the symbols that need not be seen.
        """
        self.missing = set(symbols) - set(elsewhere)
        self._symbols = frozenset(symbols)
        self._rename = rename or {}
        self._near: dict[str, None] = {}
        self._more = False

    def published(self, names: Iterator[str]) -> str | None:
        """Return what to publish an instrument as that has these names, the preferred one first.

        That is the first that is asked for, else the first that is renamed, else the first; None
        where others are asked for.
        """
        if self._symbols:
            return next(filter(None, map(self._if_asked_for, names)), None)
        first = next(names)
        if not self._rename or first in self._rename:
            return self._rename.get(first, first)
        return next((self._rename[name] for name in names if name in self._rename), first)

    def _if_asked_for(self, name: str) -> str | None:
        new = self._rename.get(name, name)
        return new if name in self._symbols or new in self._symbols else None

    def see(self, names: Iterable[str]) -> None:
        """Take names that instruments have; nothing is done once nothing is missing."""
        for name in names if self.missing else ():
            self.tick(name)
            self._near[name] = None
            if len(self._near) > _NAMES_HELD:
                self._more = True
                self._near = dict.fromkeys(self._nearest())

    def tick(self, name: str) -> None:
        """Take a name that is not worth showing: an instrument id where there are better ones."""
        self.missing -= {name, self._rename.get(name, name)}

    def complaint(self) -> str:
        """Return a sentence about what is missing, and which names there are."""
        shown = sorted(self._nearest())
        missing = ", ".join(map(printable, sorted(self.missing)))
        if not shown:
            return f"no file bears the symbol {missing}: the files name no instrument at all"
        names = ", ".join(map(printable, shown))
        if self._more or len(shown) < len(self._near):
            return f"no file bears the symbol {missing}; of those there are the nearest are {names}"
        return f"no file bears the symbol {missing}; there are {names}"

    def _nearest(self) -> list[str]:
        asked = sorted(self.missing)[:_ASKED_COMPARED]
        return nsmallest(NAMES_SHOWN, self._near, key=lambda name: _distance(name, asked))


def _distance(name: str, asked: Collection[str]) -> tuple[int, int, str]:
    """Names that begin alike are near, then names of one length."""
    beginnings, lengths = zip(*((_alike(name, other), len(other)) for other in asked), strict=True)
    return -max(beginnings), min(abs(len(name) - length) for length in lengths), name


def _alike(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
