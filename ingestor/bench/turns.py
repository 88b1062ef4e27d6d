"""One turn of the benchmark: a fresh server with an empty store, one way of filling its stream."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingestor.bench.ceiling import RawConnection
from ingestor.bench.day import prebuilt
from ingestor.bench.measure import run_measured
from ingestor.feeds.databento.files import DbnSchema
from ingestor.model.errors import IngestorError
from ingestor.runtime.embedded_server import ANY_PORT, EmbeddedServer
from ingestor.runtime.machine import usage_of

STREAM: Final = "MARKET_DATA"
WINDOW_EVENTS: Final = 100_000
AWAITED_EVENTS: Final = 10_000
"""The plain ways are slow: the front of the day, five seconds and one and a half, must do."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is published: a name for people, a data folder, and which of its schemas."""

    name: str
    data_dir: Path
    schemas: tuple[DbnSchema, ...]

    @property
    def feeds(self) -> str:
        """The schemas as the replay names its feeds."""
        return ",".join(schema.value.replace("-", "") for schema in self.schemas)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn showed; CPU in microseconds per event, memory in bytes."""

    events: int
    seconds: float
    size_bytes: int
    server_cpu_us: float
    our_cpu_us: float | None = None
    peak_pss_bytes: int | None = None

    @property
    def events_per_s(self) -> float:
        """Events per second."""
        return self.events / self.seconds


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where servers of the benchmark keep their stores, and what starting a replay costs."""

    directory: Path
    start_cpu_s: float = 0.0

    @contextmanager
    def server(self) -> Iterator[EmbeddedServer]:
        """Run a server with an empty store, which is removed afterwards.

        What was written before is on disk by then: no turn pays for the one before it.
        """
        os.sync()
        folder = Path(tempfile.mkdtemp(prefix="server-", dir=self.directory))
        try:
            with EmbeddedServer(folder, port=ANY_PORT) as server:
                yield server
        finally:
            shutil.rmtree(folder)


def ceiling(place: Workplace, case: Case, encoding: str) -> Turn:
    """Blast frames made ahead from a bare socket."""
    with place.server() as server:
        connection = RawConnection(server.url)
        stream = {"name": STREAM, "subjects": ["market.>"], "allow_batched": True}
        connection.request(f"$JS.API.STREAM.CREATE.{STREAM}", stream | {"storage": "file"})
        frames = prebuilt(case.data_dir, case.schemas, encoding, connection.inbox)
        used_s = _server_cpu_s(server)
        seconds = connection.blast(frames)
        connection.close()
        server_us = (_server_cpu_s(server) - used_s) / frames.rows * 1e6
        return Turn(frames.rows, seconds, frames.size_bytes, server_us)


def replay(place: Workplace, case: Case, encoding: str) -> Turn:
    """Run our replay as a user would."""
    with place.server() as server:
        return _command(place, server, _replay(case, encoding))


def plain(place: Workplace, case: Case, limit: int, *more: str) -> Turn:
    """Run the plain Python pipeline over the first `limit` events."""
    command = [sys.executable, "-m", "ingestor.bench.plain", "--data-dir", str(case.data_dir)]
    command += ["--schemas", ",".join(case.schemas), "--limit", str(limit), *more]
    with place.server() as server:
        return _command(place, server, command)


def consume(place: Workplace, case: Case, encoding: str, how: str) -> Turn:
    """Have a consumer read what a replay has stored before."""
    command = [sys.executable, "-m", "ingestor.bench.consume", "--how", how]
    with place.server() as server:
        _command(place, server, _replay(case, encoding))
        return _command(place, server, command)


def _replay(case: Case, encoding: str) -> list[str]:
    command = [sys.executable, "-m", "ingestor.replay_publisher", "--summary", "json"]
    command += ["--data-dir", str(case.data_dir), "--feeds", case.feeds]
    return [*command, "--encoding", encoding]


def _command(place: Workplace, server: EmbeddedServer, command: Sequence[str]) -> Turn:
    used_s = _server_cpu_s(server)
    cost = run_measured([*command, "--nats", server.url], os.environ)
    server_s = _server_cpu_s(server) - used_s
    if cost.exit_code:
        raise IngestorError(f"{' '.join(command)} ended with {cost.exit_code}: {cost.errors}")
    answer = json.loads(cost.output)
    events = int(answer["published"])
    # Processes that know when their work began tell what it cost; of a replay all of them count.
    ours_s = answer.get("cpu_s", cost.cpu_s - place.start_cpu_s)
    return Turn(
        events,
        float(answer["elapsed_s"]),
        _stored_bytes(server.url),
        server_s / events * 1e6,
        max(ours_s, 0.0) / events * 1e6,
        cost.peak_pss_bytes or None,
    )


def start_cpu_s(place: Workplace, tiny: Case) -> float:
    """CPU seconds that a replay costs before its first event, told by a tiny one."""
    turn = replay(place, tiny, "json")
    return (turn.our_cpu_us or 0.0) * turn.events / 1e6


Way = Callable[[Workplace, Case], Turn]
"""One way of filling a stream, or of reading it."""

WAYS: Final[dict[str, Way]] = {
    "ceiling, JSON": lambda place, case: ceiling(place, case, "json"),
    "replay, JSON": lambda place, case: replay(place, case, "json"),
    "ceiling, packed": lambda place, case: ceiling(place, case, "packed"),
    "replay, packed": lambda place, case: replay(place, case, "packed"),
    "consumer, JSON events": lambda place, case: consume(place, case, "json", "events"),
    "consumer, JSON batches": lambda place, case: consume(place, case, "json", "batches"),
    "consumer, packed events": lambda place, case: consume(place, case, "packed", "events"),
    "consumer, packed batches": lambda place, case: consume(place, case, "packed", "batches"),
    "plain Python, window": lambda place, case: plain(place, case, WINDOW_EVENTS),
    "plain Python, awaited": lambda place, case: plain(place, case, AWAITED_EVENTS, "--awaited"),
}


def _server_cpu_s(server: EmbeddedServer) -> float:
    used = None if server.pid is None else usage_of(server.pid)
    if used is None:
        raise IngestorError("the benchmark's NATS server is gone")
    return used[0]


def _stored_bytes(url: str) -> int:
    connection = RawConnection(url)
    info = connection.request(f"$JS.API.STREAM.INFO.{STREAM}", {})
    connection.close()
    state = info["state"]
    return int(state["bytes"]) if isinstance(state, dict) else 0
