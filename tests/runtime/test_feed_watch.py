"""What the publisher tells of its feeds, and what of it its follower goes on with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import nats
import pytest

from ingestor.encode import make_encoder
from ingestor.feeds.polygon.spool import StoredEnd
from ingestor.model.blocks import Source
from ingestor.model.feed_status import FeedStatus, What, decode_status
from ingestor.model.records import RType
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings
from ingestor.publish.publisher import Publisher
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.ring.wire import FeedBegin, RingReader
from ingestor.runtime import feed_watch
from ingestor.runtime.counters import CounterTable
from ingestor.runtime.feed_watch import FeedWatch, RingInput
from ingestor.runtime.positions import FeedPosition, Position
from ingestor.runtime.resume import noted_ends
from tests.publish.plain import messages, until
from tests.rows import block

if TYPE_CHECKING:
    from tests.nats_servers import NatsServer

FUTURES = "market.futures.trades"


class Watched:
    """One live feed that a publisher watches; each one made on a table follows the one before."""

    def __init__(
        self,
        server: NatsServer,
        table: CounterTable,
        subjects: tuple[str, ...] = (FUTURES,),
        *,
        spooled: bool = False,
        recorded: bool = False,
    ) -> None:
        self.publisher = Publisher(
            make_encoder("json"),
            connect_options=ConnectOptions((server.url,)),
            stream=StreamSettings(),
        )
        ring = BlockRing(Doorbell(), 10_000)
        reader = RingReader(0, Source.REPLAY, {})
        self.feed = RingInput(ring, reader, "stocks", subjects, spooled, recorded)
        self.table = table
        self.watch = FeedWatch(
            [self.feed],
            self.publisher,
            table,
            live=True,
            run="run",
        )

    async def open(self) -> None:
        await self.publisher.open()
        position = self.table.position
        if position is not None:
            self.watch.follow(position, position.rows)
        await self.watch.find_gaps()

    def die(self) -> None:
        """Leave what it knows in the table, and nothing more."""
        position = Position(rows={FUTURES: 3}, feeds=self.watch.feeds({}), untold=self.watch.untold)
        self.table.note_position(position)

    async def settled(self) -> None:
        await until(lambda: not self.publisher.statuses.pending)
        await self.publisher.close()


def told(server: NatsServer, work: Callable[[CounterTable], Awaitable[None]]) -> list[FeedStatus]:
    """The statuses that are stored after some work."""

    async def run() -> list[FeedStatus]:
        await work(CounterTable(2))
        found = await messages(server, "INGESTOR_STATUS")
        return [decode_status(data) for _, _, data in found]

    return asyncio.run(run())


def test_a_feed_that_was_started_again_and_its_gap_are_told(nats_server: NatsServer) -> None:
    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table)
        await one.open()
        one.watch.on_block(block([(1, 2, 0)]))
        table.note_death(0, "killed")
        assert one.watch.on_begin(0, FeedBegin(1))
        assert one.watch.feeds({}) == (FeedPosition(1, 0, 0, 0, gap=True),)
        one.watch.on_block(block([(7, 8, 0)]))
        assert one.watch.feeds({}) == (FeedPosition(1, 0, 0, 0, gap=False),)
        await one.settled()

    restart, gap = told(nats_server, work)
    assert (restart.what, restart.text) == (What.RESTART, "killed: started again")
    assert (gap.what, gap.from_event_ns, gap.to_recv_ns) == (What.GAP, 1, 8)


def test_where_the_stream_does_not_say_how_it_ends_that_is_told(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> None:
        raise TimeoutError("nobody answers")

    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table)
        monkeypatch.setattr(feed_watch, "newest_times", silent)
        await one.open()
        one.watch.on_block(block([(1, 2, 0)]))
        await one.settled()

    (alarm,) = told(nats_server, work)
    assert (alarm.feed, alarm.what) == ("stocks", What.ALARM)
    assert alarm.text == "what is missing since the last run is not known: nobody answers"


@pytest.mark.parametrize(
    ("trade_ns", "quote_ns", "from_event_ns"),
    [((7, 9), (8, 9), 8), ((8, 9), (7, 10), 7), ((7, 10), (8, 9), 7)],
    ids=["one frame", "a later quote", "a later trade"],
)
def test_a_gap_begins_at_the_event_that_was_received_last_over_all_subjects(
    nats_server: NatsServer,
    trade_ns: tuple[int, int],
    quote_ns: tuple[int, int],
    from_event_ns: int,
) -> None:
    envelope = '{"ts_event_ns":%d,"ts_recv_ns":%d,"source":"replay","symbol":"SPY",'
    trade = envelope + '"price":1.0,"size":1,"exchange":1,"conditions":[],"seq":1,"aggressor":0}'
    quote = (
        envelope
        + '"bid_px":1.0,"ask_px":1.0,"bid_sz":1,"ask_sz":1,"bid_exch":1,"ask_exch":1,"seq":1}'
    )
    subjects = ("market.stocks.trades", "market.stocks.quotes")

    async def work(table: CounterTable) -> None:
        await (one := Watched(nats_server, table)).open()
        await one.settled()
        client = await nats.connect(nats_server.url)
        for subject, text in zip(subjects, (trade % trade_ns, quote % quote_ns), strict=True):
            await client.jetstream().publish(subject, text.encode())
        await client.close()
        await (other := Watched(nats_server, table, subjects)).open()
        other.watch.on_block(block([(11, 12, 0)]))
        await other.settled()

    (gap,) = told(nats_server, work)
    assert (gap.what, gap.from_event_ns, gap.to_event_ns) == (What.GAP, from_event_ns, 11)


def test_the_same_process_that_hands_on_again_is_no_restart(nats_server: NatsServer) -> None:
    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table)
        await one.open()
        assert not one.watch.on_begin(0, FeedBegin(0, 5, 0))
        one.watch.on_status(0, FeedStatus(feed="stocks", what=What.ALARM, at_ns=1, text="no"))
        await one.settled()

    assert [one.what for one in told(nats_server, work)] == [What.ALARM]


def test_what_a_publisher_had_not_told_when_it_died_is_told_once_by_its_follower(
    nats_server: NatsServer,
) -> None:
    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table)
        await one.open()
        one.watch.on_block(block([(1, 2, 0)]))
        one.watch.on_begin(0, FeedBegin(1))
        one.watch.on_block(block([(7, 8, 0)]))
        one.die()
        assert [status.what for _, status in one.watch.untold] == [What.RESTART, What.GAP]
        await one.settled()
        other = Watched(nats_server, table)
        await other.open()
        await other.settled()
        assert not other.watch.untold
        assert other.publisher.statuses.published == 2

    assert [one.what for one in told(nats_server, work)] == [What.RESTART, What.GAP]


def test_what_was_done_to_a_replay_outlives_its_publisher_too(nats_server: NatsServer) -> None:
    paused = FeedStatus(feed="replay", what=What.CONTROL, at_ns=1, text="paused", generation=1)

    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table)
        one.watch.tell(paused)
        one.die()
        other = Watched(nats_server, table)
        await other.open()
        await other.settled()
        assert not other.watch.untold

    assert told(nats_server, work) == [paused]


def test_a_feeds_status_that_is_handed_on_again_is_stored_once(nats_server: NatsServer) -> None:
    statuses = [FeedStatus(feed="stocks", what=What.ALARM, at_ns=at, text="no") for at in range(3)]

    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table)
        await one.open()
        for status in statuses[:2]:
            one.watch.on_status(0, status)
        await until(lambda: one.watch.feeds({})[0].told == 2)
        one.die()
        await one.settled()
        other = Watched(nats_server, table)
        await other.open()
        assert other.watch.feeds({})[0].told == 2
        other.watch.on_begin(0, FeedBegin(0, 3, 1))
        for status in statuses[1:]:
            other.watch.on_status(0, status)
        await until(lambda: other.watch.feeds({})[0].told == 3)
        await other.settled()

    assert told(nats_server, work) == statuses


def test_a_feed_that_begins_with_its_journal_begins_without_a_gap_and_tells_one_when_it_dies(
    nats_server: NatsServer,
) -> None:
    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table, spooled=True)
        await one.open()
        assert one.watch.feeds({}) == (FeedPosition(),)
        one.watch.on_block(block([(1, 2, 0)]))
        table.note_death(0, "killed")
        one.watch.on_begin(0, FeedBegin(1))
        one.watch.on_block(block([(7, 8, 0)]))
        await one.settled()

    _, gap = told(nats_server, work)
    assert (gap.what, gap.from_event_ns, gap.to_recv_ns) == (What.GAP, 1, 8)


def test_a_publisher_that_dies_at_once_leaves_such_a_feed_as_it_was(
    nats_server: NatsServer,
) -> None:
    async def work(table: CounterTable) -> None:
        table.note_position(Position())
        one = Watched(nats_server, table, spooled=True)
        await one.open()
        assert one.watch.feeds({}) == (FeedPosition(),)
        one.watch.on_status(0, FeedStatus(feed="stocks", what=What.ALARM, at_ns=1, text="no"))
        one.watch.on_block(block([(1, 2, 0)]))
        await one.settled()

    assert [one.what for one in told(nats_server, work)] == [What.ALARM]


async def publish_trade(server: NatsServer, times: int) -> None:
    event = f'{{"ts_event_ns":{times},"ts_recv_ns":{times},"source":"replay","symbol":"SPY",'
    event += '"price":1.0,"size":1,"exchange":1,"conditions":[],"seq":1,"aggressor":0}'
    client = await nats.connect(server.url)
    await client.jetstream().publish("market.stocks.trades", event.encode())
    await client.close()


def test_a_feed_with_a_journal_is_told_where_to_go_on_once_all_before_is_stored(
    nats_server: NatsServer,
) -> None:
    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table, recorded=True)
        await one.open()
        one.feed.reader.rows = 3
        one.watch.on_block(block([(1, 2, 0)]))
        table.note_death(0, "killed")
        assert one.watch.on_begin(0, FeedBegin(1))
        await one.watch.tell_ends({0: 2}, "MARKET_DATA")
        assert noted_ends(table, 0, 1) is None
        await publish_trade(nats_server, 7)
        await one.watch.tell_ends({0: 3}, "MARKET_DATA")
        ends = noted_ends(table, 0, 1) or {}
        assert ends[RType.STOCK_TRADE] == StoredEnd(7, 7, 1)
        assert not one.watch.is_asked
        # What is missing the feed itself tells.
        one.watch.on_block(block([(7, 8, 0)]))
        await one.settled()

    assert [one.what for one in told(nats_server, work)] == [What.RESTART]


def test_where_nobody_knows_where_it_is_to_go_on_the_gap_is_told(nats_server: NatsServer) -> None:
    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table, recorded=True)
        await one.open()
        client = await nats.connect(nats_server.url)
        await client.jetstream().publish("market.options.trades", b"{}")
        await client.jetstream().purge_stream("MARKET_DATA")
        await client.close()
        one.watch.on_block(block([(1, 2, 0)]))
        one.watch.on_begin(0, FeedBegin(1))
        await one.watch.tell_ends({}, "MARKET_DATA")
        assert noted_ends(table, 0, 1) == {}
        one.watch.on_block(block([(7, 8, 0)]))
        await one.settled()

    _, gap = told(nats_server, work)
    assert (gap.what, gap.from_event_ns, gap.to_recv_ns) == (What.GAP, 1, 8)


def test_a_publisher_that_follows_tells_a_feed_that_waits(nats_server: NatsServer) -> None:
    async def work(table: CounterTable) -> None:
        one = Watched(nats_server, table, recorded=True)
        await one.open()
        await publish_trade(nats_server, 5)
        one.feed.reader.rows = 3
        one.watch.on_begin(0, FeedBegin(1))
        one.die()
        await one.settled()
        # What the dead process had handed on died with its publisher: the journal has it.
        other = Watched(nats_server, table, recorded=True)
        await other.open()
        assert not other.watch.on_begin(0, FeedBegin(1, 0, 0))
        await other.watch.tell_ends({}, "MARKET_DATA")
        ends = noted_ends(table, 0, 1) or {}
        assert ends[RType.STOCK_TRADE] == StoredEnd(5, 5, 1)
        await other.settled()

    assert What.GAP not in [one.what for one in told(nats_server, work)]
