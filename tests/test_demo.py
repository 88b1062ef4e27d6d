"""Demos make up what they publish: they touch nothing that is there, and say that it is made up."""

from __future__ import annotations

import datetime as dt
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ingestor.runtime.embedded_server import ANY_PORT, DEFAULT_PORT, EmbeddedServer
from ingestor.runtime.publisher_factory import DEMO_DIR
from ingestor.runtime.replay_run import DEMO_DATE, SAMPLE_DAY
from tests.dbn_files import DAY, dbn_path, depth, trades, write_dbn
from tests.live_cli import live, stored
from tests.nats_servers import NatsServer
from tests.replay_cli import read_stream, replay

ROOT = Path(__file__).resolve().parents[1]


def day_of(time_ns: int) -> dt.date:
    return dt.datetime.fromtimestamp(time_ns / 1e9, dt.UTC).date()


def test_a_replay_demo_leaves_files_alone_that_lie_there(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    write_dbn(dbn_path(tmp_path / "dbn-data", "trades"), trades(5), schema="trades")
    write_dbn(dbn_path(tmp_path / "dbn-data", "mbp-10"), depth(5), schema="mbp-10")
    write_dbn(dbn_path(tmp_path / DEMO_DIR, "trades"), trades(5), schema="trades")
    more = ("--nats", nats_server.url, "--summary", "json", "--feeds", "trades")
    finished = replay("--demo", *more, cwd=tmp_path)
    assert finished.exit_code == 0, finished.err
    assert day_of(finished.summary["first_ts_event_ns"]) in (DEMO_DATE, DEMO_DATE - dt.timedelta(1))
    assert day_of(finished.summary["first_ts_event_ns"]) != DAY
    assert (tmp_path / SAMPLE_DAY).is_dir()
    sources = {json.loads(one.data)["source"] for one in read_stream(nats_server.url)}
    assert sources == {"sim"}


@pytest.mark.usefixtures("default_port")
def test_a_demo_writes_into_no_server_that_nobody_named(tmp_path: Path) -> None:
    """The default port is taken: by whatever runs on this machine, or by a server of the test."""
    with closing(Taken(DEFAULT_PORT)):
        finished = live("--demo", "--for", "2", cwd=tmp_path)
    assert finished.exit_code == 0, finished.err
    found = re.search(r"embedded NATS server at (\S+), store (\S+)", finished.err)
    assert found is not None
    assert found[1] != f"nats://127.0.0.1:{DEFAULT_PORT}"
    assert found[2] == str(DEMO_DIR / "nats")
    with EmbeddedServer(tmp_path / DEMO_DIR / "nats", port=ANY_PORT) as server:
        assert stored(server.url) > 0
    assert not (tmp_path / ".data" / "nats").exists()


class Taken:
    """A port on which something listens, that answers as a NATS server does."""

    def __init__(self, port: int) -> None:
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except OSError:
            pytest.skip(f"something listens on port {port} of this machine")
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        info = b'INFO {"version":"2.15.0","server_name":"theirs","jetstream":true}\r\n'
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.sendall(info)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_demo_tells_where_its_page_is_and_what_to_type_next(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    finished = live("--demo", "--for", "2", "--nats", nats_server.url, cwd=tmp_path)
    assert finished.exit_code == 0, finished.err
    assert re.search(r"the status page are at http://127\.0\.0\.1:\d+/", finished.err)
    next_command = rf"demo: type in another terminal: \S+ingestor tail --nats {nats_server.url}"
    assert re.search(next_command, finished.err)


def test_a_replay_demo_that_is_watched_stays_until_ctrl_c(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    words = ("--demo", "--feeds", "trades", "--speed", "0", "--nats", nats_server.url)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ingestor", "replay", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = b""
    while b"the server stays until Ctrl-C" not in shown:
        shown += os.read(ours, 65_536)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    os.close(ours)
    assert process.returncode == 0
    assert out.startswith("published ")


def test_a_demo_that_is_watched_is_paced_and_one_that_is_not_is_not() -> None:
    command = [sys.executable, "-P", "-m", "ingestor", "replay", "--demo", "--show-config"]
    ours, theirs = pty.openpty()
    watched, alone = (
        subprocess.run(command, stdout=subprocess.PIPE, stderr=err, text=True, check=True).stdout
        for err in (theirs, subprocess.PIPE)
    )
    os.close(ours)
    os.close(theirs)
    assert re.search(r"^replay.speed = 1000.0 +# demo$", watched, re.M)
    assert re.search(r"^replay.speed = 0.0 +# default$", alone, re.M)
    for shown in (watched, alone):
        assert re.search(r'^metrics.listen = "127.0.0.1:\d+" +# demo$', shown, re.M)
