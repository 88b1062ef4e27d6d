"""The frames of one segment, as far as it is whole.

Two things end a segment early. A *torn tail*, bytes at its end that are no whole entry, is what
any crash leaves; it is told and nothing is wrong with what was before. *Damage* is anything else:
bytes in the middle that agree with no checksum, a header that is none, a compressed file that is
corrupt or cut. It is passed over as far as can be, and told in a way that is not overlooked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

from ingestor.feeds.polygon.journal_progress import JournalProgress
from ingestor.files.streams import ByteStream
from ingestor.journal.entries import Damage, EntryReader
from ingestor.journal.format import Entry, Header, read_header, seed_of
from ingestor.journal.segments import Segment, open_segment
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError

READ_BYTES: Final = 256 * 1024
"""Read at a time, uncompressed."""

logger = logging.getLogger(__name__)


class SegmentFrames:
    """Reads one segment; tells `begin` its header before the first entry."""

    def __init__(
        self, segment: Segment, progress: JournalProgress, begin: Callable[[Header], None]
    ) -> None:
        self._segment = segment
        self._progress = progress
        self._begin = begin
        self._before = progress.bytes_read

    def entries(self) -> Iterator[Entry | None]:
        """Yield what is whole, in order; None after every piece that was read or searched.

        Raises `NoDataError` when the file cannot be opened.
        """
        try:
            with open_segment(self._segment) as stream:
                yield from self._of_stream(stream)
                if stream.failure is not None:
                    self._damage(stream.failure)
        except BadDataError as error:
            self._damage(str(error).removeprefix(f"{self._segment.path_there} "))
        self._progress.bytes_read = self._before + self._segment.size

    def _of_stream(self, stream: ByteStream) -> Iterator[Entry | None]:
        pieces = self._pieces(stream)
        reader = self._behind_header(pieces)
        if reader is None:
            return
        yield from self._whole(reader)
        for piece in pieces:
            reader.put(piece)
            yield from self._whole(reader)
            yield None
        reader.end()
        yield from self._whole(reader)
        if reader.torn_from is not None and stream.failure is None:
            self._torn(reader.torn_from)

    def _pieces(self, stream: ByteStream) -> Iterator[memoryview]:
        room = memoryview(bytearray(stream.slack + READ_BYTES))
        while count := stream.read_some(room):
            self._progress.bytes_read = self._before + stream.position
            yield room[:count]

    def _behind_header(self, pieces: Iterator[memoryview]) -> EntryReader | None:
        """Read the header; return a reader that holds what was read beyond it."""
        data = b""
        for piece in pieces:
            data += piece
            found = read_header(data)
            if found is not None:
                header, size = found
                self._check_market(header)
                self._begin(header)
                reader = EntryReader(seed_of(data[:size]), size)
                reader.put(data[size:])
                return reader
        self._torn(0)
        return None

    def _check_market(self, header: Header) -> None:
        if not self._segment.path.name.startswith(f"{header.market.feed_name}-"):
            raise BadDataError(f"holds frames of {header.market.feed_name}")

    def _whole(self, reader: EntryReader) -> Iterator[Entry | None]:
        while (found := reader.take()) is not None:
            if isinstance(found, Damage):
                self._damage(f"is damaged from byte {found.start} to {found.stop} uncompressed")
            elif isinstance(found, Entry) and found.recv_ns > MAX_TIME_NS:
                self._damage(f"says that frame {found.number} was received after the year 2262")
            else:
                yield found if isinstance(found, Entry) else None

    def _torn(self, start: int) -> None:
        logger.warning(
            "%s ends in the middle of an entry, at byte %d uncompressed: all before it is read",
            self._segment.path_there,
            start,
        )

    def _damage(self, what: str) -> None:
        self._progress.damage(self._segment.path_there, what)
