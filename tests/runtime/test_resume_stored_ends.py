"""Where what a stream holds of live feeds ends, in either encoding."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ingestor.encode import make_encoder
from ingestor.feeds.polygon.spool import StoredEnd
from ingestor.model.blocks import Block, Reply, Source, whole_block
from ingestor.model.errors import NatsUnreachableError
from ingestor.model.records import STOCK_TRADE, Records, RType
from ingestor.model.units import NS_PER_S, now_ns
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions
from ingestor.publish.reconcile import messages_of
from ingestor.runtime import resume as module
from ingestor.runtime import run_keeper
from ingestor.runtime.counters import CounterTable
from ingestor.runtime.resume import Ends, newest_times, note_ends, noted_ends, stored_ends
from ingestor.runtime.run_keeper import connection_to
from ingestor.runtime.run_records import subjects_of
from tests.ports import free_port
from tests.publish.plain import connect

if TYPE_CHECKING:
    from tests.nats_servers import NatsServer

T, Q = RType.STOCK_TRADE, RType.STOCK_QUOTE


def rows(rtype: RType, recv_ns: Sequence[int]) -> Records:
    """One row a time of receipt; its event time is a thousand before."""
    records = np.zeros(len(recv_ns), STOCK_TRADE)
    records["rtype"] = rtype
    records["length"] = STOCK_TRADE.itemsize // 4
    records["ts_recv_ns"] = recv_ns
    records["ts_event_ns"] = records["ts_recv_ns"] - 1_000
    return records


def publish(
    server: NatsServer, *parts: tuple[RType, Sequence[int], Source], encoding: str = "json"
) -> None:
    encoder = make_encoder("packed" if encoding == "packed" else "json")

    async def work() -> None:
        client = await connect(server)
        stream = client.jetstream()
        await stream.add_stream(name="MARKET_DATA", subjects=["market.>"])
        for rtype, recv_ns, source in parts:
            block = Block(0, rows(rtype, recv_ns), {0: "SPY"}, source)
            frames = encoder.encode(whole_block(block), Reply(b"", b""), 1, 100_000)
            for subject, payload in messages_of(frames.data):
                await stream.publish(subject, payload)
        await client.close()

    asyncio.run(work())


def stocks(server: NatsServer) -> Ends | None:
    options = ConnectOptions((server.url,))
    return stored_ends(options, "MARKET_DATA", ["stocks"], Source.SIM).get("stocks")


@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_each_type_has_its_last_event_and_how_many_were_received_with_it(
    nats_server: NatsServer, encoding: str
) -> None:
    trades = [5_000, 6_000, 7_000, 7_000, 7_000]
    publish(
        nats_server, (T, trades, Source.SIM), (Q, [4_000, 8_000], Source.SIM), encoding=encoding
    )
    assert stocks(nats_server) == {T: StoredEnd(6_000, 7_000, 3), Q: StoredEnd(7_000, 8_000, 1)}


@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_the_newest_event_of_a_feed_is_the_last_of_its_newest_message(
    nats_server: NatsServer, encoding: str
) -> None:
    publish(nats_server, (T, [5_000, 7_000], Source.SIM), encoding=encoding)
    options, subjects = ConnectOptions((nats_server.url,)), subjects_of(("stocks",))

    async def newest(source: Source) -> tuple[int, int] | None:
        async with connection_to(options, "test") as connection:
            return await newest_times(JetStreamApi(connection), "MARKET_DATA", subjects, source)

    assert asyncio.run(newest(Source.SIM)) == (6_000, 7_000)
    # What another source has published is no earlier part of the feed.
    assert asyncio.run(newest(Source.REPLAY)) is None


def test_more_events_of_one_read_than_are_looked_at_first_are_all_counted(
    nats_server: NatsServer,
) -> None:
    publish(nats_server, (T, [5_000] + [7_000] * 2 * module.TAIL_SEQS, Source.SIM))
    found = stocks(nats_server)
    assert found is not None
    assert found[T] == StoredEnd(6_000, 7_000, 2 * module.TAIL_SEQS)


def test_a_stream_that_begins_within_a_read_counts_what_there_is(nats_server: NatsServer) -> None:
    publish(nats_server, (T, [7_000] * 3, Source.SIM))
    found = stocks(nats_server)
    assert found is not None
    assert found[T] == StoredEnd(6_000, 7_000, 3)


def test_a_type_of_which_nothing_is_stored_goes_on_where_the_others_end(
    nats_server: NatsServer,
) -> None:
    publish(nats_server, (T, [5_000, 7_000], Source.SIM))
    assert stocks(nats_server) == {T: StoredEnd(6_000, 7_000, 1), Q: StoredEnd(6_000, 7_000, 0)}


def test_a_replay_behind_the_feed_is_passed_over(nats_server: NatsServer) -> None:
    replayed = range(10_000, 10_000 + 3 * module.TAIL_SEQS)
    publish(nats_server, (T, [5_000, 7_000], Source.SIM), (T, replayed, Source.REPLAY))
    found = stocks(nats_server)
    assert found is not None
    assert found[T] == StoredEnd(6_000, 7_000, 1)


def test_where_nothing_of_a_feed_is_stored_it_has_no_ends(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert stocks(nats_server) is None
    publish(nats_server, (T, [5_000], Source.REPLAY))
    assert stocks(nats_server) is None
    assert "holds nothing of stocks" in caplog.text


def make_stream(server: NatsServer, *seqs: str, removed: bool = False) -> None:
    async def work() -> None:
        client = await connect(server)
        stream = client.jetstream()
        await stream.add_stream(name="MARKET_DATA", subjects=["market.>"])
        for subject in seqs:
            await stream.publish(subject, b"{}")
        if removed:
            await stream.purge_stream("MARKET_DATA")
        await client.close()

    asyncio.run(work())


@pytest.mark.parametrize("others", [(), ("market.options.trades",)])
def test_a_stream_that_never_held_anything_of_a_feed_is_to_get_all_since_it_was_made(
    nats_server: NatsServer, others: tuple[str, ...]
) -> None:
    make_stream(nats_server, *others)
    found = stocks(nats_server)
    assert found is not None
    assert found[T] == found[Q]
    assert (found[T].event_ns, found[T].rows) == (0, 0)
    assert 0 <= now_ns() - module.SLACK_NS - found[T].recv_ns < 10 * NS_PER_S


def test_a_stream_that_lacks_what_it_once_held_may_have_held_the_journal(
    nats_server: NatsServer,
) -> None:
    make_stream(nats_server, "market.options.trades", removed=True)
    assert stocks(nats_server) is None


def test_a_server_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_keeper, "OPEN_TIMEOUT_S", 0.5)
    options = ConnectOptions((f"nats://127.0.0.1:{free_port()}",))
    with pytest.raises(NatsUnreachableError):
        stored_ends(options, "MARKET_DATA", ["stocks"], Source.SIM)


def test_a_process_of_a_feed_is_told_once_it_is_known_where_it_goes_on() -> None:
    table = CounterTable(2)
    ends = {T: StoredEnd(6_000, 7_000, 1), Q: StoredEnd(7_000, 8_000, 2)}
    assert noted_ends(table, 1, 1) is None
    note_ends(table, 1, 1, ends)
    assert noted_ends(table, 1, 1) == ends
    assert noted_ends(table, 1, 2) is None
    assert noted_ends(table, 0, 1) is None
    note_ends(table, 1, 2, {})
    assert noted_ends(table, 1, 2) == {}
