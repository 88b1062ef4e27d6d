"""Reading entries back, from bytes that come in pieces of any size.

Whatever does not agree with its checksum is passed over up to the next entry that does. While
more bytes may come, an entry that is not all there is waited for; at the end nothing is, so an
entry whose length was damaged hides nothing that stands behind it.

The search is bounded. A checksum that disagrees was computed in vain, and bytes made up of marks
could ask for one of 16 MiB at every fourth byte. So `SEARCH_FACTOR` bytes are checked in vain for
every byte that is read; a place that would take more is believed to be no entry. And whoever reads
hears from here while many places are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from zlib import crc32

from ingestor.journal.format import (
    CHECKED_FROM,
    HEAD,
    MARK,
    MAX_PAYLOAD_BYTES,
    Entry,
)

SEARCH_FACTOR: Final = 8
SEARCH_AT_FIRST_BYTES: Final = 4 * MAX_PAYLOAD_BYTES
"""What may be checked in vain, for every byte that is read and from the start."""

PLACES_AT_ONCE: Final = 4096
"""Places that are looked at in vain before `EntryReader.take` returns for a moment."""

_MARK_REST: Final = len(MARK) - 1
"""Bytes at the end that may turn out to be the beginning of a mark."""


class Searching(Enum):
    """What `EntryReader.take` returns while a search goes on."""

    SEARCHING = auto()


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment, from `start` up to `stop`, that are passed over."""

    start: int
    stop: int


class _Verdict(Enum):
    SHORT = auto()
    BAD = auto()


class EntryReader:
    """Takes the bytes behind a header, gives entries.

    It holds at most one entry and one piece: `MAX_PAYLOAD_BYTES` and what `put` was given.

    Attributes:
        torn_from: None, or, after the end, where in the file the bytes begin that hold no entry
            and are followed by none.
    """

    def __init__(self, seed: int, offset: int = 0) -> None:
        """Read entries whose checksums start from `seed`; the first is `offset` in the file."""
        self._seed = seed
        self._held = bytearray()
        self._offset = offset
        self._at = 0
        self._bad_from: int | None = None
        self._search_bytes = SEARCH_AT_FIRST_BYTES
        self._ended = False

    @property
    def torn_from(self) -> int | None:
        """See the class."""
        return self._bad_from if self._ended else None

    def put(self, data: bytes | memoryview) -> None:
        """Add what follows in the file."""
        del self._held[: self._at]
        self._offset += self._at
        self._at = 0
        self._held += data
        self._search_bytes += SEARCH_FACTOR * len(data)

    def end(self) -> None:
        """Say that nothing follows."""
        self._ended = True

    def take(self) -> Entry | Damage | Searching | None:
        """Return what comes next; None when more is needed, or, after the end, nothing is left.

        A damage is told when the entry after it has been found.
        """
        for _ in range(PLACES_AT_ONCE):
            found = self._look()
            if isinstance(found, Entry):
                if self._bad_from is not None:
                    damage = Damage(self._bad_from, self._offset + self._at)
                    self._bad_from = None
                    return damage
                self._at += HEAD.size + len(found.payload)
                return found
            if found is _Verdict.SHORT and (not self._ended or self._at == len(self._held)):
                return None
            self._pass_over()
        return Searching.SEARCHING

    def _look(self) -> Entry | _Verdict:
        """Return the entry at this place, if there is one and all of it is there."""
        with memoryview(self._held)[self._at :] as held:
            if len(held) < HEAD.size:
                return _Verdict.SHORT if MARK.startswith(bytes(held[: len(MARK)])) else _Verdict.BAD
            mark, checksum, size, connection, recv_ns, number = HEAD.unpack_from(held)
            if mark != MARK or size > MAX_PAYLOAD_BYTES:
                return _Verdict.BAD
            if len(held) < HEAD.size + size:
                return _Verdict.SHORT
            if size > self._search_bytes:
                return _Verdict.BAD
            if crc32(held[CHECKED_FROM : HEAD.size + size], self._seed) != checksum:
                self._search_bytes -= size
                return _Verdict.BAD
            return Entry(bytes(held[HEAD.size : HEAD.size + size]), recv_ns, connection, number)

    def _pass_over(self) -> None:
        """Go to the next mark, or to where one may have begun."""
        if self._bad_from is None:
            self._bad_from = self._offset + self._at
        found = self._held.find(MARK, self._at + 1)
        if found < 0:
            found = max(self._at + 1, len(self._held) - _MARK_REST)
        self._at = found
