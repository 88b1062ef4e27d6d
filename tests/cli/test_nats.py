"""``ingestor-nats`` in the foreground."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ingestor.model.errors import ExitCode
from ingestor.runtime.embedded_server import ANY_PORT, EmbeddedServer, jetstream_answers


def _start(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ingestor.cli.nats"),
            *("--data-dir", str(data_dir), "--port", str(ANY_PORT)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_its_server(tmp_path: Path, how: signal.Signals) -> None:
    process = _start(tmp_path)
    port = int(_first_line(process).rpartition(":")[2])
    assert jetstream_answers(port)
    server = psutil.Process(process.pid).children()
    process.send_signal(how)
    assert process.wait(30) == ExitCode.OK
    assert process.stdout is not None
    assert str(tmp_path / "jetstream") in process.stdout.read()
    assert process.communicate()[1] == ""
    assert [child.is_running() for child in server] == [False]


def test_it_says_so_when_the_server_ends_by_itself(tmp_path: Path) -> None:
    process = _start(tmp_path)
    _first_line(process)
    psutil.Process(process.pid).children()[0].kill()
    _, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.EMBEDDED_SERVER
    assert "ended by itself" in err


def test_a_store_in_use_is_one_sentence(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, port=ANY_PORT) as server:
        _, err = (process := _start(tmp_path)).communicate(timeout=30)
    assert process.returncode == ExitCode.EMBEDDED_SERVER
    assert err == f"ingestor-nats: the NATS store {tmp_path} is in use at {server.url}\n"


def test_help_teaches(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ingestor.cli.nats", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for word in ("--data-dir", "--port", "nats stream ls", "exit codes"):
        assert word in out
