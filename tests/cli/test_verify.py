"""``ingestor verify`` as its user meets it, against streams that a replay or a live run wrote."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nats
import pytest

from ingestor.model.errors import ExitCode
from tests.dbn_files import write_small_day
from tests.nats_servers import NatsServer
from tests.replay_cli import read_stream, replay

ROWS = 1_200


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_small_day(tmp_path / "data")


def publish(data: Path, server: NatsServer, *more: str) -> None:
    finished = replay("--data-dir", str(data), "--nats", server.url, *more, cwd=data.parent)
    assert finished.exit_code == ExitCode.OK, finished.err


def verify(data: Path, server: NatsServer, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ("--data-dir", str(data), "--nats", server.url, *more)
    return subprocess.run(
        [sys.executable, "-m", "ingestor", "verify", *arguments],
        cwd=data.parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def verdict(data: Path, server: NatsServer, *more: str) -> dict[str, Any]:
    finished = verify(data, server, "--summary", "json", *more)
    assert finished.returncode == ExitCode.BAD_DATA, finished.stderr
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


def change(server: NatsServer, *, delete: int, publish: list[tuple[str, bytes]]) -> None:
    async def work() -> None:
        client = await nats.connect(server.url)
        stream = client.jetstream()
        await stream.delete_msg("MARKET_DATA", delete)
        for subject, payload in publish:
            await stream.publish(subject, payload)
        await client.close()

    asyncio.run(work())


@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_what_a_replay_wrote_equals_its_files(
    data: Path, nats_server: NatsServer, encoding: str
) -> None:
    publish(data, nats_server, "--encoding", encoding)
    finished = verify(data, nats_server)
    assert finished.returncode == ExitCode.OK, finished.stderr
    assert finished.stdout.startswith("1,200 ")
    assert " equal (stream MARKET_DATA, sequences 1 to " in finished.stdout


def test_packed_rows_are_equal_however_they_share_messages(
    data: Path, nats_server: NatsServer
) -> None:
    """A paced run sends what is due: many small messages instead of a few large ones."""
    publish(data, nats_server, "--encoding", "packed", "--speed", "20")
    assert len(read_stream(nats_server.url)) > 20
    assert verify(data, nats_server).returncode == ExitCode.OK


def test_the_filters_of_the_replay_hold_here_too(data: Path, nats_server: NatsServer) -> None:
    publish(data, nats_server, "--feeds", "trades")
    assert verify(data, nats_server, "--feeds", "trades").stdout.startswith("300 messages equal")
    assert verdict(data, nats_server)["counts"]["missing"] == 900


def test_the_first_difference_is_shown_with_both_sides(data: Path, nats_server: NatsServer) -> None:
    publish(data, nats_server)
    stored = read_stream(nats_server.url)
    change(
        nats_server,
        delete=7,
        publish=[(stored[0].subject, stored[0].data), ("market.futures.trades", b"{}")],
    )
    finished = verify(data, nats_server)
    assert finished.returncode == ExitCode.BAD_DATA
    lines = finished.stdout.splitlines()
    assert lines[0] == "first difference at number 7, sequence 8"
    assert lines[1] == f"  files   {stored[6].subject} {stored[6].data.decode()}"
    assert lines[2] == f"  stream  {stored[7].subject} {stored[7].data.decode()}"
    counts = "1,199 messages equal, 1 missing, 1 extra, 1 repeated, 0 changed, 0 in wrong order"
    assert lines[3].startswith(counts)


def test_a_packed_row_that_is_missing_is_shown_as_json(data: Path, nats_server: NatsServer) -> None:
    publish(data, nats_server, "--encoding", "packed", "--feeds", "trades", "--speed", "20")
    change(nats_server, delete=3, publish=[])
    result = verdict(data, nats_server, "--feeds", "trades")
    assert (result["unit"], result["counts"]["extra"]) == ("rows", 0)
    assert result["counts"]["missing"] == 300 - result["counts"]["equal"] > 0
    assert '"symbol":"ES.c.0"' in result["first"]["expected"]


def test_a_part_of_the_stream_is_compared_alone(data: Path, nats_server: NatsServer) -> None:
    publish(data, nats_server)
    counts = verdict(data, nats_server, "--from-seq", "201", "--to-seq", "1100")["counts"]
    assert (counts["equal"], counts["missing"]) == (900, 300)


def test_there_must_be_a_stream(data: Path, nats_server: NatsServer) -> None:
    finished = verify(data, nats_server)
    assert finished.returncode == ExitCode.STREAM
    assert "stream not found" in finished.stderr
