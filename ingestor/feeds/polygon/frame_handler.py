"""What becomes of the messages of a socket: journal, decoder, gaps, reference price, sink."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ingestor.feeds.polygon.decode import Decoded, OptionDecoder, StockDecoder
from ingestor.feeds.polygon.gaps import GapTracker
from ingestor.feeds.polygon.messages import Status
from ingestor.feeds.polygon.pieces import PIECE_BYTES, pieces
from ingestor.feeds.polygon.reference import ReferencePrice
from ingestor.feeds.polygon.sink import FrameLog, Sink
from ingestor.feeds.polygon.spill_queue import SpillQueue
from ingestor.feeds.polygon.status_reporter import StatusReporter
from ingestor.feeds.polygon.totals import Totals
from ingestor.model.records import Records, joined

TOGETHER_ROWS: Final = 256
"""Short frames of one read make one block; so many rows are not kept waiting for more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Where things go; `shown` makes of text that holds the vendor's a line to show."""

    sink: Sink
    spill: SpillQueue
    reporter: StatusReporter
    totals: Totals
    frame_log: FrameLog | None
    shown: Callable[[str], str]


class FrameHandler:
    """Takes messages as they come. Those of one read are handed on together, as far as sensible."""

    def __init__(
        self,
        feed: str,
        decoder: StockDecoder | OptionDecoder,
        ways: Ways,
        reference: ReferencePrice | None,
    ) -> None:
        self._feed = feed
        self._decoder = decoder
        self._ways = ways
        self._reference = reference
        self._price_e9: int | None = None
        self._gaps = GapTracker()
        self._streaming = False
        self.has_data = False
        """Whether the socket of now, or of last, has brought more than statuses."""

    def take(self, messages: list[bytes], recv_ns: int) -> Iterator[tuple[Status, ...]]:
        """Take the messages of one read; yield the statuses in them as they are met.

        After each piece of a long one something is yielded, be it nothing, so that whoever
        iterates can give signs of life.
        """
        parts: list[Records] = []
        gathered = 0
        for data in messages:
            self._note(data, recv_ns)
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
        if self._ways.frame_log is not None:
            self._ways.frame_log.note(None, now_ns, self._ways.totals.sockets)

    def on_ask(self, names: Sequence[str], now_ns: int) -> None:
        """These names are asked for: from now on they are expected."""
        self._decoder.ask(names)
        if self._ways.frame_log is not None:
            self._ways.frame_log.note(names, now_ns, self._ways.totals.sockets)

    def on_disconnect(self) -> None:
        """The socket is gone: there will be a gap, and no quote held is the newest any more."""
        self._gaps.on_disconnect()
        self._decoder.instruments.forget_quotes()

    def _note(self, data: bytes, recv_ns: int) -> None:
        totals, frame_log = self._ways.totals, self._ways.frame_log
        if frame_log is not None:
            frame_log.append(data, recv_ns, totals.sockets)
        totals.frames += 1
        totals.bytes += len(data)
        totals.last_recv_ns = recv_ns

    def _decode(self, data: bytes, recv_ns: int) -> Decoded:
        decoded = self._decoder.decode(data, recv_ns)
        self._ways.totals.add(decoded)
        self.has_data |= not decoded.statuses or len(decoded.records) > 0
        for notice in decoded.notices:
            log.warning("%s: %s", self._feed, self._ways.shown(notice.text))
        if self._reference is not None:
            trouble = self._reference.on_frame(decoded)
            if trouble is not None:
                self._ways.reporter.alarm(trouble, recv_ns, "reference")
        return decoded

    def _hand_on(self, parts: list[Records], recv_ns: int) -> None:
        records = parts[0] if len(parts) == 1 else joined(parts)
        self._tell_what_begins(records, recv_ns)
        self._ways.totals.last_event_ns = int(records["ts_event_ns"][-1])
        self._ways.spill.put(records, recv_ns)
        price_e9 = None if self._reference is None else self._reference.price_e9
        if price_e9 is not None and price_e9 != self._price_e9:
            self._price_e9 = price_e9
            self._ways.sink.price(price_e9)

    def _tell_what_begins(self, records: Records, recv_ns: int) -> None:
        gap = self._gaps.on_records(records)
        if gap is not None:
            self._ways.reporter.gap(gap)
        elif not self._streaming:
            self._ways.reporter.streaming(recv_ns, int(records["ts_event_ns"][0]))
        self._streaming = True
