"""Which DBN files there are: a data folder walked, names read, nothing opened.

A place is a file or a folder. A folder is walked a few levels deep, so it may be the original
layout (``trades/glbx-mdp3-YYYYMMDD.trades.dbn[.zst]`` and
``MBP-10/glbx-mdp3-YYYYMMDD.mbp-10.dbn[.zst]``), one delivered batch job
(``GLBX-20251217-ABCDEFGHIJ/glbx-mdp3-20251216.trades.dbn.zst``) or many of them. What a file holds
its header says; a name of the vendor's form is a hint that spares opening thousands of files.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from ingestor.model.errors import NoDataError

MAX_DEPTH: Final = 6
"""Folders below the data folder that are looked into."""
MAX_ENTRIES: Final = 200_000
"""Entries of all folders together that are looked at."""

SUFFIXES: Final = (".dbn", ".dbn.zst")
_OTHER_ENCODINGS: Final = (".csv", ".csv.zst", ".json.zst")
_ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tar.zst", ".tgz")

_NAME: Final = re.compile(
    r"(?P<dataset>[a-z0-9]+(-[a-z0-9]+)*?)-(?P<first>\d{8})(-(?P<last>\d{8}))?"
    r"\.(?P<schema>[a-z0-9-]+)(\.(?P<symbol>.+?))??(\.(?P<piece>\d{4,9}))?\.dbn(\.zst)?",
    re.ASCII,
)


class DbnSchema(StrEnum):
    """The two schemas read here, by Databento's names."""

    TRADES = "trades"
    MBP10 = "mbp-10"

    @property
    def folder(self) -> str:
        """Name of its folder in the original layout."""
        return _FOLDERS[self]


_FOLDERS: Final = {DbnSchema.TRADES: "trades", DbnSchema.MBP10: "MBP-10"}


@dataclass(frozen=True, slots=True)
class DbnFile:
    """A file to read, or some days of it.

    Attributes:
        path: Where it is.
        date: Its first day, UTC.
        size: Bytes on disk.
        last: Its last day; None means it is the file of one day, and published whole.
        days: Of a longer file the days to take, by ``ts_recv``; None takes all.
    """

    path: Path
    date: dt.date
    size: int
    last: dt.date | None = None
    days: frozenset[dt.date] | None = None

    @property
    def taken(self) -> frozenset[dt.date]:
        """The days that are taken of it."""
        return self.days or frozenset(days_between(self.date, self.last or self.date))


@dataclass(frozen=True, slots=True)
class VendorName:
    """What a name of the vendor's form says: ``DATASET-FIRST[-LAST].SCHEMA[.SYMBOL][.PIECE]``."""

    dataset: str
    first: dt.date
    last: dt.date
    schema: str
    symbol: str | None = None
    piece: int | None = None

    def touches(self, dates: Sequence[dt.date]) -> bool:
        """Tell whether it claims one of the dates."""
        return any(self.first <= date <= self.last for date in dates)


def vendor_name(name: str) -> VendorName | None:
    """Read a file's name; None when it is not of the vendor's form.

    >>> vendor_name("glbx-mdp3-20251216.trades.ESH6.0002.dbn.zst").symbol
    'ESH6'
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        first = dt.date.fromisoformat(found["first"])
        last = dt.date.fromisoformat(found["last"] or found["first"])
    except ValueError:
        return None
    piece = None if found["piece"] is None else int(found["piece"])
    return VendorName(found["dataset"], first, last, found["schema"], found["symbol"], piece)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that may hold DBN.

    Attributes:
        path: Where it is.
        size: Bytes on disk.
        name: What its name says.
        named: Whether it was named itself, not found in a folder.
        problem: Why it cannot be opened, in words that follow its path.
    """

    path: Path
    size: int
    name: VendorName | None
    named: bool = False
    problem: str | None = None

    @property
    def folder_schema(self) -> DbnSchema | None:
        """The schema whose folder of the original layout it lies in."""
        folder = self.path.parent.name
        return next((schema for schema in DbnSchema if schema.folder == folder), None)


@dataclass(slots=True)
class Listing:
    """What places hold: files that may be DBN, and paths that cannot be, with the reason."""

    files: list[Listed] = field(default_factory=list)
    others: list[tuple[Path, str]] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)
    _entries: int = 0

    def add(self, place: Path) -> None:
        """Walk a folder, or take a file. Raises `NoDataError` when there is nothing."""
        try:
            status = place.stat()
        except OSError as error:
            raise NoDataError(_missing(place, error)) from error
        if not stat.S_ISDIR(status.st_mode):
            self._take(place, status, named=True)
            return
        problem = self._walk(place, 0)
        if problem is not None:
            raise NoDataError(f"the folder {place} {problem}")

    def _walk(self, folder: Path, depth: int) -> str | None:
        if not self._is_new(folder.stat()):
            return None
        try:
            with os.scandir(folder) as entries:
                # The order of a directory is the file system's; what is read must be the same in
                # every run.
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            return f"cannot be listed: {error.strerror}"
        for entry in found:
            self._entries += 1
            # A wrong folder, such as /, ends here and not after an hour.
            if self._entries > MAX_ENTRIES:
                return f"is not looked at further: there are over {MAX_ENTRIES} entries"
            self._look_at(entry, depth)
        return None

    def _look_at(self, entry: os.DirEntry[str], depth: int) -> None:
        path, name = Path(entry.path), entry.name
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads round in a circle
            is_folder = False
        if is_folder:
            # Caches and versions of tools, never a delivery.
            if name.startswith("."):
                return
            problem = "lies too deep" if depth >= MAX_DEPTH else self._walk(path, depth + 1)
            if problem is not None:
                self.others.append((path, problem))
        elif name.lower().endswith(SUFFIXES):
            try:
                self._take(path, path.stat())
            except OSError as error:
                # It stays in the list: only what is asked for and cannot be opened is an error.
                problem = f"cannot be opened: {error.strerror}"
                self.files.append(Listed(path, 0, vendor_name(name), problem=problem))
        elif (reason := _no_dbn(name)) is not None:
            self.others.append((path, reason))

    def _take(self, path: Path, status: os.stat_result, *, named: bool = False) -> None:
        if not stat.S_ISREG(status.st_mode):
            # What was named itself is an error; what merely lies there is passed over.
            if named:
                raise NoDataError(f"{path} is neither a file nor a folder")
            self.others.append((path, "is no regular file"))
        elif self._is_new(status):
            self.files.append(Listed(path, status.st_size, vendor_name(path.name), named))

    def _is_new(self, status: os.stat_result) -> bool:
        """Links may lead to one file or folder twice."""
        # By inode: two paths may be one file, and a link may lead back to a folder above.
        key = (status.st_dev, status.st_ino)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def days_between(first: dt.date, last: dt.date) -> Iterator[dt.date]:
    """Yield each day from the first to the last."""
    for number in range((last - first).days + 1):
        yield first + dt.timedelta(days=number)


def days_of(files: Iterable[DbnFile]) -> list[dt.date]:
    """Return the days that are taken of some files, in order."""
    return sorted({day for file in files for day in file.taken})


def _missing(place: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"{place} cannot be looked at: {error.strerror}"
    if place.name.lower().endswith(SUFFIXES):
        return f"the file {place} does not exist"
    return (
        f"the data folder {place} does not exist; DBN files are looked for in it and below, such "
        f"as {place}/trades/glbx-mdp3-YYYYMMDD.trades.dbn[.zst]"
    )


def _no_dbn(name: str) -> str | None:
    """Say why a file of this name is passed over; None where nobody expects it to be read."""
    lower = name.lower()
    if lower.endswith(_OTHER_ENCODINGS):
        return "is of another encoding: have it delivered as DBN"
    if lower.endswith(_ARCHIVES):
        return "is an archive: unpack it"
    # Of what the vendor's client leaves while it downloads only whole names are worth a word.
    if ".dbn." in lower and ".partial-" not in lower:
        return "is not complete, by its name"
    return None
