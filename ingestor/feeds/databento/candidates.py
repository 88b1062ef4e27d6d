"""What files say of themselves at their front; which of them are read, and beside which.

Opening thousands of files is what costs at the start of a run, so there are two looks at the front
of a file, each of bounded bytes. The first reads `GLANCE_BYTES` and the fixed fields at the front
of every version's metadata. The second reads `READ_BYTES` and what is needed to tell two files
apart that may hold the same data: the instruments and the first record. Where a header is longer
than that (all symbols of a venue) the file counts as holding any instrument.

The same data in two files is read once. Two files hold *the same data* when dataset, schema and a
day agree and their headers map an instrument in common, unless they are parts of one delivery:
names in one folder that differ in symbol or piece only, or files of one folder with one span that
begin with different records. Of the same data one file is taken, day by day: the one with more
instruments, else the one of fewer days, else a plain one before a compressed one, else the one
whose path sorts last (job folders begin with their date, so the newest delivery). Where neither of
two holds all of the other, the operator must choose.

What remains is laid in *lanes*: in each, files one after the other that do not overlap. A layout
of a file a day is one lane; a delivery split by symbol is a lane a symbol, which the replay merges.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Final

from zstandard import ZstdDecompressor, ZstdError

from ingestor.feeds.databento.files import DbnFile, DbnSchema, Listed, days_between
from ingestor.feeds.databento.header import MAGIC, PRELUDE_BYTES, SCHEMAS, VERSIONS, header_of
from ingestor.files.streams import is_zstd
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError, ConfigurationError, NoDataError
from ingestor.model.units import utc_date

GLANCE_BYTES: Final = 4 * 1024
READ_BYTES: Final = 128 * 1024
MAX_FRONT_BYTES: Final = 1024 * 1024
"""What these may decompress to; the rest is not looked at."""
MAX_SPAN_DAYS: Final = 36_600
"""A hundred years; a header that claims more says nothing about its days."""

_FIXED: Final = Struct("<16sHQQ")
"""dataset, schema, start, end: the same in versions 1 to 3 (see `header`)."""
_NO_SCHEMA: Final = 0xFFFF
_RECORD_BYTES: Final = 48
_TS_EVENT: Final = slice(8, 16)
_LENGTH: Final = slice(4, 8)
_OPENINGS: Final = tuple(MAGIC + bytes([version]) for version in VERSIONS)
_CONTENTS_HELD: Final = 4096
SYMBOLS_HELD: Final = 8
"""Symbols that are kept for people: a header may list 200,000."""

Lane = Sequence[DbnFile]
Days = frozenset[dt.date]


@dataclass(frozen=True, slots=True)
class Front:
    """What a file says about itself.

    Attributes:
        dataset: Such as ``GLBX.MDP3``.
        schema: Databento's name; None in a live capture.
        first: UTC day of its start; None where the header leaves it open.
        last: UTC day of its last nanosecond; None likewise.
    """

    dataset: str
    schema: str | None
    first: dt.date | None
    last: dt.date | None


@dataclass(frozen=True, slots=True)
class Contents:
    """By what a file is told from another of its schema and days.

    Attributes:
        instruments: Ids, or symbols where it maps none; None when it may hold any.
        names: Those and their symbols; empty when it may hold any.
        record: The first bytes behind the header, empty when they are not looked at.
        symbols: What was asked for, the first `SYMBOLS_HELD` of `symbol_count`.
        start_ns: Start of the time range asked for, int ns UTC; None where it is left open.
        end_ns: Its end, which lies outside; None likewise.
    """

    instruments: frozenset[str] | None
    names: frozenset[str]
    record: bytes
    symbols: tuple[str, ...] = ()
    symbol_count: int = 0
    start_ns: int | None = None
    end_ns: int | None = None

    @property
    def date(self) -> dt.date | None:
        """UTC day of the first record's ``ts_event``; None where it has none."""
        ts_ns = int.from_bytes(self.record[_TS_EVENT], "little")
        return utc_date(ts_ns) if 0 < ts_ns <= MAX_TIME_NS else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file whose schema and days are known; `front` is None when its name is all there is."""

    listed: Listed
    schemas: frozenset[DbnSchema]
    first: dt.date
    last: dt.date
    front: Front | None

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.listed.path

    @property
    def contents(self) -> Contents:
        """What tells it from others; read when it is first asked for."""
        return contents_of(self.path)

    @property
    def days(self) -> Days:
        """The days it covers."""
        return frozenset(days_between(self.first, self.last))

    @property
    def stem(self) -> str:
        """Its name without the suffix that tells a compressed file."""
        return self.path.name.removesuffix(".zst")

    @property
    def delivery(self) -> object:
        """What all parts of its delivery for its days have in common."""
        name = self.listed.name
        if name is None:
            return self.path
        return (self.path.parent, name.dataset, name.first, name.last, name.schema)

    @property
    def part(self) -> tuple[str | None, int | None]:
        """Which part of it this is."""
        name = self.listed.name
        return (None, None) if name is None else (name.symbol, name.piece)

    def preference(self) -> tuple[object, ...]:
        """Sorts by what is better known, larger, nearer, plain; used in reverse by path."""
        known = self.contents.instruments
        return (
            -math.inf if known is None else -len(known),
            (self.last - self.first).days,
            self.path.suffix == ".zst",
        )

    def file(self, days: frozenset[dt.date]) -> DbnFile:
        """Return it as the file to read, of which these days are taken."""
        if self.first == self.last:
            return DbnFile(self.path, self.first, self.listed.size)
        some = None if days == self.days else days
        return DbnFile(self.path, self.first, self.listed.size, self.last, some)


@dataclass(slots=True)
class Choice:
    """Files with the days to take of each, and files left out with the one that is read instead."""

    taken: list[tuple[Candidate, Days]] = field(default_factory=list)
    left_out: list[tuple[Candidate, Candidate]] = field(default_factory=list)


class _Days:
    """What is taken of each day, by delivery and part, so that parts are never compared."""

    def __init__(self) -> None:
        self._of: dict[dt.date, dict[object, dict[object, Candidate]]] = defaultdict(dict)

    def same_data(self, one: Candidate, day: dt.date) -> Candidate | None:
        """Return a file taken on a day that holds the same data."""
        deliveries = self._of[day]
        twin = deliveries.get(one.delivery, {}).get(one.part)
        # Of one delivery the same part twice is the same data, whatever its bytes are.
        if twin is not None:
            return twin
        others = (
            other
            for delivery, parts in deliveries.items()
            if delivery != one.delivery
            for other in parts.values()
        )
        found = [other for other in others if _are_the_same(one, other)]
        if found:
            _check_contained(one, found, day)
        return found[0] if found else None

    def take(self, one: Candidate, day: dt.date) -> None:
        """Enter a file."""
        self._of[day].setdefault(one.delivery, {})[one.part] = one


def choose(candidates: Sequence[Candidate], dates: Days) -> Choice:
    """Return what to read of files, so that no data is read twice; no dates means every day.

    Raises `ConfigurationError` when two files hold the same data in part.
    """
    choice, by_day = Choice(), _Days()
    for one in _preferred(candidates):
        days = one.days & dates if dates else one.days
        twins = {day: by_day.same_data(one, day) for day in sorted(days)}
        left = frozenset(day for day, other in twins.items() if other is None)
        for day in left:
            by_day.take(one, day)
        if left:
            choice.taken.append((one, left))
        else:
            choice.left_out += [(one, other) for other in twins.values() if other is not None][:1]
    choice.taken.sort(key=lambda pair: (min(pair[1]), str(pair[0].path)))
    return choice


def laid(taken: Sequence[tuple[Candidate, Days]]) -> list[Lane]:
    """Put pieces behind each other, then each such row into the first lane that is free for it."""
    rows: dict[object, list[tuple[Candidate, Days]]] = defaultdict(list)
    for one, days in taken:
        symbol, piece = one.part
        rows[one.path if piece is None else (one.delivery, symbol)].append((one, days))
    lanes: list[list[DbnFile]] = []
    ends: list[dt.date] = []
    for row in rows.values():
        # Pieces were cut by size: their order is their number's, whatever days they share.
        row.sort(key=lambda pair: pair[0].part[1] or 0)
        first = min(min(days) for _, days in row)
        # Rows come in order of their first day, so the first free lane is the fewest lanes.
        lane = next((number for number, end in enumerate(ends) if end < first), len(lanes))
        if lane == len(lanes):
            lanes.append([])
            ends.append(first)
        ends[lane] = max(max(days) for _, days in row)
        lanes[lane] += [one.file(days) for one, days in row]
    return list(lanes)


def front_of(path: Path) -> Front:
    """Glance at a file. Raises `NoDataError`, `BadDataError` as its reader would."""
    content, failure = _open(path, GLANCE_BYTES)
    # A first zstd block may be longer than a glance, and gives nothing before its end.
    if len(content) < PRELUDE_BYTES + _FIXED.size:
        content, failure = _open(path, READ_BYTES)
    if len(content) < PRELUDE_BYTES + _FIXED.size or not content.startswith(_OPENINGS):
        # It raises what is wrong, in the same words as the file's reader would.
        header_of(content, path, failure)
        raise BadDataError(f"{path} has no DBN header in its first {READ_BYTES} bytes")
    dataset, schema, start, end = _FIXED.unpack_from(content, PRELUDE_BYTES)
    first, last = _span(start, end)
    name = SCHEMAS[schema] if schema < len(SCHEMAS) else f"schema {schema}"
    return Front(
        dataset.rstrip(b"\0").decode(errors="replace"),
        None if schema == _NO_SCHEMA else name,
        first,
        last,
    )


@lru_cache(maxsize=_CONTENTS_HELD)
def contents_of(path: Path) -> Contents:
    """Look further into a file; one that cannot be read this far may hold any instrument."""
    try:
        content, failure = _open(path, READ_BYTES)
        header = header_of(content, path, failure)
    except (BadDataError, NoDataError):
        return Contents(None, frozenset(), b"")
    ones, others = frozenset(header.mappings.symbols_in), frozenset(header.mappings.symbols_out)
    ids = ones if header.stype_in == "instrument_id" else others
    instruments = (ids - {""}) or frozenset(header.symbols) or None
    record = content[header.size_bytes : header.size_bytes + _RECORD_BYTES]
    return Contents(
        instruments,
        ones | others,
        record,
        tuple(islice(header.symbols, SYMBOLS_HELD)),
        len(header.symbols),
        header.start_ns,
        header.end_ns,
    )


def _open(path: Path, read_bytes: int) -> tuple[bytes, str | None]:
    """Return a file's first decompressed bytes, and why there are no more where it is broken."""
    try:
        with path.open("rb", buffering=0) as file:
            # One read of bounded bytes: of thousands of files this is what the start of a run
            # costs.
            raw = file.read(read_bytes)
    except OSError as error:
        raise NoDataError(f"{path} cannot be opened: {error.strerror}") from error
    if not is_zstd(raw):
        return raw, None
    found, failure = bytearray(), None
    source = ZstdDecompressor().stream_reader(BytesIO(raw), read_across_frames=True)
    try:
        while (
            len(found) < MAX_FRONT_BYTES
            and not _holds_front(found)
            and (piece := source.read1(MAX_FRONT_BYTES - len(found)))
        ):
            found += piece
    except ZstdError as error:
        failure = f"holds corrupt zstd data in its first {len(raw)} bytes ({error})"
    return bytes(found), failure


def _holds_front(content: bytearray) -> bool:
    """Whether the header and a first record are there."""
    length = int.from_bytes(content[_LENGTH], "little")
    return len(content) >= PRELUDE_BYTES + length + _RECORD_BYTES > PRELUDE_BYTES + _RECORD_BYTES


def _span(start_ns: int, end_ns: int) -> tuple[dt.date | None, dt.date | None]:
    first = utc_date(start_ns) if 0 < start_ns <= MAX_TIME_NS else None
    # The end lies outside: midnight ends the day before.
    last = utc_date(end_ns - 1) if 0 < end_ns <= MAX_TIME_NS else None
    # A span is walked day by day, so one of a million years must not be believed.
    if first is None or last is None or not 0 <= (last - first).days <= MAX_SPAN_DAYS:
        return first, None
    return first, last


def _preferred(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those that may hold the same data as another in order of preference, then the rest."""
    parts = Counter((day, one.delivery, one.part) for one in candidates for day in one.days)
    deliveries = Counter(day for day, _ in {(day, delivery) for day, delivery, _ in parts})
    shared: list[Candidate] = []
    alone: list[Candidate] = []
    for one in candidates:
        is_shared = any(
            deliveries[day] > 1 or parts[day, one.delivery, one.part] > 1 for day in one.days
        )
        (shared if is_shared else alone).append(one)
    # Sorting is stable: this decides among those that the next sort finds alike.
    shared.sort(key=lambda one: str(one.path), reverse=True)
    return [*sorted(shared, key=lambda one: one.preference()), *alone]


def _are_the_same(one: Candidate, other: Candidate) -> bool:
    """See the theory above; files of which only the name is known go by that."""
    if one.front is None or other.front is None:
        return one.listed.name is not None and one.listed.name == other.listed.name
    if one.front.dataset != other.front.dataset:
        return False
    mine, others = one.contents.instruments, other.contents.instruments
    # Where nobody knows the instruments of one, they may be those of the other.
    if mine is not None and others is not None and mine.isdisjoint(others):
        return False
    if one.path.parent != other.path.parent or one.stem == other.stem:
        return True
    # In one folder: parts of one split have one span and begin with different records.
    spans = {(one.first, one.last), (other.first, other.last)}
    return len(spans) > 1 or one.contents.record == other.contents.record


def _check_contained(one: Candidate, others: Sequence[Candidate], day: dt.date) -> None:
    held: set[str] = set()
    for other in others:
        # Which may hold any instrument cannot be compared; the preferred one is taken.
        if other.contents.instruments is None or one.contents.instruments is None:
            return
        held |= other.contents.instruments
    if not one.contents.instruments or one.contents.instruments <= held:
        return
    raise ConfigurationError(
        f"{one.path} and {others[0].path} share some instruments on {day}, and neither holds all "
        "of the other's: name the files to replay"
    )
