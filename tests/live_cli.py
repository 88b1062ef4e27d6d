"""Runs the live command as its user would, against a simulator that is told what to send."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import nats
import nats.errors

from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.replay_cli import Finished, finish

API_KEY: Final = "5ecret-k3y"
PATIENCE_S: Final = 20.0

_OURS: Final = ("NATS_URL", "POLYGON_API_KEY", "POLYGON_STOCKS_URL", "POLYGON_OPTIONS_URL")


def start(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, by: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start ``ingestor-live`` in a folder of its own, `by` a program that executes it, if any."""
    clean = {name: value for name, value in os.environ.items() if name not in _OURS}
    clean["PYTHONPATH"] = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [*by, sys.executable, "-m", "ingestor.main", *arguments],
        cwd=cwd,
        env=clean | dict(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def live(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Finished:
    """Run ``ingestor-live`` to its end."""
    return finish(start(*arguments, cwd=cwd, env=env))


def feeds_of(simulator: SimulatorProcess, **more: str) -> dict[str, str]:
    """Environment in which a simulator is the vendor; `more` beats it."""
    return {
        "POLYGON_API_KEY": API_KEY,
        "POLYGON_STOCKS_URL": simulator.stocks_url,
        "POLYGON_OPTIONS_URL": simulator.options_url,
    } | more


@contextmanager
def simulator(*arguments: str) -> Iterator[SimulatorProcess]:
    """A vendor that takes `API_KEY`."""
    with SimulatorProcess("--api-key", API_KEY, *arguments) as running:
        yield running


def subscriptions(vendor: SimulatorProcess, market: str) -> set[str]:
    """What the clients of a market are subscribed to now."""
    connections: list[dict[str, Any]] = vendor.control("stats")[market]["connections"]
    return {name for connection in connections for name in connection["subscriptions"]}


def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: never"
        time.sleep(0.02)


def stored(url: str, stream: str = "MARKET_DATA") -> int:
    """How many messages a stream holds; 0 while there is no such stream, or no server of `url`."""
    for one in listening(url):
        with suppress(OSError, nats.errors.Error):
            return asyncio.run(_stored(one, stream))
    return 0


def listening(url: str) -> Iterator[str]:
    """Yield the servers of `url` that listen: the client library tries a dead one for minutes."""
    for one in url.split(","):
        parts = urlsplit(one)
        with suppress(OSError), socket.create_connection((parts.hostname, parts.port or 0), 1):
            yield one


async def _stored(url: str, stream: str) -> int:
    client = await nats.connect(url, allow_reconnect=False, connect_timeout=1)
    try:
        return int((await client.jetstream().stream_info(stream)).state.messages)
    finally:
        await client.close()
