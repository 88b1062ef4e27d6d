"""Metrics of whole runs, as an operator has them: from the configuration to the scraped text."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingestor.model.errors import ExitCode
from ingestor.model.feed_status import What, decode_status
from ingestor.runtime.supervisor import MAX_RESTARTS
from tests.dbn_files import dbn_path, depth, trades, write_dbn
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.processes import ended, kill_to_the_end, named
from tests.replay_cli import finish, read_stream, replay, start
from tests.runtime.exposition import Family, parse
from tests.runtime.http import events, fetch, fetch_when_up

PATIENCE_S = 20.0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five seconds of depth, and trades that end long before."""
    folder = tmp_path / "data"
    write_dbn(dbn_path(folder, "trades"), trades(10, step_ns=10**8), schema="trades")
    write_dbn(dbn_path(folder, "mbp-10"), depth(50, step_ns=10**8), schema="mbp-10")
    return folder


def configured(folder: Path, port: int, more: str = "") -> list[str]:
    path = folder / "metrics.toml"
    path.write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n{more}')
    return ["--config", str(path)]


def paced(
    data: Path, server: NatsServer, port: int, more: str = "", *, speed: str = "1"
) -> subprocess.Popen[str]:
    flags = configured(data.parent, port, more)
    where = ["--data-dir", str(data), "--nats", server.url, "--summary", "json"]
    return start(*where, "--speed", speed, *flags, cwd=data.parent)


def scraped(port: int) -> dict[str, Family]:
    return parse(fetch_when_up(port, "/metrics").text)


def until_published(port: int, more_than: int = 0) -> dict[str, Family]:
    deadline = time.monotonic() + PATIENCE_S
    while (families := scraped(port))["ingestor_published_total"].of("publisher") <= more_than:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return families


def test_a_replay_is_scraped_while_it_runs_and_gone_when_it_has_ended(
    data: Path, nats_server: NatsServer
) -> None:
    port = free_port()
    process = paced(data, nats_server, port)
    families = until_published(port, more_than=20)
    names = {dict(labels)["process"] for labels in families["ingestor_ended"].samples}
    assert names == {"trades", "mbp10", "publisher", "metrics", "records", "control"}
    assert families["ingestor_records_total"].of("trades") == 10
    # It has read its file, and stays: a seek may send it back.
    assert families["ingestor_ended"].of("trades") == 0
    assert fetch(port, "/healthz").code == 200
    assert "mbp10" in str(next(events(port))["state"]["feeds"])
    finished = finish(process)
    assert finished.exit_code == 0, finished.err
    assert finished.summary["published"] == 60
    assert f"the status page are at http://127.0.0.1:{port}/" in finished.err
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_that_is_taken_is_said_before_anything_starts(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = configured(data.parent, taken.getsockname()[1])
        finished = replay("--data-dir", str(data), *flags, cwd=data.parent)
    assert finished.exit_code == ExitCode.CONFIGURATION
    assert "cannot be listened on: Address already in use" in finished.err
    assert not (data.parent / ".data").exists()


@pytest.mark.parametrize(
    ("number", "more"),
    [
        (signal.SIGKILL, ""),
        # Shorter than 5 s, and longer than a process takes to start on a busy machine.
        (signal.SIGSTOP, "[process]\nsilence_s = 3.0\n"),
    ],
    ids=["killed", "frozen"],
)
def test_metrics_that_die_are_served_again(
    data: Path, nats_server: NatsServer, number: signal.Signals, more: str
) -> None:
    port = free_port()
    process = paced(data, nats_server, port, more, speed="0.05")
    until_published(port)
    metrics = named(process.pid, "metrics")
    os.kill(metrics.pid, number)
    assert ended(metrics)
    assert scraped(port)["ingestor_restarts_total"].of("metrics") == 1
    assert named(process.pid, "metrics").pid != metrics.pid
    process.send_signal(signal.SIGTERM)
    finished = finish(process)
    assert finished.exit_code == ExitCode.TERMINATED, finished.err


def test_the_run_goes_on_without_metrics_that_die_again_and_again(
    data: Path, nats_server: NatsServer
) -> None:
    port = free_port()
    process = paced(data, nats_server, port)
    until_published(port)
    kill_to_the_end(process, "metrics")
    finished = finish(process)
    assert finished.exit_code == 0, finished.err
    assert finished.summary["published"] == 60
    assert f"process metrics has died {MAX_RESTARTS + 1} times within a minute" in finished.err
    assert "the run goes on without it" in finished.err


def test_a_frozen_process_is_unhealthy(data: Path, nats_server: NatsServer) -> None:
    port = free_port()
    process = paced(data, nats_server, port, "stale_after_s = 0.5\n")
    until_published(port)
    publisher = named(process.pid, "publisher")
    os.kill(publisher.pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE_S
    while (got := fetch(port, "/healthz")).code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (got.code, got.text[:22]) == (503, "silent: publisher for ")
    os.kill(publisher.pid, signal.SIGCONT)
    assert finish(process).exit_code == 0


def test_what_live_feeds_tell_is_published_and_shown(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "ingestor.main", "--demo", "--nats", nats_server.url]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [*command, *configured(tmp_path, port)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE_S
    while (families := scraped(port))["ingestor_statuses_total"].of("publisher") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    told = families["ingestor_last_status_time_seconds"].samples
    assert {dict(labels)["process"] for labels in told} == {"stocks", "options"}
    assert {dict(labels)["what"] for labels in told} == {"streaming"}
    assert "streaming" in str(next(events(port))["notes"])
    assert fetch(port, "/healthz").code == 200
    process.send_signal(signal.SIGTERM)
    assert finish(process).exit_code == ExitCode.TERMINATED
    stored = [decode_status(one.data) for one in read_stream(nats_server.url, "INGESTOR_STATUS")]
    assert {status.feed for status in stored} == {"stocks", "options"}
    assert {status.what for status in stored} == {What.STREAMING}
