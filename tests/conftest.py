"""Fixtures that many test modules share."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest
from hypothesis import HealthCheck, settings

from ingestor.runtime.embedded_server import DEFAULT_PORT
from tests.nats_servers import (
    OLD_SERVER_VARIABLE,
    NatsServer,
    current_executable,
    old_executable,
    start_server,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_REAL_DAY: Final = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "dbn-data"
_failed: Final = pytest.StashKey[bool]()


# How fast a loaded machine makes examples says nothing about the code.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


class StartNatsServer(Protocol):
    """What the fixture `start_nats_server` is: call it for one more server."""

    def __call__(self, *, executable: Path | None = None, extra_config: str = "") -> NatsServer:
        """Start a server; it is stopped when the test ends."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember on the item whether it failed, for fixtures that then tell more."""
    report = yield
    item.stash[_failed] = report.failed or item.stash.get(_failed, False)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Repeat above the closing line which of bin/test's other checks failed."""
    for check in os.environ.get("INGESTOR_FAILED_CHECKS", "").splitlines():
        terminalreporter.write_line(f"FAILED before the tests: {check}", red=True)


@pytest.fixture
def start_nats_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartNatsServer]:
    """Starts servers with settings of their own; stops them, and shows their logs on a failure."""
    servers: list[NatsServer] = []

    def start(*, executable: Path | None = None, extra_config: str = "") -> NatsServer:
        directory = tmp_path / f"nats-{len(servers)}"
        servers.append(start_server(directory, executable=executable, extra_config=extra_config))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
        if request.node.stash.get(_failed, False):
            print(f"--- log of {server.url}\n{server.log()}")


@pytest.fixture
def nats_server(start_nats_server: StartNatsServer) -> NatsServer:
    """A server of the pinned version, which knows fast ingest."""
    return start_nats_server()


@pytest.fixture
def old_nats_server(start_nats_server: StartNatsServer) -> NatsServer:
    """A 2.10 server, which has no fast ingest."""
    return start_nats_server(executable=_old_executable_or_skip())


@pytest.fixture(params=["current", "old"])
def any_nats_server(
    request: pytest.FixtureRequest, start_nats_server: StartNatsServer
) -> NatsServer:
    """Both versions, one after the other."""
    old = request.param == "old"
    executable = _old_executable_or_skip() if old else current_executable()
    return start_nats_server(executable=executable)


@pytest.fixture
def default_port() -> Iterator[None]:
    """Nobody listens on the default port; tests with this fixture take turns, of any checkout."""
    with (Path(tempfile.gettempdir()) / "ingestor-default-port.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", DEFAULT_PORT)) == 0:
                pytest.skip(f"something listens on port {DEFAULT_PORT} of this machine")
        yield


@pytest.fixture(scope="session")
def real_day() -> Path:
    """The folder of a real trading day's DBN files, kept outside the project."""
    if not _REAL_DAY.is_dir():
        pytest.skip(f"no real DBN files at {_REAL_DAY}")
    return _REAL_DAY


def _old_executable_or_skip() -> Path:
    executable = old_executable()
    if executable is None:
        pytest.skip(f"no nats-server 2.10: bin/test installs it, or set {OLD_SERVER_VARIABLE}")
    return executable
