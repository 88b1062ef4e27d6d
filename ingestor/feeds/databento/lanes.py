"""The same data in two files is read once, and files that overlap in time are laid in lanes.

Two files hold *the same data* when dataset, schema and a day agree and their headers map an
instrument in common, unless they are parts of one delivery: names in one folder that differ in
symbol or piece only, or files of one folder with one span that begin with different records. Of
the same data one file is taken, day by day: the one with more instruments, else the one of fewer
days, else a plain one before a compressed one, else the one whose path sorts last (job folders
begin with their date, so the newest delivery). Where neither of two holds all of the other, which
to take is for people to say.

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
from pathlib import Path
from typing import Final

from ingestor.feeds.databento.files import DbnFile, DbnSchema, Listed, days_between
from ingestor.feeds.databento.front import Contents, Front, contents_of
from ingestor.model.errors import ConfigurationError

_CONTENTS_HELD: Final = 4096

Lane = Sequence[DbnFile]
Days = frozenset[dt.date]


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
        return _contents(self.path)

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
        row.sort(key=lambda pair: pair[0].part[1] or 0)
        first = min(min(days) for _, days in row)
        lane = next((number for number, end in enumerate(ends) if end < first), len(lanes))
        if lane == len(lanes):
            lanes.append([])
            ends.append(first)
        ends[lane] = max(max(days) for _, days in row)
        lanes[lane] += [one.file(days) for one, days in row]
    return list(lanes)


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
    shared.sort(key=lambda one: str(one.path), reverse=True)
    return [*sorted(shared, key=lambda one: one.preference()), *alone]


@lru_cache(maxsize=_CONTENTS_HELD)
def _contents(path: Path) -> Contents:
    return contents_of(path)


def _are_the_same(one: Candidate, other: Candidate) -> bool:
    """See the theory above; files of which only the name is known go by that."""
    if one.front is None or other.front is None:
        return one.listed.name is not None and one.listed.name == other.listed.name
    if one.front.dataset != other.front.dataset or not _share(one.contents, other.contents):
        return False
    if one.path.parent != other.path.parent or one.stem == other.stem:
        return True
    spans = {(one.first, one.last), (other.first, other.last)}
    return len(spans) > 1 or one.contents.record == other.contents.record


def _share(one: Contents, other: Contents) -> bool:
    if one.instruments is None or other.instruments is None:
        return True
    return not one.instruments.isdisjoint(other.instruments)


def _check_contained(one: Candidate, others: Sequence[Candidate], day: dt.date) -> None:
    held: set[str] = set()
    for other in others:
        if other.contents.instruments is None or one.contents.instruments is None:
            return
        held |= other.contents.instruments
    if not one.contents.instruments or one.contents.instruments <= held:
        return
    raise ConfigurationError(
        f"{one.path} and {others[0].path} share some instruments on {day}, and neither holds all "
        "of the other's: name the files to replay"
    )
