"""Which names an instrument has on a UTC date, and which of them is published.

An instrument may have many names. In order of preference: those of the file's own metadata, first
the one that stands first in its list `symbols`, then in the order of its mappings; what the newest
symbol mapping record of the file said (a live capture); ``symbology.json`` of the download, beside
the file or in the data folder; and in the end its id as text. The first one is published, unless
symbols are asked for: then the first that was asked for. The date is the UTC date of ``ts_recv``,
the timestamp by which Databento indexes both schemas.

A header may map a million instruments; only those that occur are looked up, by bisection in
arrays.
"""

from __future__ import annotations

import datetime as dt
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from heapq import nsmallest
from os.path import commonprefix
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ingestor.feeds.databento.header import DbnHeader, Names
from ingestor.model.blocks import Int64s
from ingestor.model.bounds import is_symbol, printable
from ingestor.model.errors import NoDataError
from ingestor.model.symbols import SymbolTable
from ingestor.model.units import EPOCH_DATE, UINT32_MAX

logger = logging.getLogger(__name__)

SYMBOLOGY_FILE: Final = "symbology.json"
MAX_SYMBOLOGY_BYTES: Final = 64 * 1024 * 1024
"""Room for over half a million instruments; a longer file is not read."""

UNKNOWN_TOLD: Final = 100
"""The most instruments without a symbol that the log of a run names."""

NAMES_SHOWN: Final = 12
"""Of the symbols there are, where one that was asked for is not among them."""

_NAMES_HELD: Final = 4096
_ASKED_COMPARED: Final = 4
_INSTRUMENT_ID: Final = "instrument_id"
_ID_DIGITS: Final = len(str(UINT32_MAX))


class _Span(msgspec.Struct):
    d0: dt.date
    d1: dt.date
    s: str


class _Symbology(msgspec.Struct):
    result: dict[str, list[_Span]]
    stype_in: str | None = None


class HeaderNames:
    """What the header of a file says about the names of instruments."""

    def __init__(self, header: DbnHeader) -> None:
        mappings = header.mappings
        self._symbols = header.symbols
        if header.stype_in == _INSTRUMENT_ID:
            ids = _instrument_ids(mappings.symbols_in)[mappings.owners]
            self._names, self._rows = mappings.symbols_out, np.arange(len(ids))
        else:
            ids = _instrument_ids(mappings.symbols_out)
            self._names, self._rows = mappings.symbols_in, mappings.owners
        # Stable: of one instrument's names the header's order stays, which is that of preference.
        order = np.argsort(ids, kind="stable")
        # Names that are no instrument id were given -1, and sort to the front.
        order = order[np.searchsorted(ids, 0, sorter=order) :]
        # A memoryview: `bisect` on an array would box a NumPy scalar at each step.
        self._sorted_ids, self._rows = ids[order].data, self._rows[order]
        self._first, self._end = mappings.first[order], mappings.end[order]

    def of(self, instrument: int, day: int) -> list[str]:
        """Return the names of an instrument on a day (since 1970), in order of preference."""
        start = bisect_left(self._sorted_ids, instrument)
        stop = bisect_right(self._sorted_ids, instrument, start)
        if start == stop:
            return []
        # The end of an interval lies outside, as in all of the vendor's dates.
        valid = (self._first[start:stop] <= day) & (day < self._end[start:stop])
        rows = self._rows[start:stop][valid].tolist()
        names = [*dict.fromkeys(filter(is_symbol, map(self._names.__getitem__, rows)))]
        if len(names) > 1:
            last = len(self._symbols)
            names.sort(key=lambda name: self._places.get(name, last))
        return names

    def __iter__(self) -> Iterator[str]:
        """Yield every name of any instrument on any day, some more than once."""
        return filter(is_symbol, map(self._names.__getitem__, np.unique(self._rows).tolist()))

    @cached_property
    def _places(self) -> dict[str, int]:
        places: dict[str, int] = {}
        for place, name in enumerate(self._symbols):
            places.setdefault(name, place)
        return places


def _instrument_ids(names: Names) -> Int64s:
    """Return the number that each name is, or -1 where it is no instrument id."""
    return np.concatenate([np.empty(0, np.int64), *map(_numbers, names.raw())])


def _numbers(texts: npt.NDArray[np.bytes_]) -> Int64s:
    # Digit by digit over all names at once: a million calls of `int` would hold up the start.
    characters = texts.view(np.uint8).reshape(len(texts), -1)[:, :_ID_DIGITS]
    digits = characters.astype(np.int64) - ord("0")
    lengths = np.strings.str_len(texts)
    numbers = np.zeros(len(texts), np.int64)
    valid = (lengths > 0) & (lengths <= _ID_DIGITS)
    for place in range(_ID_DIGITS):
        inside = place < lengths
        digit = digits[:, place]
        valid &= ~inside | ((digit >= 0) & (digit <= 9))
        numbers = np.where(inside, numbers * 10 + digit, numbers)
    return np.where(valid & (numbers <= UINT32_MAX), numbers, -1)


def instrument_id(text: str) -> int | None:
    """Return the instrument id that a text is, if it is one."""
    is_number = len(text) <= _ID_DIGITS and text.isascii() and text.isdigit()
    return int(text) if is_number and int(text) <= UINT32_MAX else None


class SymbologyNames:
    """What the first ``symbology.json`` in some folders says; nothing where there is none.

    It is read when it is first needed. One that cannot be read is logged and counts as none.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._folders = folders

    def of(self, instrument: int, day: int) -> list[str]:
        """Return the names of an instrument on a day (since 1970), in the order of the file."""
        spans = self._spans.get(instrument, ())
        return [name for name, first, end in spans if first <= day < end]

    def __iter__(self) -> Iterator[str]:
        """Yield every name of any instrument on any day, some more than once."""
        return (name for spans in self._spans.values() for name, _, _ in spans)

    @cached_property
    def _spans(self) -> dict[int, list[tuple[str, int, int]]]:
        path = next(filter(Path.is_file, (f / SYMBOLOGY_FILE for f in self._folders)), None)
        found: dict[int, list[tuple[str, int, int]]] = {}
        for name, number, span in () if path is None else _read_symbology(path):
            days = (span.d0 - EPOCH_DATE).days, (span.d1 - EPOCH_DATE).days
            found.setdefault(number, []).append((name, *days))
        return found


def _read_symbology(path: Path) -> Iterator[tuple[str, int, _Span]]:
    try:
        symbology = msgspec.json.decode(_content(path), type=_Symbology)
    except (OSError, ValueError, RecursionError) as error:
        cause = printable(str(error))
        logger.warning("%s is of no use, its symbols stay unknown: %s", path, cause)
        return
    inverse = symbology.stype_in == _INSTRUMENT_ID
    for key, spans in symbology.result.items():
        for span in spans:
            text_of_id, name = (key, span.s) if inverse else (span.s, key)
            number = instrument_id(text_of_id)
            if number is not None and is_symbol(name):
                yield name, number, span


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_SYMBOLOGY_BYTES + 1)
    if len(content) > MAX_SYMBOLOGY_BYTES:
        raise ValueError(f"it has more than {MAX_SYMBOLOGY_BYTES} bytes")
    return content


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
            for name in names:
                new = self._rename.get(name, name)
                if name in self._symbols or new in self._symbols:
                    return new
            return None
        first = next(names)
        if not self._rename or first in self._rename:
            return self._rename.get(first, first)
        return next((self._rename[name] for name in names if name in self._rename), first)

    def see(self, names: Iterable[str]) -> None:
        """Take names that instruments have; nothing is done once nothing is missing."""
        for name in names if self.missing else ():
            self.tick(name)
            self._near[name] = None
            # A venue lists a million names; of them only the nearest are ever shown.
            if len(self._near) > _NAMES_HELD:
                self._more = True
                self._near = dict.fromkeys(self._nearest())

    def tick(self, name: str) -> None:
        """Take a name that is not worth showing: an instrument id where there are better ones."""
        self.missing -= {name, self._rename.get(name, name)}

    def check(self) -> None:
        """Raise NoDataError for symbols that were asked for and that no file bears."""
        if self.missing:
            raise NoDataError(self.complaint())

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
        # Each name is compared with each of these, so there are few.
        asked = sorted(self.missing)[:_ASKED_COMPARED]
        return nsmallest(NAMES_SHOWN, self._near, key=lambda name: _distance(name, asked))


class SymbolTables:
    """What the instruments of one file are called in what is published.

    The table is one object for as long as no instrument gets another name; it grows with the
    instruments that occur. Where one gets another name, another table begins.
    """

    def __init__(
        self,
        header: HeaderNames,
        *,
        symbology: SymbologyNames | None = None,
        symbol_filter: SymbolFilter | None = None,
        reported: set[int] | None = None,
    ) -> None:
        """Take where names come from.

        Args:
            header: From the file's metadata.
            symbology: What serves where header and records are silent.
            symbol_filter: Chooses from the names; told of every name that is looked up.
            reported: Instruments already logged as unknown; shared by the files of a run.
        """
        self._header = header
        self._said: dict[int, tuple[str, ...]] = {}
        self._symbology = symbology or SymbologyNames()
        self._filter = symbol_filter or SymbolFilter()
        self._reported = set() if reported is None else reported
        self._published: dict[int, dict[int, str | None]] = {}
        self._days: frozenset[int] = frozenset()
        self._table: dict[int, str] = {}

    def of_days(self, days: Iterable[int]) -> None:
        """Say which days are looked up next: what is known of others is forgotten in time."""
        wanted = frozenset(days)
        # A day that is no longer wanted takes all names with it: what is held stays bounded.
        if not self._days <= wanted:
            self._published = {}
        self._days = wanted

    def hear(self, instrument: int, names: Iterable[str]) -> None:
        """Take what a symbol mapping record says an instrument is called from now on."""
        self._said[instrument] = tuple(dict.fromkeys(filter(is_symbol, names)))
        # What was looked up before it was heard would be its old name.
        self._published.pop(instrument, None)
        self._filter.see(self._said[instrument])

    def name(self, instrument: int, day: int) -> str | None:
        """Return what to publish an instrument as on a day (since 1970); None if not wanted."""
        on_days = self._published.setdefault(instrument, {})
        if day not in on_days:
            if self._filter.missing:
                *seen, own = self.names_of(instrument, day)
                self._filter.see(seen or [own])
                self._filter.tick(own)
            name = self._filter.published(self.names_of(instrument, day))
            if name == str(instrument):
                self._report(instrument, day)
            on_days[day] = name
        return on_days[day]

    def table(self, names: Mapping[int, str]) -> SymbolTable:
        """Return a table in which these instruments have these names."""
        known = self._table.get
        # Blocks that went out refer to the old table: it is left as it is, and another begins.
        if any(known(number, name) != name for number, name in names.items()):
            self._table = {}
        self._table.update(names)
        return self._table

    def names_of(self, instrument: int, day: int) -> Iterator[str]:
        """Yield the names of an instrument on a day, in order of preference; its id ends them."""
        own = str(instrument)
        # A source is asked only when those before it did not do: reading symbology.json may wait.
        yield from (name for name in self._header.of(instrument, day) if name != own)
        yield from (name for name in self._said.get(instrument, ()) if name != own)
        yield from (name for name in self._symbology.of(instrument, day) if name != own)
        yield own

    def _report(self, instrument: int, day: int) -> None:
        if instrument in self._reported or len(self._reported) > UNKNOWN_TOLD:
            return
        self._reported.add(instrument)
        if len(self._reported) > UNKNOWN_TOLD:
            logger.warning("more instruments have no symbol; they are not named here")
            return
        logger.warning(
            "instrument %d has no symbol on %s, neither in its file's metadata nor in %s: "
            "its id stands for it",
            instrument,
            EPOCH_DATE + dt.timedelta(days=day),
            SYMBOLOGY_FILE,
        )


def _distance(name: str, asked: Collection[str]) -> tuple[int, int, str]:
    """Names that begin alike are near, then names of one length."""
    alike = max(len(commonprefix((name, other))) for other in asked)  # noqa: RUF071  (no paths)
    return -alike, min(abs(len(name) - len(other)) for other in asked), name
