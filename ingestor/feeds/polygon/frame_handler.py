"""What becomes of the messages of a socket: journal, decoder, gaps, reference price, sink.

All of it happens in the callback that read them, one message after the other, so the journal holds
a frame before anything else is known of it, and nothing waits in a queue between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ingestor.feeds.polygon.decode import Decoded, OptionDecoder, StockDecoder
from ingestor.feeds.polygon.frames import PIECE_BYTES, pieces
from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.feeds.polygon.option_follower import ReferencePrice
from ingestor.feeds.polygon.spill_queue import SpillQueue
from ingestor.feeds.polygon.status_reporter import (
    FeedStats,
    FrameLog,
    GapTracker,
    Sink,
    StatusReporter,
)
from ingestor.model.records import Records, joined

TOGETHER_ROWS: Final = 256
"""Short frames of one read make one block; with this many rows it waits for no more."""

log = logging.getLogger(__name__)


class FrameHandler:
    """Takes messages as they come; the records of one read become one block, if it stays short.

    Attributes:
        has_data: Whether the socket, or the last one, has brought more than statuses.
    """

    def __init__(
        self,
        feed: str,
        decoder: StockDecoder | OptionDecoder,
        *,
        sink: Sink,
        spill: SpillQueue,
        reporter: StatusReporter,
        stats: FeedStats,
        shown: Callable[[str], str],
        frame_log: FrameLog | None = None,
        reference: ReferencePrice | None = None,
    ) -> None:
        """`shown` turns text that may hold the vendor's into a line to show."""
        self._feed = feed
        self._decoder = decoder
        self._sink = sink
        self._spill = spill
        self._reporter = reporter
        self._stats = stats
        self._shown = shown
        self._frame_log = frame_log
        self._reference = reference
        self._price_e9: int | None = None
        self._gaps = GapTracker()
        self._streaming = False
        self.has_data = False

    def take(self, messages: list[bytes], recv_ns: int) -> Iterator[tuple[StatusMessage, ...]]:
        """Take the messages of one read; yield the statuses in them as they are met.

        After each piece of a long message something is yielded, be it nothing, so that whoever
        iterates can give signs of life.
        """
        parts: list[Records] = []
        gathered = 0
        for data in messages:
            if self._frame_log is not None:
                place = self._frame_log.place if self._spill.full else None
                is_recorded = self._frame_log.append(data, recv_ns, self._stats.sockets)
                if place is not None and is_recorded:
                    # What came before it is held: the journal gives what begins with this one.
                    if parts:
                        self._hand_on(parts, recv_ns)
                        parts, gathered = [], 0
                    self._spill.leave(place, self._decoder.twin, recv_ns)
            self._stats.frames += 1
            self._stats.bytes += len(data)
            self._stats.last_recv_ns = recv_ns
            # Cut here and not only by the decoder, so that each piece can give a sign of life.
            is_long = len(data) > PIECE_BYTES
            for piece in pieces(data) if is_long else (data,):
                decoded = self._decode(piece, recv_ns)
                if len(decoded.records):
                    parts.append(decoded.records)
                    gathered += len(decoded.records)
                if gathered >= TOGETHER_ROWS:
                    self._hand_on(parts, recv_ns)
                    parts, gathered = [], 0
                if is_long or decoded.statuses:
                    yield decoded.statuses
        if parts:
            self._hand_on(parts, recv_ns)

    def on_open(self, now_ns: int) -> None:
        """There is another socket, over which nothing was asked for."""
        self.has_data = False
        self._decoder.begin_connection()
        if self._frame_log is not None:
            self._frame_log.note(None, now_ns, self._stats.sockets)

    def on_ask(self, names: Sequence[str], now_ns: int) -> None:
        """These names are asked for: from now on they are expected."""
        self._decoder.ask(names)
        if self._frame_log is not None:
            self._frame_log.note(names, now_ns, self._stats.sockets)

    def on_disconnect(self) -> None:
        """The socket is gone: there will be a gap, and no quote held is the newest any more."""
        self._gaps.on_disconnect()
        self._decoder.instruments.forget_quotes()

    def _decode(self, data: bytes, recv_ns: int) -> Decoded:
        decoded, stats = self._decoder.decode(data, recv_ns), self._stats
        stats.records += len(decoded.records)
        stats.late += len(decoded.late)
        # `Counter.update` costs more than the rest of these lines; nearly all frames skip nothing.
        if decoded.skipped:
            stats.skipped.update(decoded.skipped)
        if decoded.oddities:
            stats.oddities.update(decoded.oddities)
        self.has_data |= not decoded.statuses or len(decoded.records) > 0
        for notice in decoded.notices:
            log.warning("%s: %s", self._feed, self._shown(notice.text))
        if self._reference is not None:
            trouble = self._reference.on_frame(decoded)
            if trouble is not None:
                self._reporter.alarm(trouble, recv_ns, "reference")
        return decoded

    def _hand_on(self, parts: list[Records], recv_ns: int) -> None:
        records = parts[0] if len(parts) == 1 else joined(parts)
        gap = self._gaps.on_records(records)
        # Told before the records are put: whoever reads the status sees the gap before its end.
        if gap is not None:
            self._reporter.gap(gap)
        elif not self._streaming:
            self._reporter.streaming(recv_ns, int(records["ts_event_ns"][0]))
        self._streaming = True
        self._stats.last_event_ns = int(records["ts_event_ns"][-1])
        if self._frame_log is not None:
            self._frame_log.flush()
        self._spill.put(records, recv_ns)
        price_e9 = None if self._reference is None else self._reference.price_e9
        # After the records: whoever moves strikes for this price finds its quote published.
        if price_e9 is not None and price_e9 != self._price_e9:
            self._price_e9 = price_e9
            self._sink.price(price_e9)
