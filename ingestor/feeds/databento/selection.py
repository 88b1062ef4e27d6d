"""Which of the files that are there a replay reads: of each day and schema everything, once.

Theory. A file covers the days that its header says; a name of the vendor's form is believed only
when it says that a file is *not* needed, and not even then while something asked for is missing.
So thousands of files cost a listing, and headers are read of those that may be read anyway.

What is the same data twice, and what is merged with what, `candidates` says.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ingestor.feeds.databento.candidates import (
    Candidate,
    Front,
    Lane,
    choose,
    contents_of,
    front_of,
    laid,
)
from ingestor.feeds.databento.files import DbnFile, DbnSchema, Listed, Listing, VendorName
from ingestor.model.bounds import printable
from ingestor.model.errors import BadDataError, NoDataError
from ingestor.model.units import EPOCH_DATE, dates_text

logger = logging.getLogger(__name__)

MAX_LANES: Final = 256
"""Files that overlap in time and are merged; each takes a buffer and a decompressor."""
MAX_NAMED: Final = 10
"""Files passed over for one reason that are named one by one; of more, the first and the count."""

_FEED_NAMES: Final = {DbnSchema.TRADES: "trades", DbnSchema.MBP10: "mbp10"}


class Catalog:
    """The files of some places, opened as far as needed, and what is not used of them."""

    def __init__(self, places: Iterable[Path]) -> None:
        """List the places. Raises `NoDataError` when one is missing or cannot be listed."""
        self._places = list(places)
        self._listing = Listing()
        for place in self._places:
            self._listing.add(place)
        self._items: dict[Path, Candidate | str] = {}
        self._doubles: dict[Path, str] = {}
        self._used: set[Path] = set()
        self._siblings: dict[object, list[tuple[Path, VendorName]]] = defaultdict(list)
        for listed in self._listing.files:
            if listed.name is not None:
                self._siblings[_delivery(listed)].append((listed.path, listed.name))

    def schemas(self) -> list[DbnSchema]:
        """Return the schemas there are files of; reads every header."""
        items = list(self._known(self._listing.files))
        return [schema for schema in DbnSchema if any(schema in item.schemas for item in items)]

    def dates(self, schema: DbnSchema) -> list[dt.date]:
        """Return the days that files of a schema cover, in order; reads their headers."""
        hinted = [one for one in self._listing.files if _may_be(one, schema, ())]
        items = [item for item in self._known(hinted) if schema in item.schemas]
        return sorted({day for item in items for day in item.days})

    def lanes(self, schema: DbnSchema, dates: Sequence[dt.date] = ()) -> list[Lane]:
        """Return what to read for a schema and some dates; no dates means every day there is.

        Raises `NoDataError` when there is nothing for one of the dates, or nothing at all.
        """
        items = self._covering(schema, dates)
        choice = choose(items, frozenset(dates))
        for item, other in choice.left_out:
            if item.path.parent == other.path.parent and item.stem == other.stem:
                logger.info(
                    "%s holds both %s and %s: reading the plain one",
                    other.path.parent,
                    other.path.name,
                    item.path.name,
                )
                self._used.add(item.path)
            else:
                self._doubles[item.path] = f"{other.path} holds the same data, and is read"
        for item, _ in choice.taken:
            # Only of what is asked for: a file beside it that cannot be opened harms nobody.
            if item.listed.problem is not None:
                raise NoDataError(f"{item.path} {item.listed.problem}")
            self._used.add(item.path)
        lanes = laid(choice.taken)
        # Each lane holds a buffer and a window of up to 128 MiB.
        if len(lanes) > MAX_LANES:
            raise NoDataError(
                f"{len(lanes)} {schema} files overlap in time; at most {MAX_LANES} can be merged: "
                "name fewer of them"
            )
        return lanes

    def names(self, schema: DbnSchema, dates: Sequence[dt.date] = ()) -> frozenset[str]:
        """Return the symbols that the headers of what is read for a schema list; raises likewise.

        Those of long headers and of live captures are not among them.
        """
        items = self._covering(schema, dates)
        return frozenset().union(*(item.contents.names for item in items))

    def tell_unused(self) -> None:
        """Log what was seen and is not used, each file once, with the reason."""
        by_kind: dict[str, list[str]] = defaultdict(list)
        for path, (kind, reason) in sorted(self._unused()):
            by_kind[kind].append(f"{printable(str(path))}: {printable(reason)}")
        for lines in by_kind.values():
            # A download of years would fill the screen.
            if len(lines) > MAX_NAMED:
                logger.info("passed over %d files, such as %s", len(lines), lines[0])
                continue
            for line in lines:
                logger.info("passed over %s", line)

    def _unused(self) -> Iterator[tuple[Path, tuple[str, str]]]:
        """Yield each path with the kind of reason, and the reason."""
        for path, reason in self._listing.others:
            yield path, (reason, reason)
        for listed in self._listing.files:
            path = listed.path
            if path in self._doubles:
                yield path, ("the same data", self._doubles[path])
            elif isinstance(item := self._items.get(path), str):
                yield path, ("no DBN", item)
            elif path not in self._used:
                yield path, ("not asked for", self._not_asked_for(listed))

    def _not_asked_for(self, listed: Listed) -> str:
        item, name = self._items.get(listed.path), listed.name
        if isinstance(item, Candidate) and item.schemas:
            span = dates_text(sorted({item.first, item.last}))
            return f"holds {'/'.join(sorted(item.schemas))} of {span}, which are not asked for"
        if isinstance(item, Candidate):
            return _not_read(item.front.schema if item.front else None)
        if name is not None and name.schema in set(DbnSchema):
            span = dates_text(sorted({name.first, name.last}))
            return f"holds {name.schema} of {span} by its name, which are not asked for"
        return _not_read(None if name is None else name.schema)

    def _covering(self, schema: DbnSchema, dates: Sequence[dt.date]) -> list[Candidate]:
        hinted = [one for one in self._listing.files if _may_be(one, schema, dates)]
        items = self._of(schema, hinted)
        # Names are only believed while they suffice: now every header is read.
        if _uncovered(items, dates) or not items:
            items = self._of(schema, self._listing.files)
        missing = _uncovered(items, dates)
        if missing or not items:
            raise NoDataError(self._what_is_missing(schema, missing, items))
        wanted = frozenset(dates)
        return [item for item in items if not wanted or not wanted.isdisjoint(item.days)]

    def _of(self, schema: DbnSchema, files: Iterable[Listed]) -> list[Candidate]:
        return [item for item in self._known(files) if schema in item.schemas]

    def _known(self, files: Iterable[Listed]) -> Iterator[Candidate]:
        for listed in files:
            if listed.path not in self._items:
                self._items[listed.path] = self._item(listed)
            item = self._items[listed.path]
            if not isinstance(item, str):
                yield item

    def _item(self, listed: Listed) -> Candidate | str:
        """Look into a file; the answer may be why it is of no use."""
        try:
            front = front_of(listed.path)
        except (BadDataError, NoDataError) as error:
            return self._by_name(listed, error)
        first, last = self._days(listed, front)
        return Candidate(listed, _schemas(listed, front), first, last, front)

    def _by_name(self, listed: Listed, error: BadDataError | NoDataError) -> Candidate | str:
        """A file that cannot be read is taken at its name's word: its reader says what is wrong."""
        name = listed.name
        if name is not None and name.schema in set(DbnSchema):
            schemas = frozenset({DbnSchema(name.schema)})
            return Candidate(listed, schemas, name.first, name.last, None)
        if listed.named:
            raise error
        return str(error).removeprefix(f"{listed.path} ")

    def _days(self, listed: Listed, front: Front) -> tuple[dt.date, dt.date]:
        name = listed.name
        if front.first is None or front.last is None:
            if name is not None:
                return name.first, name.last
            only = front.first or contents_of(listed.path).date or EPOCH_DATE
            return only, only
        if name is not None and self._is_one_of_a_split(listed, front):
            return name.first, name.last
        return front.first, front.last

    def _is_one_of_a_split(self, listed: Listed, front: Front) -> bool:
        """Whether files of one folder share this span and divide it by their names."""
        name, first, last = listed.name, front.first, front.last
        if (
            name is None
            or first is None
            or last is None
            or (name.first, name.last) == (first, last)
        ):
            return False
        for path, other in self._siblings[_delivery(listed)]:
            if other.first == name.first:
                continue
            if first <= other.first and other.last <= last:
                # One sibling speaks for all: of thousands of files no second header is read.
                return _span(path) == (first, last)
        return False

    def _what_is_missing(
        self, schema: DbnSchema, missing: Sequence[dt.date], items: Sequence[Candidate]
    ) -> str:
        where = ", ".join(str(place) for place in self._places)
        if items:
            there = sorted({day for item in items for day in item.days})
            example = f"{schema.folder}/glbx-mdp3-{missing[0]:%Y%m%d}.{schema}.dbn[.zst]"
            return (
                f"no {schema} file for {dates_text(missing)}: looked in {where} and below for "
                f"{example} or any DBN file of that schema and day; dates there are: "
                f"{dates_text(there)}"
            )
        example = f"{schema.folder}/glbx-mdp3-YYYYMMDD.{schema}.dbn[.zst]"
        sentence = f"no {schema} file: looked in {where} and below for {example} or any DBN file"
        return f"{sentence} of that schema; {self._near_misses(schema)}"

    def _near_misses(self, schema: DbnSchema) -> str:
        others = [one for one in self.schemas() if one != schema]
        if others:
            other = others[0]
            return (
                f"there are {other} files, but no {schema}: --feeds {_FEED_NAMES[other]} replays "
                "them alone"
            )
        unused = list(self._unused())
        if not unused:
            return "there is no DBN file of any kind"
        path, (_, reason) = unused[0]
        return f"of {len(unused)} there none is of use, such as {path}: {printable(reason)}"


def _may_be(listed: Listed, schema: DbnSchema, dates: Sequence[dt.date]) -> bool:
    """Whether a file's name leaves it possible that it is needed."""
    name = listed.name
    return name is None or (name.schema == schema and (not dates or name.touches(dates)))


def _schemas(listed: Listed, front: Front) -> frozenset[DbnSchema]:
    """The original layout is taken at its word; so is any name where the header is silent."""
    hint = listed.name.schema if listed.name is not None else listed.folder_schema
    if front.schema is None:
        found = [one for one in DbnSchema if one == hint] or list(DbnSchema)
        return frozenset(found)
    # So a file in trades/ that holds depth is an error of its reader, not silently another feed.
    if listed.folder_schema is not None and listed.folder_schema == hint and listed.name:
        return frozenset({listed.folder_schema})
    return frozenset(one for one in DbnSchema if one == front.schema)


def _not_read(schema: str | None) -> str:
    return f"holds schema {schema}; trades and mbp-10 are replayed"


def _uncovered(items: Sequence[Candidate], dates: Sequence[dt.date]) -> list[dt.date]:
    return [
        date
        for date in sorted(set(dates))
        if not any(item.first <= date <= item.last for item in items)
    ]


def _delivery(listed: Listed) -> tuple[Path, str, str]:
    name = listed.name
    dataset, schema = ("", "") if name is None else (name.dataset, name.schema)
    return listed.path.parent, dataset, schema


def _span(path: Path) -> tuple[dt.date | None, dt.date | None]:
    try:
        front = front_of(path)
    except (BadDataError, NoDataError):
        return None, None
    return front.first, front.last


def available_dates(data_dir: Path, schema: DbnSchema) -> list[dt.date]:
    """Return the days that a folder has files for, in order. Raises `NoDataError` without it."""
    return Catalog([data_dir]).dates(schema)


def find_files(data_dir: Path, schema: DbnSchema, dates: Sequence[dt.date] = ()) -> list[DbnFile]:
    """Return what a folder has for some dates, in order of time; no dates means every day.

    Raises `NoDataError` when the folder is missing or a date has no file.
    """
    lanes = Catalog([data_dir]).lanes(schema, dates)
    files = [file for lane in lanes for file in lane]
    return sorted(files, key=lambda file: min(file.days or [file.date]))
