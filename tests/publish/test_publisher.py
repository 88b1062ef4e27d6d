"""The publisher against real servers: order, acknowledgement, reports, refusals."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import uvloop

from ingestor.encode import make_encoder
from ingestor.encode.packed import decode_packed
from ingestor.model.blocks import Block, Runs, Source
from ingestor.model.errors import (
    BadDataError,
    ConfigurationError,
    NatsRefusedError,
    NatsUnreachableError,
    StreamError,
)
from ingestor.model.records import MBP10, RType
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings
from ingestor.publish.ack_timer import ACK_DELAY_S
from ingestor.publish.batches import FLOW_MESSAGES
from ingestor.publish.publisher import Publisher, PublishReport
from tests.publish.plain import (
    TRADES,
    PlainEncoder,
    connect,
    messages,
    publisher,
    raw_info,
    stored,
    trades,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.msg import Msg

    from ingestor.model.blocks import Frames, Reply
    from tests.conftest import StartNatsServer
    from tests.nats_servers import NatsServer


async def request(server: NatsServer, subject: str, **body: Any) -> dict[str, Any]:
    """An operator's own request to the server."""
    client = await connect(server)
    answer = await client.request(f"$JS.API.{subject}", json.dumps(body).encode(), 5)
    await client.close()
    values: dict[str, Any] = json.loads(answer.data)
    assert "error" not in values, values
    return values


async def change(server: NatsServer, **settings: Any) -> None:
    """Have the operator change the stream."""
    config = (await raw_info(server))["config"]
    await request(server, "STREAM.UPDATE.MARKET_DATA", **(config | settings))


async def opened(server: NatsServer, **options: Any) -> Publisher:
    publishing = publisher(server, **options)
    await publishing.open()
    return publishing


AT_ONCE = 4_000


def mixed(count: int) -> Runs:
    """Trades and depth by turns, sizes counting up."""
    blocks = list(trades(0, count).blocks)
    depth = np.zeros(count, MBP10)
    depth["rtype"] = RType.MBP10
    depth["size"] = np.arange(count, 2 * count)
    blocks.append(Block(1, depth, {0: "ES.c.0"}, Source.REPLAY))
    rows = np.repeat(np.arange(count), 2)
    turn = np.tile(np.array([0, 1]), count)
    return Runs(blocks, turn, rows, rows + 1, np.arange(2 * count))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_rows_arrive_in_order_and_are_reported(any_nats_server: NatsServer, run: Any) -> None:
    async def check() -> PublishReport:
        publishing = await opened(any_nats_server)
        for first in range(0, 9_000, 3_000):
            await publishing.send(trades(first, 3_000))
        await publishing.flush()
        assert (publishing.acked_rows, publishing.unacked_rows) == (9_000, 0)
        return await publishing.close()

    report = run(check())
    assert asyncio.run(stored(any_nats_server)) == list(range(9_000))
    assert report.rows_by_subject == {TRADES: 9_000}
    assert (report.stream, report.messages) == ("MARKET_DATA", 9_000)
    assert (report.first_seq, report.last_seq, report.reconnects) == (1, 9_000, 0)


def test_the_mode_is_what_the_server_can_do(
    nats_server: NatsServer, old_nats_server: NatsServer
) -> None:
    async def check(server: NatsServer) -> str | None:
        publishing = await opened(server)
        await publishing.send(trades(0, 1))
        await publishing.flush()
        return (await publishing.close()).mode

    assert asyncio.run(check(nats_server)) == "fast_ingest"
    assert asyncio.run(check(old_nats_server)) == "ack_window"


def test_what_is_stored_is_told_by_feed_and_with_its_times_while_it_is_sent(
    any_nats_server: NatsServer,
) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server)
        assert publishing.report() == PublishReport("MARKET_DATA")
        await publishing.send(trades(100, 300))
        await publishing.flush()
        report = publishing.report()
        assert report.rows_by_feed == {0: 300}
        assert (report.first_ts_event_ns, report.last_ts_event_ns) == (100, 399)
        await publishing.send(mixed(200))
        await publishing.flush()
        assert publishing.report().rows_by_feed == {0: 500, 1: 200}
        assert await publishing.close() == publishing.report()

    asyncio.run(check())


def test_several_rows_in_a_message_count_as_rows_and_as_one_message(
    any_nats_server: NatsServer,
) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server, encoder=PlainEncoder(rows_per_message=100))
        await publishing.send(trades(0, 1_050))
        await publishing.flush()
        report = await publishing.close()
        assert report.rows_by_subject == {TRADES: 1_050}
        assert report.messages == len(await messages(any_nats_server))
        assert await stored(any_nats_server) == list(range(1_050))

    asyncio.run(check())


def test_rows_are_reported_by_subject(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server)
        await publishing.send(mixed(700))
        await publishing.flush()
        report = await publishing.close()
        assert report.rows_by_subject == {TRADES: 700, "market.futures.mbp10": 700}

    asyncio.run(check())


@pytest.mark.parametrize("rows", [1, 64, 65, 500, 501])
def test_a_quiet_feed_knows_soon_that_all_is_stored(any_nats_server: NatsServer, rows: int) -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        publishing = await opened(any_nats_server)
        await publishing.send(trades(0, 1))
        await publishing.flush()
        slowest_s = 0.0
        for round_ in range(3):
            began = loop.time()
            await publishing.send(trades(1 + round_ * rows, rows))
            await until(lambda round_=round_: publishing.acked_rows == 1 + (round_ + 1) * rows)
            slowest_s = max(slowest_s, loop.time() - began)
        assert slowest_s < ACK_DELAY_S * 20
        await publishing.close()

    uvloop.run(check())


def test_a_feed_without_pause_has_each_row_acknowledged_soon(nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(nats_server)
        for number in range(200):
            await publishing.send(trades(number, 1))
            assert publishing.unacked_rows < 100
            await asyncio.sleep(0.001)
        await publishing.close()
        assert await stored(nats_server) == list(range(200))

    uvloop.run(check())


def test_a_server_that_pauses_at_full_speed_is_not_asked_and_goes_on_with_the_batch(
    nats_server: NatsServer,
) -> None:
    async def check() -> None:
        client = await connect(nats_server)
        batches: set[str] = set()

        async def see(message: Msg) -> None:
            batches.add(message.reply.rsplit(".", 5)[0])

        await client.subscribe(TRADES, cb=see)
        publishing = await opened(nats_server)
        await publishing.send(trades(0, 3 * FLOW_MESSAGES))
        await until(lambda: publishing.acked_rows > FLOW_MESSAGES)
        nats_server.pause()
        sending = asyncio.create_task(publishing.send(trades(3 * FLOW_MESSAGES, 20_000)))
        await until(lambda: publishing.unacked_rows > 4 * FLOW_MESSAGES)
        await asyncio.sleep(5 * ACK_DELAY_S)
        nats_server.resume()
        await sending
        await publishing.flush()
        await publishing.close()
        await client.drain()
        assert len(batches) == 2  # the first message proves fast ingest, alone

    asyncio.run(check())


def test_acknowledgements_are_counted_as_they_come(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        counted: list[int] = []
        publishing = await opened(any_nats_server)
        publishing.tell_stored(counted.append)
        await publishing.send(trades(0, 5_000))
        await publishing.flush()
        assert sum(counted) == publishing.acked_rows == 5_000
        assert len(counted) > 2
        assert publishing.last_ack_ns is not None
        await publishing.close()

    asyncio.run(check())


def test_an_error_in_the_callback_ends_the_run_and_hangs_nobody(nats_server: NatsServer) -> None:
    async def check() -> None:
        def broken(rows: int) -> None:
            raise ValueError("no use for it")

        publishing = await opened(nats_server)
        publishing.tell_stored(broken)
        with pytest.raises(Exception, match="no use for it"):
            await publishing.send(trades(0, 5_000))
        await publishing.close()

    asyncio.run(check())


def test_a_second_publisher_begins_where_the_stream_ends(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        for first in (0, 100):
            publishing = await opened(any_nats_server)
            await publishing.send(trades(first, 100))
            await publishing.flush()
            report = await publishing.close()
            assert (report.first_seq, report.last_seq) == (first + 1, first + 100)

    asyncio.run(check())


def test_sequences_are_ours_though_others_publish_between(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        client = await connect(any_nats_server)
        context = client.jetstream()
        publishing = await opened(any_nats_server)
        for first in range(0, 300, 100):
            await context.publish(TRADES, b"-1")
            await publishing.send(trades(first, 100))
            await publishing.flush()
        await context.publish(TRADES, b"-1")
        report = await publishing.close()
        await client.close()
        ours = [seq for seq, _, payload in await messages(any_nats_server) if payload != b"-1"]
        assert (report.first_seq, report.last_seq) == (ours[0], ours[-1]) == (2, 303)

    asyncio.run(check())


def test_two_publishers_at_once_each_keep_their_order(any_nats_server: NatsServer) -> None:
    async def one(first: int) -> PublishReport:
        publishing = await opened(any_nats_server)
        for start in range(first, first + AT_ONCE, 500):
            await publishing.send(trades(start, 500))
        await publishing.flush()
        return await publishing.close()

    async def check() -> None:
        reports = await asyncio.gather(one(0), one(1_000_000))
        assert [report.messages for report in reports] == [AT_ONCE, AT_ONCE]
        everything = await stored(any_nats_server)
        for first in (0, 1_000_000):
            mine = [size for size in everything if first <= size < first + AT_ONCE]
            assert mine == list(range(first, first + AT_ONCE))

    uvloop.run(check())


def test_nothing_published_is_a_report_of_nothing(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server)
        await publishing.send(trades(0, 0))
        await publishing.flush()
        assert await publishing.close() == PublishReport("MARKET_DATA")

    asyncio.run(check())


def test_closing_waits_for_what_is_under_way(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server)
        await publishing.send(trades(0, 700))
        report = await publishing.close()
        assert report.rows_by_subject == {TRADES: 700}

    asyncio.run(check())


def test_a_cancelled_send_leaves_a_true_report(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server)
        sending = asyncio.create_task(publishing.send(trades(0, 500_000)))
        await until(lambda: publishing.acked_rows > 2_000)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        report = await publishing.close()
        rows = report.rows_by_subject[TRADES]
        assert 2_000 < rows < 500_000
        assert await stored(any_nats_server) == list(range(rows))

    uvloop.run(check())


def test_no_server_is_told_and_closing_reports_nothing() -> None:
    async def check() -> None:
        connect_options = ConnectOptions(url="nats://127.0.0.1:1")
        publishing = Publisher(
            PlainEncoder(),
            connect_options=connect_options,
            stream=StreamSettings(),
            open_timeout_s=0.5,
        )
        with pytest.raises(NatsUnreachableError, match=r"127\.0\.0\.1:1"):
            await publishing.open()
        assert await publishing.close() == PublishReport("MARKET_DATA")

    asyncio.run(check())


def test_a_wrong_url_is_told_before_anything_is_tried() -> None:
    with pytest.raises(ConfigurationError):
        Publisher(
            PlainEncoder(), connect_options=ConnectOptions(url="http://x"), stream=StreamSettings()
        )


def test_a_publisher_that_is_not_open_sends_nothing() -> None:
    async def check() -> None:
        publishing = Publisher(
            PlainEncoder(), connect_options=ConnectOptions(), stream=StreamSettings()
        )
        assert (publishing.acked_rows, publishing.reconnects) == (0, 0)
        with pytest.raises(RuntimeError, match="not open"):
            await publishing.send(trades(0, 1))

    asyncio.run(check())


@pytest.mark.parametrize(
    "settings",
    [
        StreamSettings(discard="new", max_msgs=2_500),
        StreamSettings(discard="new", max_bytes=100_000),
    ],
)
def test_a_full_stream_is_told_and_what_it_holds_is_counted(
    any_nats_server: NatsServer, settings: StreamSettings
) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server, stream=settings, give_up_after_s=0.5)
        with pytest.raises(StreamError, match=r"maximum (messages|bytes) exceeded"):
            await publishing.send(trades(0, 100_000))
        with pytest.raises(StreamError, match="exceeded"):
            await publishing.flush()
        report = await publishing.close()
        in_stream = await stored(any_nats_server)
        assert in_stream == list(range(len(in_stream)))
        assert report.rows_by_subject == {TRADES: len(in_stream)}
        assert report.last_seq == len(in_stream)

    asyncio.run(check())


def test_a_stream_that_discards_the_oldest_takes_everything(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server, stream=StreamSettings(max_msgs=100))
        await publishing.send(trades(0, 10_000))
        await publishing.flush()
        report = await publishing.close()
        assert (report.messages, report.first_seq, report.last_seq) == (10_000, 1, 10_000)
        assert await stored(any_nats_server) == list(range(9_900, 10_000))

    asyncio.run(check())


def test_a_message_larger_than_the_stream_takes_is_told(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server, encoder=PlainEncoder(pad=2_000))
        await change(any_nats_server, max_msg_size=1_000)
        with pytest.raises(StreamError, match="message size exceeds maximum"):
            await publishing.send(trades(0, 5_000))
        report = await publishing.close()
        assert report.messages == 0

    asyncio.run(check())


def test_a_server_that_takes_less_from_now_on_is_sent_shorter_messages(
    start_nats_server: StartNatsServer,
) -> None:
    server = start_nats_server(extra_config="max_payload: 100000")

    async def check() -> None:
        publishing = await opened(server, encoder=make_encoder("packed"))
        await publishing.send(trades(0, 5_000))
        await publishing.flush()
        server.reload("max_payload: 20000")
        await publishing.send(trades(5_000, 5_000))
        await publishing.flush()
        report = await publishing.close()
        assert report.rows_by_subject == {TRADES: 10_000}
        payloads = [payload for _, _, payload in await messages(server)]
        rows = [decode_packed(payload).records["size"] for payload in payloads]
        assert np.concatenate(rows).tolist() == list(range(10_000))
        assert len(payloads[0]) > 90_000
        assert all(len(payload) <= 20_000 for payload in payloads[3:])

    asyncio.run(check())


def test_a_stream_that_takes_less_than_its_server_is_sent_shorter_messages(
    nats_server: NatsServer,
) -> None:
    async def check() -> None:
        await request(
            nats_server,
            "STREAM.CREATE.MARKET_DATA",
            name="MARKET_DATA",
            subjects=["market.>"],
            max_msg_size=10_000,
        )
        publishing = await opened(nats_server, encoder=make_encoder("packed"))
        await publishing.send(trades(0, 1_000))
        await publishing.flush()
        assert (await publishing.close()).rows_by_subject == {TRADES: 1_000}
        assert all(len(payload) <= 10_000 for _, _, payload in await messages(nats_server))

    asyncio.run(check())


def test_a_full_stream_in_which_room_is_made_takes_the_rest(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        settings = StreamSettings(discard="new", max_msgs=500)
        publishing = await opened(any_nats_server, stream=settings)
        sending = asyncio.create_task(publishing.send(trades(0, 800)))
        await until(lambda: "takes nothing" in caplog.text)
        assert publishing.acked_rows == 500
        await change(any_nats_server, max_msgs=1_000)
        await sending
        await publishing.flush()
        await publishing.close()
        assert await stored(any_nats_server) == list(range(800))

    asyncio.run(check())
    assert "maximum messages exceeded" in caplog.text
    assert caplog.text.count("takes nothing") == 1


def test_a_stream_deleted_under_us_is_made_again_and_the_loss_is_said(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> PublishReport:
        publishing = await opened(any_nats_server)
        await publishing.send(trades(0, 10))
        await publishing.flush()
        await request(any_nats_server, "STREAM.DELETE.MARKET_DATA")
        await publishing.send(trades(10, 10_000))
        await publishing.flush()
        return await publishing.close()

    report = asyncio.run(check())
    in_stream = asyncio.run(stored(any_nats_server))
    assert in_stream == list(range(10, 10_010))
    assert (report.messages, report.lost_messages) == (10_010, 10)
    assert "10 acknowledged messages of ours, up to sequence 10, are lost" in caplog.text


def test_a_stream_made_anew_under_us_is_gone_on_in_and_the_loss_is_said(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> PublishReport:
        publishing = await opened(any_nats_server)
        await publishing.send(trades(0, 1_000))
        await publishing.flush()
        config = (await raw_info(any_nats_server))["config"]
        await request(any_nats_server, "STREAM.DELETE.MARKET_DATA")
        await request(any_nats_server, "STREAM.CREATE.MARKET_DATA", **config)
        await publishing.send(trades(1_000, 3_000))
        await publishing.flush()
        return await publishing.close()

    report = asyncio.run(check())
    assert asyncio.run(stored(any_nats_server)) == list(range(1_000, 4_000))
    assert (report.messages, report.lost_messages, report.last_seq) == (4_000, 1_000, 3_000)
    assert "1000 acknowledged messages of ours, up to sequence 1000, are lost" in caplog.text


def test_a_missing_permission_is_told(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(
        extra_config='authorization { users: [ { user: "jo", password: "pw", permissions: '
        '{ publish: ["$JS.API.>"] } } ] }'
    )

    async def check() -> None:
        connect_options = ConnectOptions(url=server.url, user="jo", password="pw")
        publishing = Publisher(
            PlainEncoder(), connect_options=connect_options, stream=StreamSettings()
        )
        await publishing.open()
        with pytest.raises(NatsRefusedError, match=r"Permissions Violation.*market"):
            await publishing.send(trades(0, 5_000))
        await publishing.close()

    asyncio.run(check())


def test_fast_ingest_switched_off_under_us_changes_the_mode_and_nothing_else(
    nats_server: NatsServer,
) -> None:
    async def check() -> None:
        publishing = await opened(nats_server)
        await publishing.send(trades(0, 3_000))
        await change(nats_server, allow_batched=False)
        await publishing.send(trades(3_000, 3_000))
        await publishing.flush()
        report = await publishing.close()
        assert report.mode == "ack_window"
        assert await stored(nats_server) == list(range(6_000))

    asyncio.run(check())


def test_a_batch_that_the_server_gave_up_while_we_were_suspended_is_followed_by_another(
    start_nats_server: StartNatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ingestor")
    patience = 'limits { batch { timeout: "100ms" } }'
    store = tmp_path / "nats-0" / "store"
    server = start_nats_server(extra_config=f'jetstream {{ store_dir: "{store}", {patience} }}')

    async def check() -> None:
        publishing = await opened(server)
        await publishing.send(trades(0, 10))
        await publishing.flush()
        await publishing.send(trades(10, 20))
        await asyncio.sleep(0)  # hand it to the socket, then run nothing, as when suspended
        time.sleep(0.5)
        await publishing.send(trades(30, 500))
        await publishing.flush()
        await publishing.close()
        assert await stored(server) == list(range(530))

    asyncio.run(check())
    assert any("sent again" in line for line in caplog.messages)


def test_what_the_encoder_refuses_is_raised_and_ends_the_run(nats_server: NatsServer) -> None:
    class Broken(PlainEncoder):
        def encode(
            self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int
        ) -> Frames:
            if runs.blocks[0].records["size"][0] >= 100:
                raise BadDataError("no such instrument")
            return super().encode(runs, reply, first_sequence, max_messages)

    async def check() -> None:
        publishing = await opened(nats_server, encoder=Broken())
        await publishing.send(trades(0, 100))
        with pytest.raises(BadDataError, match="no such instrument"):
            await publishing.send(trades(100, 100))
        report = await publishing.close()
        assert report.rows_by_subject.get(TRADES, 0) <= 100

    asyncio.run(check())
