"""The metadata header of a DBN file, versions 1 to 3, read without trusting any length in it.

``DBN`` and the version, four bytes of length, then as many bytes of metadata: fixed fields
(`_FIXED`), four lists of names in fields of equal width (C strings padded with zeros), and the
mappings, each a name, a count and as many intervals of two dates (``YYYYMMDD`` as an integer) and
a name. Version 1 has a record count that no other has and names of 22 bytes; later versions state
their width, 71. Layout and the numbers of schemas and symbol types are those of Databento's
documentation and reference decoder
(https://databento.com/docs/standards-and-conventions/databento-binary-encoding,
https://github.com/databento/dbn: ``decode/dbn/fsm.rs``, ``enums.rs``).

A download of all symbols has 200,000 mappings and more. The bytes of the header are kept and only
their places noted, in arrays; a name becomes a `str` when it is asked for.
"""

from __future__ import annotations

import datetime as dt
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from ingestor.model.blocks import Int64s
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError
from ingestor.model.units import EPOCH_DATE

MAGIC: Final = b"DBN"
VERSIONS: Final = (1, 2, 3)
PRELUDE_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 256 * 1024 * 1024
"""Room for the mappings of over a million instruments; a header that claims more is broken."""

MIN_NAME_BYTES: Final = 22
"""The narrowest field for a symbol that any version has; bounds how many a header can hold."""

SCHEMAS: Final = (
    *("mbo", "mbp-1", "mbp-10", "tbbo", "trades", "ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d"),
    *("definition", "statistics", "status", "imbalance", "ohlcv-eod", "cmbp-1", "cbbo-1s"),
    *("cbbo-1m", "tcbbo", "bbo-1s", "bbo-1m"),
)
"""Databento's names of schemas, by their number."""

STYPES: Final = (
    *("instrument_id", "raw_symbol", "smart", "continuous", "parent", "nasdaq_symbol"),
    *("cms_symbol", "isin", "us_code", "bbg_comp_id", "bbg_comp_ticker", "figi", "figi_ticker"),
    *("listing_id", "issuer_id", "security_id"),
)
"""Databento's names of symbol types, by their number."""

_FIXED: Final = {
    1: Struct("<16sH3Q8x3B47xI"),
    2: Struct("<16sH3Q3BH53xI"),
    3: Struct("<16sH3Q3BH53xI"),
}
"""dataset, schema, start, end, limit, stype_in, stype_out, ts_out, width of names (not in version
1), length of the schema definition, which no version has yet."""

_COUNT: Final = Struct("<I")
_NO_SCHEMA: Final = 0xFFFF
_NO_STYPE: Final = 0xFF
_DATE_BYTES: Final = 4
_DATES_BYTES: Final = 2 * _DATE_BYTES
_ROWS_AT_ONCE: Final = 1 << 14

Bytes = npt.NDArray[np.uint8]
Days = npt.NDArray[np.int32]


class Names:
    """Names in a header, decoded when they are asked for; valid UTF-8, which is checked before.

    Attributes:
        width: Bytes that each name has room for.
    """

    __slots__ = ("_data", "_places", "width")

    def __init__(self, data: Bytes, places: Int64s, width: int) -> None:
        self._data = data
        self._places = places
        self.width = width

    def __len__(self) -> int:
        """How many there are."""
        return len(self._places)

    def __getitem__(self, index: int) -> str:
        """Return one of them. Raises `IndexError`."""
        at = int(self._places[index])
        return self._data[at : at + self.width].tobytes().rstrip(b"\0").decode()

    def __iter__(self) -> Iterator[str]:
        """Yield each, in the header's order."""
        return map(self.__getitem__, range(len(self)))

    def raw(self) -> Iterator[npt.NDArray[np.bytes_]]:
        """Yield all of them, undecoded and without padding, some thousands at a time."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            rows = _gathered(self._data, self._places[start : start + _ROWS_AT_ONCE], self.width)
            yield rows.view(f"S{self.width}")[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Mappings:
    """Which name stands for which, from one UTC date to another.

    Attributes:
        symbols_in: A name of type ``stype_in`` for each mapping.
        owners: int64, for each interval the number (from 0) of its mapping; rises.
        first: int32, for each interval its first date, in days since 1970.
        end: int32, for each interval the date before which it ends.
        symbols_out: A name of type ``stype_out`` for each interval; empty where there is none.
    """

    symbols_in: Names
    owners: Int64s
    first: Days
    end: Days
    symbols_out: Names


@dataclass(frozen=True, slots=True, eq=False)
class DbnHeader:
    """What a DBN file says about itself.

    Attributes:
        version: 1, 2 or 3.
        dataset: Such as ``GLBX.MDP3``.
        schema: Databento's name; None in a live capture, which may mix them. A number without a
            name is ``schema 99``.
        start_ns: Start of the time range asked for, int ns UTC; None when the header leaves it
            open (0 or beyond int64), as live captures do.
        end_ns: Its end, which lies outside; None likewise.
        limit: The most records asked for; None without a limit.
        stype_in: Type of `symbols` and of `mappings.symbols_in`; None in a live capture.
        stype_out: Type of `mappings.symbols_out`.
        ts_out: Whether each record has a send time of 8 bytes behind it.
        symbol_cstr_len: Bytes that a symbol has room for, in header and records.
        symbols: What was asked for, in that order.
        partial: Those of them that stand for nothing on some dates.
        not_found: Those that never stand for anything.
        mappings: What each symbol stands for.
        size_bytes: Bytes of the header in the file, its first eight included.
    """

    version: int
    dataset: str
    schema: str | None
    start_ns: int | None
    end_ns: int | None
    limit: int | None
    stype_in: str | None
    stype_out: str
    ts_out: bool
    symbol_cstr_len: int
    symbols: Names
    partial: Names
    not_found: Names
    mappings: Mappings
    size_bytes: int


def header_bytes(opening: bytes | bytearray, path: Path, failure: str | None = None) -> int:
    """Return the size of the header by its first `PRELUDE_BYTES`; raises as `header_of` does."""
    if len(opening) < PRELUDE_BYTES:
        raise BadDataError(_cut_short(path, opening, failure))
    if not opening.startswith(MAGIC):
        raise BadDataError(_not_dbn(path, opening))
    version = opening[len(MAGIC)]
    if version not in VERSIONS:
        raise BadDataError(f"{path} is of DBN version {version}; versions 1 to 3 can be read")
    length: int = _COUNT.unpack_from(opening, len(MAGIC) + 1)[0]
    # Before anything is read or allocated: the length is the file's word, four bytes of it.
    if length > MAX_HEADER_BYTES:
        raise BadDataError(
            f"{path} claims a DBN header of {length} bytes; more than {MAX_HEADER_BYTES} is broken"
        )
    return PRELUDE_BYTES + length


def header_of(content: bytes | bytearray, path: Path, failure: str | None = None) -> DbnHeader:
    """Return what the header says that `content` begins with; it keeps `content`, unchanged.

    `path` and `failure`, why there is no more of the file, are for the complaint. Raises
    `BadDataError` when it is no DBN file, ends inside its header or says in it what cannot be.
    """
    size = header_bytes(content, path, failure)
    if len(content) < size:
        raise BadDataError(_cut_short(path, content, failure))
    return _Parser(memoryview(content)[:size], path).header(content[len(MAGIC)])


def _cut_short(path: Path, content: bytes | bytearray, failure: str | None) -> str:
    if failure is not None:
        return f"{path} {failure}, before the end of its DBN header"
    if not content.startswith(MAGIC[: len(content)]) or not content:
        return _not_dbn(path, content)
    return f"{path} ends inside its DBN header: it has {len(content)} bytes of it"


def _not_dbn(path: Path, content: bytes | bytearray) -> str:
    if not content:
        return f"{path} is empty: it holds no DBN header"
    opening = bytes(content[:PRELUDE_BYTES])
    return f"{path} is not a DBN file: it opens with {opening!r} where {MAGIC!r} should stand"


class _Parser:
    """Goes through the metadata once; `_at` is where the next field stands."""

    def __init__(self, content: memoryview, path: Path) -> None:
        self._content = content
        self._data = np.frombuffer(content, np.uint8)
        self._path = path
        self._at = PRELUDE_BYTES
        self._width = MIN_NAME_BYTES

    def header(self, version: int) -> DbnHeader:
        fixed = _FIXED[version]
        # Each field is checked against what is left before it is read; so no length is trusted.
        self._need(1, fixed.size, "its fixed fields")
        dataset, schema, start, end, limit, *rest, definition = fixed.unpack_from(
            self._content, self._at
        )
        # Version 1 states no width: its names have 22 bytes.
        stype_in, stype_out, ts_out, self._width = (*rest, MIN_NAME_BYTES)[:4]
        if definition:
            self._refuse(f"a schema definition of {definition} bytes, which no version has")
        if self._width < MIN_NAME_BYTES:
            self._refuse(
                f"symbols of {self._width} bytes, fewer than the {MIN_NAME_BYTES} there are"
            )
        self._at += fixed.size
        return DbnHeader(
            version=version,
            dataset=self._text(dataset, "a dataset"),
            schema=None if schema == _NO_SCHEMA else _name(SCHEMAS, schema, "schema"),
            start_ns=_time(start),
            end_ns=_time(end),
            # 0 means that no limit was asked for.
            limit=limit or None,
            stype_in=None if stype_in == _NO_STYPE else _name(STYPES, stype_in, "stype"),
            stype_out=_name(STYPES, stype_out, "stype"),
            ts_out=bool(ts_out),
            symbol_cstr_len=self._width,
            symbols=self._names("symbols"),
            partial=self._names("partial symbols"),
            not_found=self._names("symbols not found"),
            mappings=self._mappings(),
            size_bytes=len(self._content),
        )

    def _names(self, what: str) -> Names:
        count = self._count(self._width, what)
        # Places, not names: of a million instruments only those that occur become a `str`.
        places = self._at + self._width * np.arange(count, dtype=np.int64)
        self._at += self._width * count
        return self._checked(Names(self._data, places, self._width), what)

    def _mappings(self) -> Mappings:
        step = self._width + _DATES_BYTES
        keys, counts = self._walk(step)
        owners = np.repeat(np.arange(len(keys)), counts)
        before = np.cumsum(counts) - counts
        place_in_mapping = np.arange(len(owners)) - before[owners]
        # Intervals lie at equal steps behind their mapping's key, so their places are arithmetic.
        dates = keys[owners] + (self._width + _COUNT.size) + step * place_in_mapping
        return Mappings(
            symbols_in=self._checked(Names(self._data, keys, self._width), "mapped symbols"),
            owners=owners,
            first=self._days(dates, "first date"),
            end=self._days(dates + _DATE_BYTES, "last date"),
            symbols_out=self._checked(
                Names(self._data, dates + _DATES_BYTES, self._width), "intervals' symbols"
            ),
        )

    def _walk(self, step: int) -> tuple[Int64s, Int64s]:
        """Return where each mapping begins and how many intervals it has."""
        keys, counts = array("q"), array("q")
        left = self._count(self._width + _COUNT.size, "mappings")
        at, head, end = self._at, self._width + _COUNT.size, len(self._content) - _COUNT.size
        # The only loop over mappings: where one begins is known when the one before was counted.
        while left and at + self._width <= end:
            intervals = _COUNT.unpack_from(self._content, at + self._width)[0]
            keys.append(at)
            counts.append(intervals)
            at += head + step * intervals
            left -= 1
        # Counts that lead beyond the end are found once, behind the loop, and named here.
        if left or at > len(self._content):
            self._at = keys[-1] + head
            self._need(counts[-1], step, f"intervals of mapping {len(keys) - 1} (from 0)")
            self._at = at
            self._need(left, head, "mappings")
        self._at = at
        return np.array(keys, np.int64), np.array(counts, np.int64)

    def _count(self, least_bytes: int, what: str) -> int:
        """Read a count of items of at least `least_bytes` each."""
        self._need(1, _COUNT.size, f"the number of {what}")
        count: int = _COUNT.unpack_from(self._content, self._at)[0]
        self._at += _COUNT.size
        self._need(count, least_bytes, what)
        return count

    def _need(self, count: int, each_bytes: int, what: str) -> None:
        left = len(self._content) - self._at
        if count * each_bytes > left:
            self._refuse(f"{count} times {each_bytes} bytes for {what} where {left} are left")

    def _checked(self, names: Names, what: str) -> Names:
        """Decode what is not ASCII, to see that it can be."""
        number = 0
        for rows in names.raw():
            characters: Bytes = rows.view(np.uint8).reshape(len(rows), -1)
            # ASCII needs no decoding to be known for UTF-8, and nearly all names are ASCII.
            for row in np.flatnonzero(characters.max(axis=1, initial=0) > 0x7F).tolist():
                self._text(bytes(rows[row]), f"number {number + row} (from 0) of its {what}")
            number += len(rows)
        return names

    def _text(self, name: bytes, what: str) -> str:
        try:
            return name.rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise BadDataError(self._complaint(f"{what} that is no UTF-8: {name!r}")) from error

    def _days(self, places: Int64s, what: str) -> Days:
        """Return dates as days since 1970."""
        if not len(places):
            return np.empty(0, np.int32)
        written = _gathered(self._data, places, _DATE_BYTES).view("<u4")[:, 0].astype(np.int64)
        years, months, days = written // 10_000, written // 100 % 100, written % 100
        month = (years - EPOCH_DATE.year) * 12 + months - 1
        first = month.astype("M8[M]").astype("M8[D]").astype(np.int64)
        next_first = (month + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
        valid = (years >= dt.MINYEAR) & (years <= dt.MAXYEAR) & (months >= 1) & (months <= 12)
        # The first of the next month bounds the day, so leap years need no rule of their own.
        valid &= (days >= 1) & (first + days <= next_first)
        if not valid.all():
            bad = int(valid.argmin())
            self._refuse(f"the {what} {written[bad]} (YYYYMMDD)", int(places[bad]))
        return (first + days - 1).astype(np.int32)

    def _refuse(self, what: str, at: int | None = None) -> None:
        raise BadDataError(self._complaint(what, at))

    def _complaint(self, what: str, at: int | None = None) -> str:
        place = self._at if at is None else at
        return f"{self._path} has a broken DBN header: at byte {place} of its content it has {what}"


def _time(ts_ns: int) -> int | None:
    return ts_ns if 0 < ts_ns <= MAX_TIME_NS else None


def _name(names: tuple[str, ...], number: int, kind: str) -> str:
    return names[number] if number < len(names) else f"{kind} {number}"


def _gathered(data: Bytes, places: Int64s, width: int) -> Bytes:
    """Return the bytes from each place on, shape (places, width)."""
    if not len(places):
        return np.empty((0, width), np.uint8)
    return sliding_window_view(data, width)[places]
