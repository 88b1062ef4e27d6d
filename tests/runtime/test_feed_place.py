from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.model.blocks import Block, Source
from ingestor.model.feed_status import FeedStatus, What
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.doorbell import Doorbell
from ingestor.ring.wire import RingReader
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.feed_place import FeedPlace, RingWriter
from tests.rows import block, rows

STATUS = FeedStatus(feed="stocks", what=What.GAP, at_ns=1, text="cut")


@dataclass
class Place:
    """A place with the reader of its ring."""

    ring_bytes: int = 100_000
    reader: RingReader = field(default_factory=lambda: RingReader(0, Source.SIM, {}))

    def __post_init__(self) -> None:
        ring = BlockRing(Doorbell(), self.ring_bytes)
        self.place = FeedPlace(1, ring, CounterTable(2))
        self.writer = RingWriter(self.place)

    def taken(self) -> list[Block | FeedStatus | None]:
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
    out: list[Block | FeedStatus | None] = []
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
