"""Which symbol an instrument id stands for, on which UTC date.

The file's own metadata says it (symbol to instrument ids by date interval, or the other way
round); where it does not, ``symbology.json`` of the download beside the file or in the data
folder; where neither does, the id as text is the symbol. The date is the UTC date of
``ts_recv``, the timestamp by which Databento indexes both schemas.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec

from ingestor.feeds.databento.header import Header
from ingestor.symbols import SymbolTable
from ingestor.units import NS_PER_S, UINT32_MAX

logger = logging.getLogger(__name__)

SYMBOLOGY_FILE: Final = "symbology.json"
MAX_SYMBOLOGY_BYTES: Final = 256 * 1024 * 1024
"""Room for over a million instruments; more is not read, which leaves the text malformed."""

NS_PER_DAY: Final = 86_400 * NS_PER_S
_INSTRUMENT_ID: Final = "instrument_id"
_EPOCH: Final = dt.date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Named:
    """An instrument has a symbol from `first` up to, not including, `end` (days since 1970)."""

    instrument: int
    symbol: str
    first: int
    end: int


class _Span(msgspec.Struct):
    d0: dt.date
    d1: dt.date
    s: str


class _Symbology(msgspec.Struct):
    result: dict[str, list[_Span]]
    stype_in: str | None = None


def names_in_metadata(header: Header) -> list[Named]:
    """Return what the header of a file says."""
    spans = (
        (symbol, _Span(first, end, text))
        for symbol, intervals in header.mappings
        for first, end, text in intervals
    )
    return list(_named(spans, inverse=header.stype_in == _INSTRUMENT_ID))


def names_in_symbology(folders: Iterable[Path]) -> list[Named]:
    """Return what the first ``symbology.json`` in the folders says; nothing when there is none.

    One that cannot be read is logged and counts as none: the id as text still serves.
    """
    for folder in folders:
        path = folder / SYMBOLOGY_FILE
        if path.is_file():
            return _read_symbology(path)
    return []


def _read_symbology(path: Path) -> list[Named]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SYMBOLOGY_BYTES)
        symbology = msgspec.json.decode(text, type=_Symbology)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("%s is of no use, its symbols stay unknown: %s", path, error)
        return []
    spans = ((symbol, span) for symbol, spans in symbology.result.items() for span in spans)
    return list(_named(spans, inverse=symbology.stype_in == _INSTRUMENT_ID))


def _named(spans: Iterable[tuple[str, _Span]], *, inverse: bool) -> Iterator[Named]:
    """Pairs that name no instrument id are left out: other symbology types, or empty ones."""
    for key, span in spans:
        text, symbol = (key, span.s) if inverse else (span.s, key)
        if text.isascii() and text.isdigit() and int(text) <= UINT32_MAX and symbol:
            yield Named(int(text), symbol, (span.d0 - _EPOCH).days, (span.d1 - _EPOCH).days)


class SymbolTables:
    """The symbol table of one UTC day after another, for the records of one file.

    A table handed out is never changed afterwards; while nothing is new, the same object is
    handed out again. Of two symbols for one instrument on one day the first listed holds.
    """

    def __init__(
        self,
        named: Sequence[Named],
        *,
        fallback: Sequence[Path] = (),
        rename: Mapping[str, str] | None = None,
        reported: set[int] | None = None,
    ) -> None:
        """Take what the metadata says.

        Args:
            named: From the file's metadata.
            fallback: Folders to look for ``symbology.json`` in; read only when needed.
            rename: Symbol to the one to publish instead.
            reported: Instruments already logged as unknown; shared by the files of a run.
        """
        self._named = named
        self._folders = fallback
        self._rename = rename or {}
        self._reported = set() if reported is None else reported
        self._day: int | None = None
        self._symbols: dict[int, str] = {}
        self._table: SymbolTable = {}

    def table(self, day: int, instruments: Iterable[int]) -> SymbolTable:
        """Return the table of a day (since 1970), which names at least these instruments."""
        if day != self._day:
            self._day, self._symbols = day, _on_day(self._named, day)
            self._rebuild()
        unknown = [number for number in instruments if number not in self._symbols]
        if unknown:
            self._look_up(unknown, day)
        return self._table

    def is_wanted(self, instrument: int, symbols: frozenset[str]) -> bool:
        """Tell whether an instrument of the newest table is one of the symbols, renamed or not."""
        return self._symbols[instrument] in symbols or self._table[instrument] in symbols

    @cached_property
    def _fallback(self) -> Sequence[Named]:
        return names_in_symbology(self._folders)

    def _look_up(self, unknown: Sequence[int], day: int) -> None:
        known = _on_day(self._fallback, day)
        for number in unknown:
            if number not in known:
                self._report(number, day)
            self._symbols[number] = known.get(number, str(number))
        self._rebuild()

    def _rebuild(self) -> None:
        self._table = {
            number: self._rename.get(symbol, symbol) for number, symbol in self._symbols.items()
        }

    def _report(self, number: int, day: int) -> None:
        if number in self._reported:
            return
        self._reported.add(number)
        logger.warning(
            "instrument %d has no symbol on %s, neither in its file's metadata nor in %s: "
            "its id stands for it",
            number,
            _EPOCH + dt.timedelta(days=day),
            SYMBOLOGY_FILE,
        )


def _on_day(named: Sequence[Named], day: int) -> dict[int, str]:
    symbols: dict[int, str] = {}
    for name in named:
        if name.first <= day < name.end:
            symbols.setdefault(name.instrument, name.symbol)
    return symbols
