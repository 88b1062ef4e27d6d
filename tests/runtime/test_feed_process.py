from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError, ExitCode
from ingestor.model.feed_status import FeedStatus, What
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.ring.wire import FeedBegin, RingReader
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.feed_process import (
    FeedContext,
    FeedProcess,
    RingWriter,
    span_of,
)
from ingestor.runtime.positions import Seek
from tests.rows import block, rows

STATUS = FeedStatus(feed="stocks", what=What.GAP, at_ns=1, text="cut")


@dataclass
class Place:
    """A place with the reader of its ring."""

    ring_bytes: int = 100_000
    reader: RingReader = field(default_factory=lambda: RingReader(0, Source.SIM, {}))

    def __post_init__(self) -> None:
        ring = BlockRing(Doorbell(), self.ring_bytes)
        self.place = FeedContext(1, ring, CounterTable(2))
        self.writer = RingWriter(self.place)

    def taken(self) -> list[Block | FeedStatus | FeedBegin | None]:
        return [self.reader.read(message) for message in self.place.ring.take(1000)]


def test_a_place_has_the_counters_of_its_own_feed() -> None:
    place = Place().place
    place.row[Counter.RECORDS] = 7
    assert place.table.row(1)[Counter.RECORDS] == 7
    assert not place.stopping
    place.table.stop()
    assert place.stopping


def test_what_is_put_is_counted_and_comes_out_with_its_symbols() -> None:
    here = Place()
    assert here.writer.put(block([(1, 1, 1), (5, 5, 5)]))
    symbols, records = here.taken()
    assert symbols is None
    assert isinstance(records, Block)
    assert records.symbols == {0: "ES.c.0"}
    assert here.place.row[Counter.RECORDS] == 2
    assert here.place.row[Counter.EVENT_TIME_NS] == 5


def test_a_block_that_was_refused_is_put_again_and_its_symbols_are_announced_once() -> None:
    here = Place(ring_bytes=1000)
    symbols = {0: "ES.c.0"}
    large = Block(0, rows([(at, 0, 0) for at in range(15)]), symbols, Source.SIM)
    assert here.writer.put(large)
    assert not here.writer.put(large)
    assert here.place.row[Counter.RING_FULL] == 1
    assert here.place.row[Counter.RECORDS] == 15
    assert len(here.taken()) == len(("symbols", "records"))
    assert here.writer.put(large)
    assert len(here.taken()) == len(("records",))


@given(st.lists(st.booleans(), max_size=12))
@settings(max_examples=20, deadline=None)
def test_whether_a_block_is_in_order_comes_out_with_it_also_of_a_ring_that_is_full(
    orders: list[bool],
) -> None:
    here = Place(ring_bytes=150)
    out: list[Block | FeedStatus | FeedBegin | None] = []
    for in_order in orders:
        one = replace(block([(1, 1, 1)]), in_order=in_order)
        while not here.writer.put(one):
            out += here.taken()
    out += here.taken()
    assert [one.in_order for one in out if isinstance(one, Block)] == orders


def test_only_symbols_that_are_new_are_announced() -> None:
    here = Place()
    for symbols in ({0: "A"}, {0: "A", 1: "B"}):
        assert here.writer.put(Block(0, rows([(1, 1, 1)]), symbols, Source.SIM))
    messages = here.place.ring.take(1000)
    assert [b"A" in message for message in messages] == [True, False, False, False]
    assert [b"B" in message for message in messages] == [False, False, True, False]


def test_a_table_that_grows_is_announced_by_what_it_grew() -> None:
    here = Place()
    table = {0: "A"}
    for number in range(1, 200):
        assert here.writer.put(Block(0, rows([(1, 1, 1)]), table, Source.SIM))
        table[number] = f"S{number}"
        symbols, records = here.place.ring.take(1000)
        assert len(symbols) < 20
        here.reader.read(symbols)
        here.reader.read(records)
    assert here.writer.put(Block(0, rows([(1, 1, 1)]), table, Source.SIM))
    here.taken()
    assert here.reader.symbols == table


def test_a_table_of_any_size_passes_a_small_ring_bit_by_bit() -> None:
    here = Place(ring_bytes=4_000)
    first = {number: f"OLD{number}" for number in range(1_000)}
    second = {number: f"NEW{number}" for number in range(500, 3_000)}
    for table in (first, second):
        large = Block(0, rows([(1, 1, 1)]), table, Source.SIM)
        for _ in range(1_000):
            if here.writer.put(large):
                break
            here.taken()
        here.taken()
    assert here.reader.symbols == first | second


def test_a_table_that_is_left_half_announced_leaves_no_wrong_name() -> None:
    here = Place(ring_bytes=4_000)
    half = Block(0, rows([(1, 1, 1)]), {n: f"A{n}" for n in range(1_000)}, Source.SIM)
    assert not here.writer.put(half)
    half.symbols[1_000] = "A1000"
    other = Block(0, rows([(1, 1, 1)]), {n: f"A{n}" for n in range(900, 1_002)}, Source.SIM)
    while not here.writer.put(other):
        here.taken()
    here.taken()
    assert here.reader.symbols == {n: f"A{n}" for n in range(1_002)}


def test_statuses_and_the_end_come_out_after_what_was_put_before() -> None:
    here = Place()
    assert here.writer.put(block([(1, 1, 1)]))
    assert here.writer.tell(STATUS)
    assert here.writer.end()
    assert here.taken()[2:] == [STATUS, None]
    assert here.reader.ended


def test_a_full_ring_takes_no_status_and_no_end() -> None:
    here = Place(ring_bytes=2000)
    while here.writer.tell(STATUS):
        pass
    while here.writer.end():
        pass
    assert here.place.row[Counter.RING_FULL] == 2
    assert not here.writer.tell(STATUS)
    assert here.taken()
    assert here.writer.tell(STATUS)


def test_a_beat_is_a_sign_of_life() -> None:
    here = Place()
    here.writer.beat()
    assert here.place.row[Counter.HEARTBEAT_NS] > 0


@dataclass
class Progress:
    bytes_total: int = 100
    bytes_read: int = 40
    late: int = 2
    skipped: Mapping[str, int] = field(default_factory=lambda: {"undefined price": 3})


class Blocks:
    """A source that yields given blocks and may break after them."""

    progress = Progress()

    def __init__(
        self, *blocks: Block, breaks: bool = False, span: tuple[int, int] | None = None
    ) -> None:
        self._blocks = blocks
        self._breaks = breaks
        self.span = span
        self.started_at: list[int | None] = []

    def start_at(self, at_ns: int | None) -> None:
        self.started_at.append(at_ns)

    def span_ns(self) -> tuple[int, int] | None:
        return self.span

    def blocks(self) -> Iterator[Block]:
        yield from self._blocks
        if self._breaks:
            raise BadDataError("the file is cut")


class Feed:
    def __init__(self, source: Blocks, ring_bytes: int = 100_000, *, stays: bool = False) -> None:
        self.ring = BlockRing(Doorbell(), ring_bytes)
        self.table = CounterTable(1)
        self.row = self.table.row(0)
        self.context = FeedContext(0, self.ring, self.table)
        self.process = FeedProcess(source, self.context, stays=stays)

    def taken(self) -> tuple[list[Block], RingReader]:
        reader = RingReader(0, Source.REPLAY, {})
        blocks = [reader.read(message) for message in self.ring.take(1000)]
        return [one for one in blocks if isinstance(one, Block)], reader


def test_a_feed_that_is_sought_begins_again_there_and_stays_until_the_run_ends() -> None:
    source = Blocks(block([(1, 1, 1)]), block([(2, 2, 2)]))
    feed = Feed(source, stays=True)
    thread = threading.Thread(target=feed.process.run)
    thread.start()
    while feed.ring.used_bytes == 0 or feed.row[Counter.RECORDS] < 2:
        time.sleep(0.001)
    feed.table.note_seek(Seek(1, 77, {}))
    feed.ring.begin_generation()
    while feed.row[Counter.SEEKS] < 1 or feed.row[Counter.RECORDS] < 2:
        time.sleep(0.001)
    feed.table.stop()
    feed.ring.wake()
    thread.join(10)
    blocks, reader = feed.taken()
    assert source.started_at == [None, 77]
    assert (sum(len(one.records) for one in blocks), reader.ended) == (2, True)


def noted_span(feed: Feed) -> tuple[int, int, int]:
    row = feed.row
    return row[Counter.BEGINS_NS], row[Counter.ENDS_NS], row[Counter.END_READ]


def test_a_feed_tells_where_it_begins_and_ends_by_its_headers_and_then_by_its_events() -> None:
    # The first event is a snapshot of before what was asked for.
    source = Blocks(block([(3, 3, 3), (6, 6, 6)]), block([(8, 8, 8)]), span=(5, 10))
    feed = Feed(source)
    assert noted_span(feed) == (5, 10, 0)
    feed.process.run()
    assert noted_span(feed) == (6, 8, 1)


@pytest.mark.parametrize("rows", [[(7, 7, 7), (8, 8, 8)], []])
def test_a_seek_changes_nothing_about_where_a_feed_begins_and_ends(
    rows: list[tuple[int, int, int]],
) -> None:
    feed = Feed(Blocks(block([(6, 6, 6), (7, 7, 7), (8, 8, 8)])))
    feed.process.run()
    feed.table.note_seek(Seek(1, 7, {}))
    feed.ring.begin_generation()
    FeedProcess(Blocks(*([block(rows)] if rows else [])), feed.context).run()
    assert noted_span(feed) == (6, 8, 1)


def test_what_is_read_from_a_seek_on_tells_the_end_and_not_the_beginning() -> None:
    feed = Feed(Blocks(span=(5, 10)))
    feed.table.note_seek(Seek(1, 7, {}))
    feed.ring.begin_generation()
    FeedProcess(Blocks(block([(7, 7, 7), (8, 8, 8)])), feed.context).run()
    assert noted_span(feed) == (5, 8, 1)


def test_a_feed_without_events_begins_and_ends_nowhere() -> None:
    feed = Feed(Blocks(span=(5, 10)))
    feed.process.run()
    assert noted_span(feed) == (0, 0, 1)


def test_a_process_that_follows_one_that_died_counts_from_the_newest_seek() -> None:
    feed = Feed(Blocks(block([(1, 1, 1)]), block([(2, 2, 2)])))
    feed.process.run()
    same = Blocks(block([(1, 1, 1)]), block([(2, 2, 2)]))
    FeedProcess(same, feed.context).run()
    assert feed.row[Counter.RECORDS] == 2
    feed.table.note_seek(Seek(1, 77, {}))
    feed.ring.begin_generation()
    after = Blocks(block([(2, 2, 2)]))
    FeedProcess(after, feed.context).run()
    assert (after.started_at, feed.row[Counter.RECORDS], feed.row[Counter.SEEKS]) == ([77], 1, 1)
    assert sum(len(one.records) for one in feed.taken()[0]) == 1


def test_all_blocks_their_symbols_and_the_end_go_through_the_ring() -> None:
    feed = Feed(Blocks(block([(1, 1, 1)]), block([(2, 2, 2), (3, 3, 3)])))
    error = feed.process.run()
    blocks, reader = feed.taken()
    assert [one.records["ts_event_ns"].tolist() for one in blocks] == [[1], [2, 3]]
    assert blocks[0].symbols == {0: "ES.c.0"}
    assert reader.ended
    assert (feed.row[Counter.RECORDS], feed.row[Counter.LATE]) == (3, 2)
    assert feed.table.skipped(0) == {"undefined price": 3}
    assert error is None


def test_symbols_are_announced_once_while_they_stay_the_same() -> None:
    symbols = {0: "ES.c.0"}
    one, two = (Block(0, rows([(at, 0, 0)]), symbols, Source.REPLAY) for at in (1, 2))
    feed = Feed(Blocks(one, two))
    feed.process.run()
    assert len(feed.ring.take(100)) == len(("symbols", "one", "two", "end"))


def test_what_was_whole_is_in_the_ring_before_an_error_is_reported() -> None:
    feed = Feed(Blocks(block([(1, 1, 1)]), breaks=True))
    error = feed.process.run()
    blocks, reader = feed.taken()
    assert len(blocks) == 1
    assert reader.ended
    assert error is not None
    assert (str(error), error.exit_code) == ("the file is cut", ExitCode.BAD_DATA)


def test_what_was_skipped_up_to_the_break_is_counted() -> None:
    source = Blocks(block([(1, 1, 1)]))

    def breaking() -> Iterator[Block]:
        yield block([(1, 1, 1)])
        source.progress = Progress(bytes_read=90, late=5, skipped={"cut": 4})
        raise BadDataError("the file is cut")

    source.blocks = breaking  # type: ignore[method-assign]
    feed = Feed(source)
    assert feed.process.run() is not None
    assert feed.table.skipped(0) == {"cut": 4}
    assert (feed.row[Counter.BYTES_READ], feed.row[Counter.LATE]) == (90, 5)


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
    feed.process.run()
    assert 0 < feed.row[Counter.RECORDS] < 1500
    assert feed.row[Counter.RING_FULL] >= 1


def test_a_stop_ends_the_feed_after_the_block_at_hand() -> None:
    feed = Feed(Blocks(*(block([(1, 1, 1)]) for _ in range(5))))
    feed.table.stop()
    feed.process.run()
    assert feed.row[Counter.RECORDS] == 1


@pytest.mark.parametrize(
    ("feeds", "first_event_ns", "span"),
    [
        ([{}], 0, None),
        ([{}], 100, None),
        # Headers, then what was read; the estimate is one as long as one feed is not read.
        ([{"BEGINS_NS": 100, "ENDS_NS": 900}], 0, (100, 900, False)),
        ([{"BEGINS_NS": 100, "ENDS_NS": 900}], 500, (100, 900, False)),
        ([{"BEGINS_NS": 120, "ENDS_NS": 800, "END_READ": 1}], 0, (120, 800, True)),
        (
            [
                {"BEGINS_NS": 120, "ENDS_NS": 800, "END_READ": 1},
                {"BEGINS_NS": 110, "ENDS_NS": 900},
            ],
            500,
            (110, 900, False),
        ),
        # One that has no events at all.
        (
            [{"BEGINS_NS": 120, "ENDS_NS": 800, "END_READ": 1}, {"END_READ": 1}],
            0,
            (120, 800, True),
        ),
        # Nothing but bytes says where it ends.
        (
            [{"BEGINS_NS": 100, "EVENT_TIME_NS": 200, "BYTES_READ": 10, "BYTES_TOTAL": 40}],
            0,
            (100, 500, False),
        ),
        ([{"EVENT_TIME_NS": 200, "BYTES_READ": 10, "BYTES_TOTAL": 40}], 0, None),
        ([{"EVENT_TIME_NS": 200, "BYTES_READ": 40, "BYTES_TOTAL": 40}], 150, (150, 200, False)),
        ([{"BEGINS_NS": 100, "ENDS_NS": 100, "END_READ": 1}], 0, None),
    ],
)
def test_the_span_is_from_the_first_event_to_the_last_as_far_as_is_known(
    feeds: list[dict[str, int]], first_event_ns: int, span: tuple[int, int, bool] | None
) -> None:
    table = CounterTable(len(feeds))
    for number, counts in enumerate(feeds):
        for name, value in counts.items():
            table.row(number)[Counter[name]] = value
    rows = [table.row(number) for number in range(len(feeds))]
    assert span_of(rows, first_event_ns) == span
