"""What a standby with a second key hears while it waits, and gives to the feeds of its run.

Each feed has a receiver: a process with a connection of its own, made with the second key, a ring
to the feed that is to come, and a counter table that all receivers share, so that options follow
the price here too. It holds the newest rows. Its parent begins a generation of the ring when the
leases are taken: from then on it puts what it holds, and what comes, in order. The feed that reads
the ring (`RingRows`, through `feeds.polygon.relay`) begins another generation when it needs no
more, and the receiver ends. One that has lost its connection forgets what it held, or, once its
rows are asked for, says that they end: nothing that it gives has a hole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import uvloop

from ingestor.client.payloads import batches_of
from ingestor.config.schema import Config, LiveFeedName
from ingestor.feeds.polygon.relay import TAIL_NS, Rows, StoredTail
from ingestor.feeds.polygon.status_reporter import FeedStats
from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError, ExitCode, IngestorError
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import (
    EVENT_TYPE_BY_RTYPE,
    STOCK_TRADE,
    Records,
    RType,
    joined,
)
from ingestor.model.units import NS_PER_S
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.ring.wire import RingReader
from ingestor.runtime.counters import Counter, CounterRow, CounterTable
from ingestor.runtime.feed_factory import LiveFeeds, Vendor
from ingestor.runtime.feed_process import FeedContext, RingWriter
from ingestor.runtime.positions import quiet
from ingestor.runtime.reload import LiveSettings
from ingestor.runtime.resume import places_of
from ingestor.runtime.run_keeper import connected
from ingestor.runtime.run_records import RTYPES
from ingestor.runtime.supervisor import Child, ChildPlan, start_child

BLOCK_ROWS: Final = 1024
"""Rows put in the ring at a time."""

MAX_FLOW_S: Final = 60.0
"""A receiver ends this long after its rows were asked for: whoever reads them needs some seconds,
and a key that is kept by mistake is one that the next standby cannot have."""

SILENT_NS: Final = 3 * NS_PER_S
"""A receiver beats ten times a second; one that has not for so long is lost."""

TAKE_MESSAGES: Final = 256

TAIL_SEQS: Final = 256
"""Of the stream's end that are read at first; then as many as their times say, `GROWTH` at most."""

GROWTH: Final = 64
SPARE: Final = 1.3
"""More than their times say, since events come in bursts: to read once more costs more."""

MAX_TAIL_SEQS: Final = 512 * 1024
"""Never more are read, some seconds' work; what is older then counts as stored."""

ENDED_S: Final = 2.0

RESTART_S: Final = 1.0
"""Pause before one that has died is started again: it may die at once, for ever."""

log = logging.getLogger(__name__)


class HeldRows(RingWriter):
    """A receiver's sink: holds the newest rows, and puts them in the ring once they are asked for.

    Attributes:
        is_over: Whether the receiver is to end.
    """

    def __init__(self, context: FeedContext, max_rows: int, max_bytes: int) -> None:
        super().__init__(context)
        self._shared = context.table
        self._max_rows, self._max_bytes = max_rows, max_bytes
        # One buffer: arrays of a few rows, as live frames bring them, take five times the room.
        self._bytes = bytearray()
        self._last: Block | None = None
        self._was_streaming = False
        self._flows_since_s: float | None = None
        self.is_over = False

    @property
    def held(self) -> int:
        """Number of rows held."""
        return 0 if self._last is None else len(self._bytes) // self._last.records.itemsize

    def put(self, block: Block, timeout_s: float = 0.0) -> bool:  # noqa: ARG002
        """Hold a block; the oldest rows go where that is too much."""
        self._last = block
        self._bytes += block.records.tobytes()
        row_bytes = block.records.itemsize
        most = min(self._max_rows, self._max_bytes // row_bytes) * row_bytes
        if len(self._bytes) <= most:
            self._flow()
        elif self._flows_since_s is None:
            # Cutting off the front of a bytearray moves nothing.
            del self._bytes[: len(self._bytes) - most]
        else:
            self._lose()
        return True

    def tell(self, status: FeedStatus, timeout_s: float = 0.0) -> bool:  # noqa: ARG002
        """Take a status, which concerns nobody but where it tells of a gap."""
        if status.what == What.GAP:
            self._lose()
        return True

    def price(self, price_e9: int) -> None:
        """Show the newest reference price to the other receivers."""
        self._shared.reference_price_e9 = price_e9

    def show(self, stats: FeedStats) -> None:
        """Give a sign of life, and heed what the other side of the ring wants."""
        if self._was_streaming and not stats.streaming:
            self._lose()
        self._was_streaming = stats.streaming
        if self._ring.renewed:
            if self._flows_since_s is not None:
                self.is_over = True
                return
            self._flows_since_s = time.monotonic()
            self._ring.join()
        self.beat()
        self._flow()
        if self._flows_since_s is not None:
            self.is_over |= time.monotonic() > self._flows_since_s + MAX_FLOW_S

    def _flow(self) -> None:
        while self._flows_since_s is not None and self._last is not None and self._bytes:
            last = self._last
            # A copy: the buffer cannot be cut while a view of it is there.
            piece = bytes(self._bytes[: BLOCK_ROWS * last.records.itemsize])
            records = np.frombuffer(piece, last.records.dtype)
            if not super().put(Block(last.feed, records, last.symbols, last.source)):
                return
            del self._bytes[: len(piece)]

    def _lose(self) -> None:
        """There is a hole behind what is held: it is forgotten, or, if asked for, the last."""
        if self._flows_since_s is None:
            self._bytes.clear()
        elif not self.is_over:
            self._flow()
            self.is_over = True
            self.end()


class RingRows:
    """The feed's end of a receiver's ring: see `RowSource`."""

    def __init__(self, index: int, ring: BlockRing, row: CounterRow, source: Source) -> None:
        self._ring = ring
        self._row = row
        self._reader = RingReader(index, source, {})
        self._more: list[Rows] = []

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called: the first generation is begun by the receiver's parent."""
        return self._ring.generation > 1

    def take(self) -> Rows | None:
        """Return what has come; None once nothing more can."""
        if not self._more:
            self._read()
        if self._more:
            return self._more.pop(0)
        silent_ns = time.monotonic_ns() - self._row[Counter.HEARTBEAT_NS]
        return None if self._reader.ended or silent_ns > SILENT_NS else NO_ROWS

    def close(self) -> None:
        """Have the receiver end."""
        self._ring.begin_generation()

    def _read(self) -> None:
        parts: list[Records] = []
        symbols = self._reader.symbols
        for message in self._ring.take(TAKE_MESSAGES):
            try:
                found = self._reader.read(message)
            except BadDataError as error:
                log.warning("standby: %s", error)
                self._reader.ended = True
                break
            if not isinstance(found, Block):
                continue
            if parts and found.symbols is not symbols:
                self._more.append((joined(parts), symbols))
                parts = []
            symbols = found.symbols
            parts.append(found.records)
        if parts:
            self._more.append((joined(parts), symbols))


NO_ROWS: Final[Rows] = np.zeros(0, STOCK_TRADE), {}


class Receivers:
    """The receivers of a standby, one a feed; `close` in any case. Its parent has no threads."""

    def __init__(
        self,
        config: Config,
        vendor: Vendor,
        names: Sequence[LiveFeedName],
        settings: LiveSettings,
    ) -> None:
        self._config = config
        self._vendor = vendor
        self._names = names
        self._settings = settings
        self._children: list[Child] = []
        self._turned = False

    def are_whole(self) -> bool:
        """Whether each of them holds what it hears."""
        alive = [child.process.exitcode is None for child in self._children]
        return bool(alive) and all(alive) and not self._turned

    def begin(self) -> Receivers | None:
        """Start all of them, anew where one has died; None where the vendor refuses the key."""
        if not self._turned and self._children and self._tell_deaths():
            self.close()
            log.error("standby: waits without a connection to the vendor")
            return None
        self.close()
        self._table = CounterTable(len(self._names))
        self._doorbell = Doorbell()
        size_bytes = self._config.process.ring_bytes
        self._rings = [BlockRing(self._doorbell, size_bytes) for _ in self._names]
        self._turned = False
        for index, name in enumerate(self._names):
            context = FeedContext(index, self._rings[index], self._table)
            main = partial(self._receive, name, context)
            plan = ChildPlan(f"hears {name}", main, log_level=self._config.log.level)
            self._children.append(start_child(plan))
        return self

    def _tell_deaths(self) -> bool:
        """Tell why those ended that have; whether the vendor refuses the key."""
        is_refused = False
        for child in self._children:
            child.collect()
            if child.outcome is not None:
                log.error("standby: %s", child.outcome.error)
                is_refused |= child.outcome.exit_code == ExitCode.VENDOR_REFUSED
            elif child.process.exitcode is not None:
                log.error("standby: process %s died: it is started again", child.name)
        if not is_refused:
            time.sleep(RESTART_S)
        return is_refused

    def turn(self) -> None:
        """Have them put what they hold, and what comes, in their rings."""
        self._turned = True
        for ring in self._rings:
            ring.begin_generation()

    def rows_of(self, name: LiveFeedName) -> RingRows:
        """Return what a receiver puts, for the feed of its name to take."""
        index = self._names.index(name)
        return RingRows(index, self._rings[index], self._table.row(index), self._vendor.source)

    def close(self) -> None:
        """End them."""
        for child in self._children:
            child.process.kill()
            child.process.join(ENDED_S)
            child.outcomes.close()
        if self._children:
            self._doorbell.close()
        self._children.clear()

    def _receive(self, name: LiveFeedName, context: FeedContext) -> None:
        polygon = self._config.polygon
        sink = HeldRows(context, polygon.backlog_rows, polygon.backlog_bytes)
        made = LiveFeeds(self._config, self._vendor, live=self._settings)
        make: Any = {"stocks": made.stocks, "options": made.options}[name]
        uvloop.run(make(sink, None, context).run(lambda: sink.is_over))


def stored_tails(
    options: ConnectOptions, stream: str, feeds: Sequence[LiveFeedName], source: Source
) -> Mapping[LiveFeedName, StoredTail]:
    """Return the last rows stored of each feed of which there are any.

    Where that cannot be found out, after a warning, it is empty: the feeds begin without a relay.
    """

    async def work(connection: Connection) -> dict[LiveFeedName, StoredTail]:
        return await tails_in_stream(JetStreamApi(connection), stream, feeds, source)

    try:
        return uvloop.run(connected(options, work))
    except (IngestorError, TimeoutError, LookupError) as error:
        log.warning(
            "standby: what stream %s holds is not known, so what was heard while waiting is not"
            " published: %s",
            *(stream, error or type(error).__name__),
        )
        return {}


async def tails_in_stream(
    api: JetStreamApi, stream: str, feeds: Sequence[LiveFeedName], source: Source
) -> dict[LiveFeedName, StoredTail]:
    """As `stored_tails`, over a connection that is there. Raises what asking raises, LookupError.

    The latter where the server alone knows what lies where.
    """
    stream_end = await api.stream_end(stream)
    if stream_end is None:
        return {}
    places = places_of(feeds, stream_end)
    # What a run that was killed had sent may still be on its way into the server.
    await quiet(api, stream, list(places.values()))
    found = {feed: await _tail(api, stream, RTYPES[feed], places, source) for feed in feeds}
    return {feed: tail for feed, tail in found.items() if tail is not None}


async def _tail(
    api: JetStreamApi,
    stream: str,
    rtypes: Sequence[RType],
    places: Mapping[RType, str],
    source: Source,
) -> StoredTail | None:
    """Return the tail of one feed; None where nothing of this source is found."""
    since_ns, last = 0, (0, 0)
    # Twice: what is to be read of one type follows from where the newest of all types ends.
    for _ in range(2):
        rows: list[Rows] = []
        for rtype in rtypes:
            mine, reached_ns = await _read_back(
                api, stream, (rtype, places[rtype]), source, since_ns
            )
            since_ns = max(since_ns, reached_ns)
            rows += mine
            for records, _ in mine:
                end = int(records["ts_event_ns"].max()), int(records["ts_recv_ns"][-1])
                last = max(last, end)
        since_ns = max(since_ns, last[0] - TAIL_NS)
    return StoredTail(last, since_ns, rows) if last[0] else None


async def _read_back(
    api: JetStreamApi, stream: str, what: tuple[RType, str], source: Source, since_ns: int
) -> tuple[list[Rows], int]:
    """Return the last rows of one type back to a time, and the time they do reach, if a later one.

    With 0 for the time the first look is enough.
    """
    rtype, place = what
    subject = EVENT_TYPE_BY_RTYPE[rtype].subject.encode()
    newest = await api.message(stream, last_by_subj=place)
    if newest is None:
        return [], 0
    back = TAIL_SEQS
    while True:
        start, rows = max(newest.seq - back, 1), []
        async for chunk in api.stored(stream, [place], start):
            frames = [(subject, b"", payload) for _, payload in chunk]
            # What is no event of ours is another's.
            batches, _ = batches_of(frames, [seq for seq, _ in chunk])
            rows += [(one.records, one.symbols) for one in batches if one.source == source]
        oldest_ns = min((int(one["ts_event_ns"].min()) for one, _ in rows), default=2**63)
        if start == 1 or oldest_ns <= since_ns or (rows and not since_ns):
            return rows, 0
        if back >= MAX_TAIL_SEQS:
            return rows, oldest_ns if rows else 0
        newest_ns = max((int(one["ts_event_ns"].max()) for one, _ in rows), default=oldest_ns)
        wanted = SPARE * (newest_ns - since_ns) / max(newest_ns - oldest_ns, 1)
        back = min(int(back * min(max(wanted, 2), GROWTH)), MAX_TAIL_SEQS)
