from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError, ExitCode
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.doorbell import Doorbell
from ingestor.ring.wire import RingReader
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.feed_place import FeedPlace
from ingestor.runtime.feed_process import FeedProcess
from tests.rows import block, rows


@dataclass
class Progress:
    bytes_total: int = 100
    bytes_read: int = 40
    late: int = 2
    skipped: Mapping[str, int] = field(default_factory=lambda: {"undefined price": 3})


class Blocks:
    """A source that yields given blocks and may break after them."""

    progress = Progress()

    def __init__(self, *blocks: Block, breaks: bool = False) -> None:
        self._blocks = blocks
        self._breaks = breaks

    def blocks(self) -> Iterator[Block]:
        yield from self._blocks
        if self._breaks:
            raise BadDataError("the file is cut")


class Feed:
    def __init__(self, source: Blocks, ring_bytes: int = 100_000) -> None:
        self.ring = BlockRing(Doorbell(), ring_bytes)
        self.table = CounterTable(1)
        self.row = self.table.row(0)
        self.process = FeedProcess(source, FeedPlace(0, self.ring, self.table))

    def taken(self) -> tuple[list[Block], RingReader]:
        reader = RingReader(0, Source.REPLAY, {})
        blocks = [reader.read(message) for message in self.ring.take(1000)]
        return [one for one in blocks if isinstance(one, Block)], reader


def test_all_blocks_their_symbols_and_the_end_go_through_the_ring() -> None:
    feed = Feed(Blocks(block([(1, 1, 1)]), block([(2, 2, 2), (3, 3, 3)])))
    report = feed.process.run()
    blocks, reader = feed.taken()
    assert [one.records["ts_event_ns"].tolist() for one in blocks] == [[1], [2, 3]]
    assert blocks[0].symbols == {0: "ES.c.0"}
    assert reader.ended
    assert (report.records, report.late, report.skipped) == (3, 2, {"undefined price": 3})
    assert (report.error, report.exit_code) == (None, 0)


def test_symbols_are_announced_once_while_they_stay_the_same() -> None:
    symbols = {0: "ES.c.0"}
    one, two = (Block(0, rows([(at, 0, 0)]), symbols, Source.REPLAY) for at in (1, 2))
    feed = Feed(Blocks(one, two))
    feed.process.run()
    assert len(feed.ring.take(100)) == len(("symbols", "one", "two", "end"))


def test_what_was_whole_is_in_the_ring_before_an_error_is_reported() -> None:
    feed = Feed(Blocks(block([(1, 1, 1)]), breaks=True))
    report = feed.process.run()
    blocks, reader = feed.taken()
    assert len(blocks) == 1
    assert reader.ended
    assert (report.error, report.exit_code) == ("the file is cut", ExitCode.BAD_DATA)


def test_empty_blocks_are_signs_of_life_and_nothing_else() -> None:
    feed = Feed(Blocks(block([])))
    feed.process.run()
    assert feed.row[Counter.HEARTBEAT_NS] > 0
    assert feed.taken()[0] == []


def test_the_counters_say_how_far_the_feed_is() -> None:
    feed = Feed(Blocks(block([(7, 1, 1)])))
    feed.process.run()
    read = {counter: feed.row[counter] for counter in Counter}
    assert read[Counter.BYTES_TOTAL] == 100
    assert read[Counter.BYTES_READ] == 40
    assert read[Counter.RECORDS] == 1
    assert read[Counter.EVENT_TIME_NS] == 7
    assert (read[Counter.SKIPPED], read[Counter.LATE]) == (3, 2)


def test_a_full_ring_holds_the_feed_until_it_is_told_to_stop() -> None:
    feed = Feed(Blocks(*(block([(1, 1, 1)] * 15) for _ in range(100))), ring_bytes=2000)
    threading.Timer(0.3, feed.table.stop).start()
    report = feed.process.run()
    assert 0 < report.records < 1500
    assert feed.row[Counter.RING_FULL] >= 1


def test_a_stop_ends_the_feed_after_the_block_at_hand() -> None:
    feed = Feed(Blocks(*(block([(1, 1, 1)]) for _ in range(5))))
    feed.table.stop()
    assert feed.process.run().records == 1
