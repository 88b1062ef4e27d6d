"""What a feed has recorded and not handed on, read back from its own journal while it goes on.

Theory. A feed whose backlog is full keeps the place in its journal of the frame that comes next,
and a twin of its decoder as it is before that frame. From then on it hands on nothing of what it
decodes: the twin decodes the same frames when there is room again, and says the same of them. The
journal grows meanwhile, and its last moments are not on the disk yet. So when its end is met once
(what is behind is then some milliseconds) the feed holds in its backlog what comes from that frame
on, and the journal is read up to it. Should the backlog fill again before, it is forgotten: the
journal holds that too.

Entries that are missing (the disk was full, somebody removed a file) are a gap.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.sink import FrameLog
from ingestor.feeds.polygon.spool import IDLE, NOTHING, PIECE_ROWS, Piece
from ingestor.feeds.polygon.status_reporter import FeedGap, GapTracker
from ingestor.journal.follow import Place
from ingestor.journal.format import NOTE, Entry, read_note
from ingestor.model.errors import BadDataError
from ingestor.model.records import Records, joined
from ingestor.model.units import NS_PER_S

GIVE_UP_NS: Final = 10 * NS_PER_S
"""A disk that takes nothing of what was recorded for so long does not hold up what is new."""

log = logging.getLogger(__name__)


class ReadBack:
    """Reads what was recorded from a place on; rows have the ids that the live decoder gave.

    Attributes:
        end: Number of the frame from which on the feed holds what comes; None while it does not.
        idle_ns: How long nothing could be read; whoever reads adds to it.
    """

    def __init__(
        self,
        feed: str,
        frame_log: FrameLog,
        place: Place,
        twin: StockDecoder | OptionDecoder,
        last: tuple[int, int] | None,
    ) -> None:
        """`twin` is the live decoder's as it is at the place; `last` are times of the last record.

        These are its event's and its receipt's.
        """
        self._feed = feed
        self._frame_log = frame_log
        self._follower = frame_log.follower(place)
        self._expected = place.number
        self._decoder = twin
        self._rest: list[Entry] | None = None
        self._connection: int | None = None
        self._gaps = GapTracker(last)
        self.idle_ns = 0
        self.end: int | None = None

    def pieces(self) -> Iterator[Piece]:
        """Yield what was recorded, in order, up to `end`; `IDLE` where more is to come."""
        try:
            while self.end is None or self._expected < self.end:
                entries, self._rest = self._rest or self._follower.read(), None
                if entries is not None:
                    self.idle_ns = 0
                    yield from self._of(entries)
                elif self.end is None:
                    self.end = self._frame_log.number
                elif self.idle_ns >= GIVE_UP_NS:
                    log.error(
                        "%s: the journal does not hold all that was recorded: the feed goes on"
                        " without it",
                        self._feed,
                    )
                    self._gaps.on_disconnect()
                    return
                else:
                    yield IDLE
        finally:
            self._follower.close()

    def join(self, records: Records) -> FeedGap | None:
        """Return what is missing between the last record read back and the first that is new."""
        return self._gaps.on_records(records)

    def _of(self, entries: list[Entry]) -> Iterator[Piece]:
        gathered: list[Records] = []
        held = 0
        for index, entry in enumerate(entries):
            if self.end is not None and entry.number >= self.end:
                # The feed holds these, but may yet forget them.
                self._rest = entries[index:]
                break
            missing = entry.number - self._expected
            self._expected = entry.number + 1
            if missing:
                self._gaps.on_disconnect()
            records = self._decode(entry)
            if records is None:
                continue
            gap = self._gaps.on_records(records)
            if gathered and (gap is not None or held >= PIECE_ROWS):
                yield from _cut(joined(gathered), None)
                gathered, held = [], 0
            if gap is not None:
                yield from _cut(records, gap)
                continue
            gathered.append(records)
            held += len(records)
        if gathered:
            yield from _cut(joined(gathered), None)
        else:
            yield NOTHING

    def _decode(self, entry: Entry) -> Records | None:
        if entry.connection == NOTE:
            self._note(entry)
            return None
        # Where the note of a beginning is missing, the number of the connection still tells it.
        if self._connection not in (None, entry.connection):
            self._decoder.instruments.forget_quotes()
        self._connection = entry.connection
        records = self._decoder.decode(entry.payload, entry.recv_ns).records
        return records if len(records) else None

    def _note(self, entry: Entry) -> None:
        try:
            names = read_note(entry.payload)
        except BadDataError as error:
            log.warning("%s: %s", self._feed, error)
            return
        if names is None:
            self._decoder.begin_connection()
        else:
            self._decoder.ask(names)


def _cut(records: Records, gap: FeedGap | None) -> Iterator[Piece]:
    for first in range(0, len(records), PIECE_ROWS):
        yield Piece(records[first : first + PIECE_ROWS], gap)
        gap = None
