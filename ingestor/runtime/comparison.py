"""Two long sequences of messages side by side: what is equal, and what is not, by kind.

Both come in pieces, in order, and as long as they are equal a piece is compared in one step. Where
they differ, a window of both is aligned: messages that stand in both are paired, the longest chain
of pairs in rising order is what is equal (the longest increasing subsequence, in n log n), and what
is left over is told by kind. What follows the last pair goes into the next window. A message that
has moved farther than a window is found at the end, by the hashes of all that was left over.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

Item = tuple[bytes, ...]
"""What a message is compared by; its subject comes first."""

WINDOW: Final = 4_096
"""Messages of each side that are aligned at first."""

MAX_WINDOW: Final = 262_144
"""The most, reached by doubling while nothing pairs: a longer hole is passed over on the side of
what is expected, until what is stored appears there."""

MAX_HELD: Final = 1_000_000
"""Hashes of messages left over that are kept on each side; what is beyond counts as it stands."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference: a place on both sides, None where that side has ended."""

    number: int
    """Of the message that is expected there, counted from 1."""
    expected: Item | None
    stored: Item | None
    seq: int | None
    """Stream sequence of what is stored there."""


@dataclass(slots=True)
class Counts:
    """How many messages are what; all but `equal` are differences."""

    equal: int = 0
    missing: int = 0
    """Expected and not stored."""
    extra: int = 0
    """Stored and never expected."""
    repeated: int = 0
    """Stored more often than expected."""
    changed: int = 0
    """Another one of the same subject stands at the place of one that is missing."""
    wrong_order: int = 0
    """Stored, but not where expected; the fewest that had to be moved to set it right."""

    @property
    def differences(self) -> int:
        """All that is not equal."""
        return self.missing + self.extra + self.repeated + self.changed + self.wrong_order

    def add(self, other: Counts) -> None:
        """Add what another comparison has counted."""
        for name in ("equal", "missing", "extra", "repeated", "changed", "wrong_order"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class _Side:
    """What of one side is not compared yet."""

    items: list[Item] = field(default_factory=list)
    ended: bool = False
    left_over: Counter[int] = field(default_factory=Counter)
    """Hashes of what paired with nothing."""

    def shows(self, window: int) -> bool:
        """Whether as many items are here as there will be in a window of this size."""
        return self.ended or len(self.items) >= window

    def leave(self, items: Iterable[Item]) -> None:
        self.left_over.update(map(hash, items))
        # Bounded by what is forgotten: that remains counted as missing or extra.
        while len(self.left_over) > MAX_HELD:
            self.left_over.popitem()


class Comparison:
    """Compares what is expected with what is stored.

    Put pieces of either side, `advance`, and put more where `wants_expected` says so, or whatever
    is stored next, until both sides have ended.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self.first: Difference | None = None
        self._expected = _Side()
        self._stored = _Side()
        self._seqs: list[int] = []
        self._passed = 0
        self._window = WINDOW
        self._differs = False

    @property
    def wants_expected(self) -> bool:
        """Whether nothing more can be said without more of what is expected."""
        if self._expected.ended:
            return False
        # Files are read no farther than the stream has come while both are alike: memory stays
        # flat.
        wanted = len(self._stored.items) + self._stored.ended
        return len(self._expected.items) < (self._window if self._differs else wanted)

    @property
    def suspects(self) -> bool:
        """Whether something is stored that was not expected, so that `note_repeated` is of use."""
        return bool(self._stored.left_over)

    def put_expected(self, items: Sequence[Item]) -> None:
        """Take what is expected next."""
        self._expected.items += items

    def put_stored(self, items: Sequence[Item], seqs: Sequence[int]) -> None:
        """Take what is stored next, and the stream sequence of each."""
        self._stored.items += items
        self._seqs += seqs

    def end_expected(self) -> None:
        """Say that nothing more is expected."""
        self._expected.ended = True

    def end_stored(self) -> None:
        """Say that nothing more is stored."""
        self._stored.ended = True

    def advance(self) -> None:
        """Compare as far as both sides reach."""
        while True:
            self._pass_equal()
            expected, stored = self._expected, self._stored
            if not expected.items and not stored.items:
                return
            # What is left of one side is a difference only once the other has ended.
            self._differs = bool(expected.items and stored.items) or (
                expected.ended if stored.items else stored.ended
            )
            if not self._differs:
                return
            if not (expected.shows(self._window) and stored.shows(self._window)):
                return
            self._note_first()
            self._align()

    def finish(self) -> None:
        """Take what has moved farther than a window as moved; call when both sides have ended."""
        missing, extra = self._expected.left_over, self._stored.left_over
        # By their hashes: 64 bits do not agree by chance among a million messages.
        moved = missing & extra
        missing -= moved
        extra -= moved
        count = moved.total()
        self.counts.missing -= count
        self.counts.extra -= count
        self.counts.wrong_order += count

    def note_repeated(self, items: Iterable[Item]) -> None:
        """Look for what is extra among what was expected; to be called with all of it, once."""
        extra = self._stored.left_over
        for key in map(hash, items):
            if key in extra:
                count = extra.pop(key)
                self.counts.extra -= count
                self.counts.repeated += count

    def _pass_equal(self) -> None:
        expected, stored = self._expected.items, self._stored.items
        count = min(len(expected), len(stored))
        # Two slices are compared in C: nearly every piece is equal, and then nothing else is done.
        if expected[:count] != stored[:count]:
            pairs = zip(expected, stored, strict=False)
            count = next(at for at, (one, other) in enumerate(pairs) if one != other)
        if count:
            self._drop(count, count)
            self.counts.equal += count
            self._window, self._differs = WINDOW, False

    def _drop(self, expected: int, stored: int) -> None:
        del self._expected.items[:expected]
        del self._stored.items[:stored]
        del self._seqs[:stored]
        self._passed += expected

    def _note_first(self) -> None:
        if self.first is None:
            expected, stored = self._expected.items, self._stored.items
            self.first = Difference(
                self._passed + 1,
                expected[0] if expected else None,
                stored[0] if stored else None,
                self._seqs[0] if stored else None,
            )

    def _align(self) -> None:
        """Consume what the window tells of both sides; widen it where it tells nothing."""
        expected = self._expected.items[: self._window]
        stored = self._stored.items[: self._window]
        last = all(
            side.ended and len(side.items) <= self._window
            for side in (self._expected, self._stored)
        )
        pairs = _pairs(expected, stored)
        chain = _rising(pairs)
        if last:
            ends = len(expected), len(stored)
        elif chain:
            ends = chain[-1][0] + 1, chain[-1][1] + 1
        elif self._window < MAX_WINDOW:
            # A hole longer than the window pairs with nothing; a larger one may show its end.
            self._window *= 2
            return
        else:
            # One side is passed over, so that a long hole on it comes to its end.
            ends = (0, len(stored)) if self._expected.ended else (len(expected), 0)
        self._count(expected[: ends[0]], stored[: ends[1]], pairs, chain)
        self._drop(*ends)
        self._window = WINDOW

    def _count(
        self,
        expected: Sequence[Item],
        stored: Sequence[Item],
        pairs: Sequence[tuple[int, int]],
        chain: Sequence[tuple[int, int]],
    ) -> None:
        within = [(one, other) for one, other in pairs if one < len(expected)]
        within = [(one, other) for one, other in within if other < len(stored)]
        counts = self.counts
        counts.equal += len(chain)
        counts.wrong_order += len(within) - len(chain)
        paired = {one for one, _ in within}, {other for _, other in within}
        rows = [row for row in range(len(expected)) if row not in paired[0]]
        others = [row for row in range(len(stored)) if row not in paired[1]]
        # Changed is what is missing and extra between the same two messages of the chain.
        missing = _by_place(rows, expected, [one for one, _ in chain])
        extra = _by_place(others, stored, [other for _, other in chain])
        changed = Counter({place: len(items) for place, items in missing.items()}) & Counter(
            {place: len(items) for place, items in extra.items()}
        )
        counts.changed += changed.total()
        for side, left, name in (
            (self._expected, missing, "missing"),
            (self._stored, extra, "extra"),
        ):
            over = [item for place, items in left.items() for item in items[changed[place] :]]
            side.leave(over)
            setattr(counts, name, getattr(counts, name) + len(over))


def _pairs(expected: Sequence[Item], stored: Sequence[Item]) -> list[tuple[int, int]]:
    """Pair equal messages, the k-th of one side with the k-th of the other; in stored order."""
    places: dict[Item, list[int]] = {}
    for place in range(len(expected) - 1, -1, -1):
        # From behind, so that `pop` gives the first place of a message that comes several times.
        places.setdefault(expected[place], []).append(place)
    return [
        (there.pop(), place) for place, item in enumerate(stored) if (there := places.get(item))
    ]


def _rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest chain of pairs that rises on both sides."""
    ends: list[int] = []
    at: list[int] = []
    before: list[int] = []
    for index, (place, _) in enumerate(pairs):
        # Patience sorting: `ends` has the least last place of a chain of each length, so the
        # longest chain takes n log n steps.
        length = bisect_left(ends, place)
        before.append(at[length - 1] if length else -1)
        if length == len(ends):
            ends.append(place)
            at.append(index)
        else:
            ends[length], at[length] = place, index
    chain: list[tuple[int, int]] = []
    index = at[-1] if at else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


def _by_place(
    rows: Sequence[int], items: Sequence[Item], chain: Sequence[int]
) -> dict[tuple[int, bytes], list[Item]]:
    """Sort rows by the stretch between two messages of the chain, and by subject."""
    found: dict[tuple[int, bytes], list[Item]] = {}
    for row in rows:
        found.setdefault((bisect_left(chain, row), items[row][0]), []).append(items[row])
    return found
