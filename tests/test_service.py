"""Whole runs as services of systemd: what they tell the socket that it gives them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from ingestor.model.errors import ExitCode
from tests import live_cli, replay_cli
from tests.dbn_files import dbn_path, trades, write_dbn
from tests.docs.pages import ROOT
from tests.live_cli import feeds_of, simulator, subscriptions
from tests.nats_servers import NatsServer
from tests.processes import named
from tests.replay_cli import finish
from tests.runtime.test_notify import Manager

PATIENCE_S = 20.0
WATCHDOG_S = 2.0


class Service:
    """What systemd hears of a run that it has started."""

    def __init__(self, folder: Path) -> None:
        self.manager = Manager(str(folder / "notify"))
        self.lines: list[tuple[float, str]] = []
        self.environment = {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        }

    def hear(self) -> None:
        """Take what has come."""
        now_s = time.monotonic()
        for text in self.manager.heard():
            self.lines += [(now_s, line) for line in text.split("\n")]

    def at_s(self, beginning: str) -> list[float]:
        """When lines that begin so have come."""
        self.hear()
        return [at_s for at_s, line in self.lines if line.startswith(beginning)]

    def until(self, beginning: str, count: int = 1) -> None:
        """Wait until so many such lines have come."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.at_s(beginning)) < count:
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.02)


@contextmanager
def service(folder: Path) -> Iterator[Service]:
    made = Service(folder)
    with made.manager.socket:
        yield made


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return finish(process).exit_code


def test_a_live_run_is_ready_when_it_is_subscribed_and_alive_until_it_has_stopped(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with service(tmp_path) as systemd, simulator("--rate", "500") as vendor:
        environment = feeds_of(vendor, NATS_URL=nats_server.url) | systemd.environment
        process = live_cli.start(cwd=tmp_path, env=environment)
        systemd.until("READY=1")
        assert {"T.SPY", "Q.SPY"} <= subscriptions(vendor, "stocks")
        systemd.until("WATCHDOG=1", 8)
        systemd.until("STATUS=", 3)
        assert any(" events, " in line and "; stocks " in line for _, line in systemd.lines)
        assert ended(process) == ExitCode.TERMINATED
        fed = systemd.at_s("WATCHDOG=1")
        gaps = [later - earlier for earlier, later in pairwise(fed)]
        assert max(gaps) < WATCHDOG_S
        assert len(systemd.at_s("READY=1")) == len(systemd.at_s("STOPPING=1")) == 1


def test_a_live_run_without_its_vendor_is_alive_and_not_ready(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with service(tmp_path) as systemd:
        nobody = {
            "POLYGON_API_KEY": "key",
            "POLYGON_STOCKS_URL": "ws://127.0.0.1:9/stocks",
            "POLYGON_OPTIONS_URL": "ws://127.0.0.1:9/options",
            "NATS_URL": nats_server.url,
        }
        process = live_cli.start(cwd=tmp_path, env=nobody | systemd.environment)
        systemd.until("WATCHDOG=1", 5)
        assert not systemd.at_s("READY=1")
        assert ended(process) == ExitCode.TERMINATED


def test_a_run_whose_publisher_stands_still_is_not_called_alive(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    data = tmp_path / "data"
    write_dbn(dbn_path(data, "trades"), trades(60, step_ns=10**9), schema="trades")
    with service(tmp_path) as systemd:
        process = replay_cli.start(
            *("--data-dir", str(data), "--nats", nats_server.url, "--feeds", "trades"),
            *("--speed", "1"),
            cwd=tmp_path,
            env=systemd.environment,
        )
        systemd.until("READY=1")
        systemd.until("WATCHDOG=1", 2)
        publisher = named(process.pid, "publisher")
        os.kill(publisher.pid, signal.SIGSTOP)
        frozen_s = time.monotonic()
        # Systemd would have ended the run. The supervisor kills it after 5 s, and starts another.
        systemd.until("STATUS=", len(systemd.at_s("STATUS=")) + 4)
        fed = systemd.at_s("WATCHDOG=1")
        assert max(fed) < frozen_s + WATCHDOG_S
        systemd.until("WATCHDOG=1", len(fed) + 2)
        assert ended(process) == ExitCode.TERMINATED


def test_a_standby_tells_that_it_waits(tmp_path: Path, nats_server: NatsServer) -> None:
    with service(tmp_path) as systemd, simulator() as vendor:
        environment = feeds_of(vendor, NATS_URL=nats_server.url)
        leader = live_cli.start(cwd=tmp_path, env=environment)
        live_cli.until(lambda: live_cli.stored(nats_server.url) > 0, "events of the leader")
        standby = live_cli.start("--standby", cwd=tmp_path, env=environment | systemd.environment)
        systemd.until("STATUS=standby: ")
        assert ended(leader) == ExitCode.TERMINATED
        systemd.until("READY=1")
        assert ended(standby) == ExitCode.TERMINATED


_CONFINED = """\
mount --bind "$0" "$0" && mount -o remount,bind,ro / && mount -t tmpfs -o ro tmpfs "$1" || exit 99
cd "$0" && exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "${@:2}"
"""


@pytest.mark.slow
def test_a_live_run_needs_no_more_than_its_unit_allows(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    """As root: what the unit's user may not do besides is not tested."""
    unit = (ROOT / "configs" / "systemd" / "ingestor-live.service").read_text()
    for promise in ("ProtectSystem=strict", "PrivateTmp=yes", "NoNewPrivileges=yes"):
        assert promise in unit
    state, home, credentials = (tmp_path / name for name in ("state", "home", "credentials"))
    for folder in (state, home, credentials):
        folder.mkdir()
    (credentials / "polygon.key").write_text(f"{live_cli.API_KEY}\n")
    by = ("unshare", "--mount", "bash", "-c", _CONFINED, str(state), str(home))
    if subprocess.run([*by, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be made read-only here")
    with service(tmp_path) as systemd, simulator("--rate", "500") as vendor:
        told = feeds_of(vendor, NATS_URL=nats_server.url, HOME=str(home), TMPDIR="") | {
            "POLYGON_API_KEY_FILE": str(credentials / "polygon.key")
        }
        del told["POLYGON_API_KEY"]
        process = live_cli.start(
            "--config", str(ROOT / "configs" / "live.toml"), "--record", "journal",
            cwd=tmp_path, env=told | systemd.environment, by=by,
        )  # fmt: skip
        systemd.until("READY=1")
        live_cli.until(lambda: live_cli.stored(nats_server.url) > 0, "events")
        os.kill(process.pid, signal.SIGHUP)
        systemd.until("RELOADING=1")
        systemd.until("READY=1", 2)
        systemd.until("WATCHDOG=1", 2)
        assert list(state.rglob("*.*"))
        assert ended(process) == ExitCode.TERMINATED
    assert not list(home.iterdir())
