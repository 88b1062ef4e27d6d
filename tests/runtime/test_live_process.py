from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from msgspec.structs import replace

from ingestor.feeds.polygon.status_reporter import FeedStats, FrameLog, Sink
from ingestor.journal.recorder import JournalCounts
from ingestor.model.blocks import Block, Source
from ingestor.model.errors import VendorRefusedError
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import OPTION_TRADE, RType
from ingestor.model.units import now_ns
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.ring.wire import FeedBegin, RingReader
from ingestor.runtime import live_process as kept_module
from ingestor.runtime.counters import MAX_LAST_TRADES, Counter, CounterTable
from ingestor.runtime.feed_process import FeedContext
from ingestor.runtime.latency import Hop
from ingestor.runtime.live_process import RingSink, live_feed_main
from ingestor.runtime.positions import FeedPosition, Position
from tests.feeds.polygon.rig import NoPlace
from tests.rows import block

STATUS = FeedStatus(feed="stocks", what=What.STREAMING, at_ns=1, text="data flows")
STATS = FeedStats(
    frames=5,
    bytes=600,
    records=9,
    skipped=Counts({"not JSON": 1, "price": 2}),
    oddities=Counts({"fraction": 4}),
    late=6,
    sockets=8,
    gaps=8,
    dropped_trades=10,
    dropped_quotes=11,
)


def place(ring_bytes: int = 100_000) -> FeedContext:
    return FeedContext(0, BlockRing(Doorbell(), ring_bytes), CounterTable(1))


@dataclass
class Feed:
    """Hands on one block, and runs until it is stopped, or refused."""

    sink: Sink
    refusal: VendorRefusedError | None = None

    async def run(self, stopping: Callable[[], bool]) -> None:
        assert self.sink.put(block([(3, 1, 1)]))
        assert self.sink.tell(STATUS)
        self.sink.show(STATS)
        if self.refusal:
            raise self.refusal
        while not stopping():
            await asyncio.sleep(0.01)


@dataclass
class Log(NoPlace):
    closed: int = 0
    frames: list[bytes] = field(default_factory=list)
    counts: JournalCounts = field(default_factory=JournalCounts)
    failure: str | None = None

    def append(self, data: bytes, recv_ns: int, connection: int) -> bool:
        self.frames.append(data)
        return True

    def note(self, names: Sequence[str] | None, now_ns: int, connection: int) -> None:
        """Nothing to keep."""

    def tick(self, now_ns: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self.closed += 1


def taken(where: FeedContext) -> tuple[list[Block | FeedStatus | FeedBegin], bool]:
    reader = RingReader(0, Source.SIM, {})
    found = [reader.read(message) for message in where.ring.take(100)]
    return [one for one in found if one is not None], reader.ended


def test_a_feed_runs_until_the_run_is_to_stop_and_ends_its_ring() -> None:
    here = place()
    threading.Timer(0.1, here.table.stop).start()
    live_feed_main(lambda sink, _log, _context: Feed(sink), None)(here)
    (records, status), ended = taken(here)
    assert isinstance(records, Block)
    assert (status, ended) == (STATUS, True)
    assert here.row[Counter.RECORDS] == 1
    assert here.table.skipped(0) == {"not JSON": 1, "price": 2}
    assert [here.row[one] for one in (Counter.LATE, Counter.GAPS, Counter.RECONNECTS)] == [6, 8, 7]
    assert (here.row[Counter.DROPPED_TRADES], here.row[Counter.DROPPED_QUOTES]) == (10, 11)


def test_a_refusal_ends_the_process_and_its_journal_is_closed() -> None:
    here, journal = place(), Log()
    given: list[FrameLog | None] = []

    def make(sink: Sink, frame_log: FrameLog | None, _: FeedContext) -> Feed:
        given.append(frame_log)
        return Feed(sink, VendorRefusedError("no"))

    with pytest.raises(VendorRefusedError, match="no"):
        live_feed_main(make, journal)(here)
    assert (given, journal.closed) == ([journal], 1)


def test_what_the_journal_does_not_take_is_counted() -> None:
    here = place()
    threading.Timer(0.1, here.table.stop).start()
    journal = Log(counts=JournalCounts(lost=3))
    live_feed_main(lambda sink, _log, _context: Feed(sink), journal)(here)
    assert here.row[Counter.UNRECORDED] == 3


def test_other_processes_see_the_totals_and_the_price() -> None:
    here = place()
    sink = RingSink(here)
    sink.show(STATS)
    sink.price(686_005_000_000)
    shown = {
        Counter.FRAMES: 5,
        Counter.BYTES_READ: 600,
        Counter.SKIPPED: 3,
        Counter.ODDITIES: 4,
        Counter.LATE: 6,
        Counter.RECONNECTS: 7,
        Counter.GAPS: 8,
        Counter.DROPPED_TRADES: 10,
        Counter.DROPPED_QUOTES: 11,
    }
    assert {counter: here.row[counter] for counter in shown} == shown
    assert here.table.reference_price_e9 == 686_005_000_000
    assert here.row[Counter.HEARTBEAT_NS] > 0


def test_a_full_ring_is_not_waited_for() -> None:
    sink = RingSink(place(ring_bytes=1000))
    large = block([(at, 0, 0) for at in range(15)])
    assert [sink.put(large), sink.put(large)] == [True, False]


def numbers(where: FeedContext) -> list[int]:
    found, _ = taken(where)
    blocks = [one for one in found if isinstance(one, Block)]
    return [int(at_ns) for one in blocks for at_ns in one.records["ts_event_ns"]]


def begun(where: FeedContext) -> tuple[FeedBegin, list[int]]:
    """What another publisher reads: the beginning, then blocks with their symbols."""
    (begin, *blocks), _ = taken(where)
    times: list[int] = []
    for one in blocks:
        assert isinstance(one, Block)
        assert one.symbols == {0: "ES.c.0"}
        times += one.records["ts_event_ns"].tolist()
    assert isinstance(begin, FeedBegin)
    return begin, times


def put(sink: RingSink, *times: int) -> bool:
    return sink.put(block([(at, 0, 0) for at in times]))


def renewed(where: FeedContext, *, stored: int, process: int = 0) -> None:
    """Another publisher begins, which knows that so many rows are stored."""
    where.table.note_position(Position(feeds=(FeedPosition(process, 0, stored),)))
    where.ring.begin_generation()


def test_another_publisher_gets_what_is_not_stored_before_anything_new() -> None:
    here = place()
    sink = RingSink(here)
    assert put(sink, 1, 2, 3)
    assert put(sink, 4)
    assert numbers(here) == [1, 2, 3, 4]
    renewed(here, stored=2)
    assert put(sink, 5)
    begin, times = begun(here)
    assert (begin, times) == (FeedBegin(0, 2), [3, 4, 5])
    assert here.row[Counter.RECORDS] == 5


def test_a_sign_of_life_is_enough_to_hand_on_again() -> None:
    here = place()
    sink = RingSink(here)
    put(sink, 1, 2)
    renewed(here, stored=0)
    sink.beat()
    assert numbers(here) == [1, 2]


def test_a_ring_that_is_full_when_it_is_handed_on_again_gets_the_rest_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_module, "BLOCK_ROWS", 4)
    here = place(ring_bytes=1000)
    sink = RingSink(here)
    for at in range(30):
        assert put(sink, at)
        taken(here)
    renewed(here, stored=4)
    assert not put(sink, 30)
    sent = []
    while more := numbers(here):
        sent += more
        sink.beat()
    assert sent == list(range(4, 30))
    assert put(sink, 30)


def test_what_is_stored_is_not_kept_and_too_much_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_module, "MAX_KEPT_ROWS", 4)
    here = place()
    sink = RingSink(here)
    assert put(sink, 1, 2, 3, 4)
    assert not put(sink, 5)
    here.table.note_position(Position(feeds=(FeedPosition(0, 0, 1),)))
    assert put(sink, 5)
    assert numbers(here) == [1, 2, 3, 4, 5]
    renewed(here, stored=0)
    sink.beat()
    assert numbers(here) == [2, 3, 4, 5]


def test_a_position_of_an_earlier_process_of_the_feed_says_nothing_of_this_one() -> None:
    here = place()
    here.table.note_death(0, "killed")
    sink = RingSink(here)
    put(sink, 1, 2)
    renewed(here, stored=2, process=0)
    sink.beat()
    assert begun(here) == (FeedBegin(1, 0), [1, 2])


def test_the_end_comes_after_what_is_handed_on_again_and_what_is_not_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_module, "BLOCK_ROWS", 4)
    here = place(ring_bytes=1000)
    sink = RingSink(here)
    for at in range(30):
        put(sink, at)
        taken(here)
    renewed(here, stored=0)
    sink.end(0.01)
    assert here.row[Counter.UNDELIVERED] == 30 - len(numbers(here))


def test_statuses_that_are_not_settled_are_told_again_before_rows() -> None:
    here = place()
    sink = RingSink(here)
    for at in (1, 2, 3):
        assert sink.tell(replace(STATUS, at_ns=at))
    put(sink, 1)
    taken(here)
    here.table.note_position(Position(feeds=(FeedPosition(told=1),)))
    here.ring.begin_generation()
    sink.beat()
    (begin, *told, rows), _ = taken(here)
    assert begin == FeedBegin(0, 0, 1)
    assert [one.at_ns for one in told if isinstance(one, FeedStatus)] == [2, 3]
    assert isinstance(rows, Block)


def trades(*rows: tuple[int, int, int]) -> Block:
    """Trades of contracts: instrument, price in cents, size; at 1, 2, 3... ns."""
    records = np.zeros(len(rows), OPTION_TRADE)
    records["length"], records["rtype"] = OPTION_TRADE.itemsize // 4, RType.OPTION_TRADE
    for at, (instrument, cents, size) in enumerate(rows):
        records["instrument_id"][at], records["size"][at] = instrument, size
        records["price_e9"][at], records["ts_event_ns"][at] = cents * 10**7, at + 1
    symbols = {one: f"O:SPY251216C{one * 1_000:08d}" for one in range(1, 2_000)}
    return Block(0, records, symbols, Source.SIM)


def test_the_last_trade_of_each_contract_is_shown_nearest_to_the_money_first() -> None:
    here = place(ring_bytes=1_000_000)
    sink = RingSink(here)
    sink.price(686_010_000_000)
    assert sink.put(trades((690, 10, 1), (686, 160, 2)))
    assert sink.put(trades((686, 170, 3)))
    assert here.table.last_trades == []
    sink.show(STATS)
    assert here.table.last_trades == [
        ("O:SPY251216C00686000", 1_700_000_000, 3, 1),
        ("O:SPY251216C00690000", 100_000_000, 1, 1),
    ]
    assert sink.put(trades(*((one, 1, 1) for one in range(1, 1_000))))
    sink.show(STATS)
    shown = here.table.last_trades
    assert len(shown) == MAX_LAST_TRADES
    assert shown[0][0] == "O:SPY251216C00686000"


def test_how_long_records_took_to_be_received_and_to_reach_the_ring_is_counted() -> None:
    here = place()
    sink = RingSink(here)
    received_ns = now_ns() - 5_000_000
    records = trades((1, 1, 1), (2, 1, 1))
    records.records["ts_event_ns"] = received_ns - np.array([2_000_000, 9_000_000])
    records.records["ts_recv_ns"] = received_ns
    assert sink.put(records)
    sink.show(STATS)
    hops = here.table.latencies
    received = hops.read(0, Hop.VENDOR_TO_RECEIVE)
    assert (received.rows, received.sum_ns, received.max_ns) == (2, 11_000_000, 9_000_000)
    reached = hops.read(0, Hop.RECEIVE_TO_RING)
    assert (reached.rows, reached.sum_ns >= 10_000_000) == (2, True)
    assert 5_000_000 <= reached.max_ns < 5_000_000_000


def test_a_block_says_when_it_was_put() -> None:
    here = place()
    before_ns = time.monotonic_ns()
    assert RingSink(here).put(block([(3, 1, 1)]))
    [[put], _] = taken(here)
    assert isinstance(put, Block)
    assert before_ns <= put.put_ns <= time.monotonic_ns()


def test_what_keeps_a_feed_from_its_work_is_shown_while_it_does() -> None:
    here, journal = place(), Log(failure="No space left on device")
    sink = RingSink(here, journal)
    sink.show(FeedStats(trouble="Connection refused", attempts=3))
    assert (here.table.trouble(0), here.row[Counter.ATTEMPTS]) == ("Connection refused", 3)
    sink.show(FeedStats(streaming=True, subscribed=7, last_recv_ns=9))
    assert here.table.trouble(0) == "No space left on device"
    assert (here.row[Counter.SUBSCRIBED], here.row[Counter.RECEIVED_NS]) == (7, 9)
    journal.failure = None
    sink.show(FeedStats())
    assert here.table.trouble(0) == ""
