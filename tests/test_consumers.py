"""What services downstream use today reads everything: a plain durable push consumer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import nats
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from tests.dbn_files import dbn_path, depth, trades, write_dbn
from tests.nats_servers import NatsServer
from tests.replay_cli import replay

EVENTS = 1_200


async def consume(url: str, deliver_subject: str) -> list[dict[str, object]]:
    """Bind to the durable consumer that the run has made; acknowledge every message."""
    client = await nats.connect(url)
    context = client.jetstream()
    found: list[dict[str, object]] = []
    complete = asyncio.Event()

    async def take(message: Msg) -> None:
        found.append(json.loads(message.data))
        await message.ack()
        if len(found) == EVENTS:
            complete.set()

    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, deliver_subject=deliver_subject)
    await context.subscribe_bind("MARKET_DATA", config, "core", cb=take, manual_ack=True)
    await asyncio.wait_for(complete.wait(), 30)
    await client.flush()
    info = await context.consumer_info("MARKET_DATA", "core")
    assert info.num_pending == 0
    await client.close()
    return found


def test_a_durable_push_consumer_with_explicit_acks_reads_every_message(
    any_nats_server: NatsServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    write_dbn(dbn_path(data, "trades"), trades(300, step_ns=10**8), schema="trades")
    write_dbn(dbn_path(data, "mbp-10"), depth(900, step_ns=10**8 // 3), schema="mbp-10")
    config = tmp_path / "replay.toml"
    config.write_text('[[nats.consumers]]\nname = "core"\ndeliver_subject = "deliver.core"\n')
    where = ("--data-dir", str(data), "--nats", any_nats_server.url, "--config", str(config))
    finished = replay(*where, cwd=tmp_path)
    assert finished.exit_code == 0, finished.err
    found = asyncio.run(consume(any_nats_server.url, "deliver.core"))
    times = [(one["ts_event_ns"], one["ts_recv_ns"], one["seq"]) for one in found]
    assert times == sorted(times)
    assert sum("levels" in one for one in found) == 900
