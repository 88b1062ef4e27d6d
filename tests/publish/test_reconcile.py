"""How much of what was sent does a real stream hold: whatever else is in it, whatever has left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ingestor.model.blocks import Runs
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings, StreamState, set_up
from ingestor.publish.ledger import ReconcileRequest, StoredPrefix
from ingestor.publish.reconcile import StreamLostError, find_stored, mapped_subject
from tests.publish.plain import TRADES, PlainEncoder, connect, trades

if TYPE_CHECKING:
    from nats.aio.client import Client

    from tests.nats_servers import NatsServer

FOREIGN = ("market.stocks.trades", b"-1")
SENT = 200


def ours(first: int, count: int) -> list[tuple[str, bytes]]:
    return [(TRADES, b"%d" % size) for size in range(first, first + count)]


def equal(count: int) -> Runs:
    """Trades that are all alike."""
    runs = trades(0, count)
    runs.blocks[0].records["size"] = 7
    return runs


@dataclass
class Case:
    """A stream with this content, of which `acked` of ours behind `anchor` are acknowledged."""

    content: list[tuple[str, bytes]]
    anchor: int = 0
    acked: int = 0
    alone: bool = True
    config: dict[str, Any] = field(default_factory=dict)
    delete: tuple[int, ...] = ()
    purge_below: int | None = None
    sent: Runs | None = None
    newest: Runs | None = None

    async def fill(self, client: Client) -> None:
        for subject, payload in self.content:
            await client.jetstream().publish(subject, payload)
        for seq in self.delete:
            await client.jetstream().delete_msg("MARKET_DATA", seq)
        if self.purge_below is not None:
            await client.jetstream().purge_stream("MARKET_DATA", seq=self.purge_below)

    def request(self, state: StreamState) -> ReconcileRequest:
        sent = self.sent or trades(self.acked, SENT - self.acked)
        newest = self.newest or (trades(self.acked - 1, 1) if self.acked else None)
        half = len(sent) // 2
        parts = [sent.part(0, half), sent.part(half, len(sent))]
        return ReconcileRequest(
            *(state.name, state.identity, self.anchor, self.acked, newest, parts, self.alone)
        )


def found(server: NatsServer, case: Case, *, identity: str | None = None) -> StoredPrefix:
    async def run() -> StoredPrefix:
        link = Connection(ConnectOptions(url=server.url), on_change=lambda: None)
        await link.open()
        client = await connect(server)
        try:
            api = JetStreamApi(link)
            if case.config:
                config = {"name": "MARKET_DATA", "subjects": ["market.>"]} | case.config
                await api.call("test", "STREAM.CREATE.MARKET_DATA", config)
            state = await set_up(api, StreamSettings())
            await case.fill(client)
            if identity is not None:
                state = StreamState(state.name, 0, fast_ingest=True, identity=identity)
            return await find_stored(api, case.request(state), PlainEncoder())
        finally:
            await client.close()
            await link.close()

    return asyncio.run(run())


def test_nothing_behind_the_floor_is_nothing(any_nats_server: NatsServer) -> None:
    case = Case([FOREIGN] * 3, anchor=3)
    assert found(any_nats_server, case) == StoredPrefix(0, None, 3, 3)


@pytest.mark.parametrize("count", [1, 99, 100, 101, SENT])
def test_a_stored_part_is_counted(any_nats_server: NatsServer, count: int) -> None:
    case = Case([FOREIGN, *ours(0, count)], anchor=1)
    assert found(any_nats_server, case) == StoredPrefix(count, 2, count + 1, count + 1)


def test_what_was_removed_is_counted_where_nobody_else_writes(any_nats_server: NatsServer) -> None:
    case = Case(ours(0, 90), purge_below=41)
    assert found(any_nats_server, case).count == 90


def test_that_everything_was_removed_changes_nothing(any_nats_server: NatsServer) -> None:
    assert found(any_nats_server, Case(ours(0, 90), purge_below=91)).count == 90


@pytest.mark.parametrize("more", [1, 2])
def test_no_more_is_counted_than_was_sent_though_the_stream_went_on(
    any_nats_server: NatsServer, more: int
) -> None:
    case = Case(ours(0, SENT + more), purge_below=SENT + more + 1)
    assert found(any_nats_server, case) == StoredPrefix(SENT, 1, SENT)


def test_what_was_removed_out_of_order_is_counted(any_nats_server: NatsServer) -> None:
    gone = (2, 5, 6, 40, 88, 89, 90)
    assert found(any_nats_server, Case(ours(0, 90), delete=gone)).count == 90


@pytest.mark.parametrize("per_subject", [1, 3])
def test_limits_per_subject_change_nothing(any_nats_server: NatsServer, per_subject: int) -> None:
    case = Case(ours(0, 50), config={"max_msgs_per_subject": per_subject})
    assert found(any_nats_server, case).count == 50


def test_a_work_queue_that_is_consumed_out_of_order_changes_nothing(
    any_nats_server: NatsServer,
) -> None:
    case = Case(ours(0, 50), config={"retention": "workqueue"}, delete=(1, 7, 49, 50))
    assert found(any_nats_server, case).count == 50


@pytest.mark.parametrize("content", [ours(0, 30), [FOREIGN, *ours(0, 30), FOREIGN]])
def test_a_transformed_subject_changes_nothing(
    any_nats_server: NatsServer, content: list[tuple[str, bytes]]
) -> None:
    transform = {"src": "market.*.>", "dest": "kept.{{wildcard(1)}}.>"}
    case = Case(content, config={"subject_transform": transform})
    assert found(any_nats_server, case).count == 30


def test_a_transform_that_the_server_alone_can_compute_changes_nothing(
    any_nats_server: NatsServer,
) -> None:
    transform = {"src": "market.*.*", "dest": "kept.{{partition(5,1,2)}}.{{wildcard(2)}}"}
    case = Case(ours(0, 30), config={"subject_transform": transform})
    assert found(any_nats_server, case).count == 30


def test_ours_are_found_amid_others(any_nats_server: NatsServer) -> None:
    case = Case([*ours(0, 2), FOREIGN, *ours(2, 3), FOREIGN, FOREIGN])
    prefix = found(any_nats_server, case)
    assert (prefix.count, prefix.first_seq, prefix.last_seq, prefix.end) == (5, 1, 6, None)
    assert prefix.guard(TRADES) == ("Nats-Expected-Last-Subject-Sequence", "6")
    assert prefix.guard("market.never.published") is None


def test_none_of_ours_amid_others_is_none(any_nats_server: NatsServer) -> None:
    prefix = found(any_nats_server, Case([FOREIGN] * 5))
    assert (prefix.count, prefix.guard(TRADES)) == (
        0,
        ("Nats-Expected-Last-Subject-Sequence", "0"),
    )


def test_acknowledged_ones_behind_the_floor_amid_others_are_not_counted_twice(
    any_nats_server: NatsServer,
) -> None:
    content = [FOREIGN] * 9 + [*ours(0, 10), FOREIGN, *ours(10, 5), FOREIGN]
    assert found(any_nats_server, Case(content, acked=10, alone=False)).count == 5
    assert found(any_nats_server, Case([], acked=15, alone=False)).count == 0


@pytest.mark.parametrize("stored", [1, 2, 99, 100])
@pytest.mark.parametrize("others", [0, 3])
def test_equal_messages_are_told_apart_by_number(
    nats_server: NatsServer, stored: int, others: int
) -> None:
    content = [(TRADES, b"7")] * stored
    content[1:1] = [FOREIGN] * others
    case = Case(content, sent=equal(100))
    assert found(nats_server, case).count == stored


def test_an_acknowledged_message_equal_to_the_next_ones_is_not_counted_again(
    any_nats_server: NatsServer,
) -> None:
    content = [(TRADES, b"7"), FOREIGN, (TRADES, b"7"), (TRADES, b"7"), FOREIGN]
    case = Case(content, acked=1, sent=equal(20), newest=equal(1), alone=False)
    assert found(any_nats_server, case).count == 2


def test_others_on_the_same_subject_are_passed_over(any_nats_server: NatsServer) -> None:
    other = (TRADES, b"-1")
    case = Case([other, *ours(0, 3), other, other, *ours(3, 4), other])
    prefix = found(any_nats_server, case)
    assert prefix.count == 7


def test_others_on_the_same_subject_of_a_work_queue_are_passed_over(
    any_nats_server: NatsServer,
) -> None:
    other = (TRADES, b"-1")
    content = [other, *ours(0, 3), other, other, *ours(3, 4), other]
    case = Case(content, config={"retention": "workqueue"}, delete=(1, 5))
    assert found(any_nats_server, case).count == 7


def test_a_removed_part_amid_others_is_counted_by_what_is_left(
    any_nats_server: NatsServer,
) -> None:
    case = Case([*ours(0, 50), FOREIGN, *ours(50, 5), FOREIGN], purge_below=41)
    assert found(any_nats_server, case).count == 55


def test_where_nothing_of_ours_is_left_amid_others_it_is_said_that_nobody_knows(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case([*ours(0, 50), *[FOREIGN] * 300], purge_below=60)
    assert found(any_nats_server, case).count == 0
    assert "up to 200 events may be published twice" in caplog.text


def test_a_stream_that_ends_before_the_floor_has_lost_messages(
    any_nats_server: NatsServer,
) -> None:
    with pytest.raises(StreamLostError, match="were lost with its server") as lost:
        found(any_nats_server, Case(ours(0, 5), acked=6))
    assert lost.value.last_seq == 5


def test_a_stream_of_another_time_is_another_stream(any_nats_server: NatsServer) -> None:
    with pytest.raises(StreamLostError, match="made anew") as lost:
        found(any_nats_server, Case(ours(0, 50), acked=6), identity="2020-01-01T00:00:00Z")
    assert lost.value.last_seq is None


@pytest.mark.parametrize(
    ("source", "destination", "mapped"),
    [
        ("market.>", "kept.>", "kept.stocks.trades"),
        (">", "kept.>", "kept.market.stocks.trades"),
        ("market.*.*", "$2.{{wildcard(1)}}.x", "trades.stocks.x"),
        ("market.*.*", "{{ Wildcard( 2 ) }}", "trades"),
        ("other.>", "kept.>", "market.stocks.trades"),
        ("market.*", "kept.$1", "market.stocks.trades"),
        ("market.*.*", "kept.{{partition(3,1)}}", None),
        ("market.*.*", "kept.$3", None),
    ],
)
def test_a_transform_is_followed_as_the_server_follows_it(
    source: str, destination: str, mapped: str | None
) -> None:
    assert mapped_subject("market.stocks.trades", (source, destination)) == mapped
