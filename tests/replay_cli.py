"""Runs the replay command as its user would, and reads streams with a client of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nats
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

RUN_TIMEOUT_S: Final = 60
_COMMAND: Final = (sys.executable, "-m", "ingestor.replay_publisher")
_OURS: Final = ("NATS_URL", "REPLAY_SPEED", "REPLAY_DATE", "DBN_DATA_DIR")


@dataclass(frozen=True)
class Finished:
    exit_code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        answer: dict[str, Any] = json.loads(self.out)
        return answer


def start(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start ``ingestor-replay`` in a folder of its own."""
    clean = {name: value for name, value in os.environ.items() if name not in _OURS}
    clean["PYTHONPATH"] = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [*_COMMAND, *arguments],
        cwd=cwd,
        env=clean | dict(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Finished:
    """Wait for the end of a started command; one that hangs is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Finished(process.returncode, out, err)


def replay(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Finished:
    """Run ``ingestor-replay`` to its end."""
    return finish(start(*arguments, cwd=cwd, env=env))


@dataclass(frozen=True)
class Stored:
    """One message of a stream."""

    seq: int
    subject: str
    data: bytes
    stored_ns: int


def read_stream(url: str, stream: str = "MARKET_DATA") -> list[Stored]:
    """Read everything in a stream, in order, with nats-py alone."""
    found: list[Stored] = []

    def take(message: Msg) -> None:
        meta = message.metadata
        stored_ns = round(meta.timestamp.timestamp() * 1e9)
        found.append(Stored(meta.sequence.stream, message.subject, message.data, stored_ns))

    each_message(url, stream, take)
    return found


def each_message(url: str, stream: str, take: Callable[[Msg], None]) -> None:
    """Give each message of a stream, in its order."""
    asyncio.run(_each_message(url, stream, take))


async def _each_message(url: str, stream: str, take: Callable[[Msg], None]) -> None:
    client = await nats.connect(url.split(","))
    try:
        context = client.jetstream()
        count = (await context.stream_info(stream)).state.messages
        # A server forgets such a consumer after 5 s without a request: a busy machine needs longer
        # to take 5,000 messages.
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, inactive_threshold=60
        )
        pull = await context.pull_subscribe("", stream=stream, config=config)
        taken = 0
        while taken < count:
            for message in await pull.fetch(min(5000, count - taken), timeout=10):
                take(message)
                taken += 1
    finally:
        await client.close()
