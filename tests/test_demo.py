"""Demos make up what they publish: they touch nothing that is there, and say that it is made up."""

from __future__ import annotations

import datetime as dt
import json
import re
import socket
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
        finished = live("--demo", "--for", "4", cwd=tmp_path)
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
