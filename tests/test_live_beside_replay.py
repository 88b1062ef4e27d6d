"""A live run beside replays at full speed in one stream, and a server that is killed under both."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from ingestor.model.errors import ExitCode
from tests.conftest import StartNatsServer
from tests.dbn_files import dbn_path, trades, write_dbn
from tests.live_cli import feeds_of, simulator, start, subscriptions, until
from tests.replay_cli import Finished, finish
from tests.replay_cli import start as start_replay

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nats_servers import NatsServer

RATES: Final = ("--rate", "6000", "--options-rate", "1500")
EVENTS_PER_S: Final = 5_000
LIVE_S: Final = 40.0
AWAY_S: Final = 0.5
DARK_S: Final = 5.0
"""From a server that is back to the first live event that it stores, at most."""

REPLAY_ROWS: Final = 400_000
REPLAY_TIMEOUT_S: Final = 300.0
LIVE_SUBJECTS: Final = ["market.stocks.>", "market.options.>"]


class Replays:
    """One after the other, the whole time, in a thread."""

    def __init__(self, data: Path, url: str) -> None:
        self._command = ("--again", "--data-dir", str(data), "--nats", url, "--feeds", "trades")
        self._cwd = data
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.finished: list[Finished] = []

    def __enter__(self) -> Replays:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            process = start_replay(*self._command, "--summary", "json", cwd=self._cwd)
            out, err = process.communicate(timeout=REPLAY_TIMEOUT_S)
            self.finished.append(Finished(process.returncode, out, err))


def last_seq(server: NatsServer) -> int:
    """Where the stream ends; 0 while there is none."""
    try:
        return int(asyncio.run(_state(server.url)).last_seq)
    except (OSError, nats.errors.Error):
        return 0


async def _state(url: str, subjects: str | None = None) -> Any:
    client = await nats.connect(url, allow_reconnect=False)
    try:
        return (await client.jetstream().stream_info("MARKET_DATA", subjects)).state
    finally:
        await client.close()


async def _live_events(url: str) -> list[tuple[float, bytes]]:
    """When each live event was stored, by the server's clock, and its payload."""
    client = await nats.connect(url)
    try:
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, filter_subjects=LIVE_SUBJECTS, inactive_threshold=300.0
        )
        context = client.jetstream(timeout=30)
        reader = await context.pull_subscribe("", stream="MARKET_DATA", config=config)
        left = int((await reader.consumer_info()).num_pending or 0)
        found: list[tuple[float, bytes]] = []
        while len(found) < left:
            chunk = await reader.fetch(min(5_000, left - len(found)), timeout=30)
            found += [(one.metadata.timestamp.timestamp(), one.data) for one in chunk]
        return found
    finally:
        await client.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_live_run_beside_replays_is_dark_no_longer_than_the_server_it_loses(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    server = start_nats_server()
    write_dbn(dbn_path(tmp_path, "trades"), trades(REPLAY_ROWS, step_ns=10**6), schema="trades")
    with ExitStack() as stack:
        vendor = stack.enter_context(simulator(*RATES))
        live = start(
            "--nats", server.url, "--summary", "json", cwd=tmp_path, env=feeds_of(vendor)
        )  # fmt: skip
        stack.callback(live.kill)
        until(lambda: bool(subscriptions(vendor, "options")), "options subscribed")
        before = last_seq(server)
        replays = stack.enter_context(Replays(tmp_path, server.url))
        until(lambda: last_seq(server) > before + REPLAY_ROWS // 20, "a replay under way", 120.0)
        began_s = time.time()
        time.sleep(LIVE_S / 2)  # the run that is to be measured, with nothing to wait for
        server.kill()
        time.sleep(AWAY_S)
        server.start()
        back_s = time.time()
        time.sleep(max(0.0, began_s + LIVE_S - back_s))
        ended_s = time.time()
        live.send_signal(signal.SIGTERM)
        ended = finish(live)
    assert ended.exit_code == ExitCode.TERMINATED, ended.err
    events = asyncio.run(_live_events(server.url))
    dark_s = min(stored_s for stored_s, _ in events if stored_s > back_s) - back_s
    per_s = sum(began_s < stored_s < ended_s for stored_s, _ in events) / (ended_s - began_s)
    held = asyncio.run(_state(server.url, "market.futures.trades")).subjects
    replayed = sum(one.summary["published"] for one in replays.finished)
    print(
        json.dumps(
            {
                "dark_s": round(dark_s, 2),
                "live_events": len(events),
                "live_events_per_s": round(per_s),
                "replays": len(replays.finished),
                "replayed": replayed,
                "replayed_per_s": round(replayed / (ended_s - began_s)),
            }
        )
    )
    feeds = ended.summary["feeds"].values()
    assert sum(feed["dropped_trades"] + feed["dropped_quotes"] for feed in feeds) == 0
    assert len({payload for _, payload in events}) == len(events) == ended.summary["published"]
    assert all(one.exit_code == ExitCode.OK for one in replays.finished)
    assert held == {"market.futures.trades": replayed}
    assert replayed == REPLAY_ROWS * len(replays.finished)
    assert per_s >= EVENTS_PER_S
    assert dark_s < DARK_S
