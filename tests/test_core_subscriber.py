"""Beside every kind of run, `nats sub "market.>"` shows events of the stream and nothing else."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.dbn_files import dbn_path, depth, trades, write_dbn
from tests.live_cli import live
from tests.nats_servers import FIRST_THE_CURRENT
from tests.publish.observers import CoreSubscriber
from tests.publish.plain import messages
from tests.replay_cli import replay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nats_servers import NatsServer


@contextmanager
def core_subscriber(server: NatsServer) -> Iterator[CoreSubscriber]:
    """One that looks on from a thread, while a run is awaited here."""
    subscriber, subscribed, over = CoreSubscriber(server.url), threading.Event(), threading.Event()

    async def look() -> None:
        async with subscriber:
            subscribed.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(look(),))
    thread.start()
    assert subscribed.wait(20.0)
    yield subscriber
    over.set()
    thread.join()


def check(subscriber: CoreSubscriber, server: NatsServer, at_least: int) -> None:
    held = [(subject, payload) for _, subject, payload in asyncio.run(messages(server))]
    assert len(held) >= at_least
    assert subscriber.no_events == []
    assert subscriber.messages == held


@pytest.mark.parametrize(
    ("more", "at_least"),
    [
        (("--speed", "0"), 1_200),
        pytest.param(("--speed", "0", "--encoding", "packed"), 2, marks=pytest.mark.slow),
        pytest.param(("--speed", "20"), 1_200, marks=pytest.mark.slow),
        (("--speed", "20", "--encoding", "packed"), 20),
    ],
    ids=["json", "packed", "paced", "paced packed"],
)
def test_a_core_subscriber_beside_a_replay_sees_its_events_and_nothing_else(
    any_nats_server: NatsServer, tmp_path: Path, more: tuple[str, ...], at_least: int
) -> None:
    write_dbn(dbn_path(tmp_path, "trades"), trades(300, step_ns=10**8), schema="trades")
    write_dbn(dbn_path(tmp_path, "mbp-10"), depth(900, step_ns=10**8 // 3), schema="mbp-10")
    with core_subscriber(any_nats_server) as subscriber:
        run = ("--data-dir", str(tmp_path), "--nats", any_nats_server.url)
        finished = replay(*run, *more, cwd=tmp_path)
    assert finished.exit_code == 0, finished.err
    check(subscriber, any_nats_server, at_least)


@FIRST_THE_CURRENT
def test_a_core_subscriber_beside_a_live_run_sees_its_events_and_nothing_else(
    any_nats_server: NatsServer, tmp_path: Path
) -> None:
    with core_subscriber(any_nats_server) as subscriber:
        finished = live("--demo", "--for", "2", "--nats", any_nats_server.url, cwd=tmp_path)
    assert finished.exit_code == 0, finished.err
    check(subscriber, any_nats_server, 50)
