"""Whoever reads what a run says may stand still, or be gone: the run goes on, and heeds signals."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from _pytest.mark import ParameterSet

from tests.dbn_files import dbn_path, depth, trades, write_dbn
from tests.live_cli import feeds_of, simulator, stored, until
from tests.nats_servers import NatsServer

EVENTS: Final = 2_000
STOP_S: Final = 20.0
"""Closing the feeds, and five seconds for each report that nobody reads."""
TALKATIVE: Final = '[log]\nlevel = "DEBUG"\nprogress_s = 0.01\n'
STUCK: Final = ("pipe", "terminal")


def slow(kind: str) -> ParameterSet:
    return pytest.param(kind, marks=pytest.mark.slow)


@contextlib.contextmanager
def output(kind: str) -> Iterator[int | None]:
    """A descriptor that nobody reads; None is one that is closed."""
    if kind == "closed":
        yield None
        return
    if kind == "full":
        ours, theirs = os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    else:
        ours, theirs = pty.openpty() if kind == "terminal" else os.pipe()
    if kind == "gone":
        os.close(ours)
    try:
        if kind in STUCK:
            fill(theirs)
        yield theirs
    finally:
        for one in (ours, theirs):
            with contextlib.suppress(OSError):
                os.close(one)


def fill(descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"." * 512)
    os.set_blocking(descriptor, True)


def started(
    module: str, descriptor: int | None, server: NatsServer, cwd: Path, *more: str, **env: str
) -> subprocess.Popen[bytes]:
    """Start a run whose standard streams are all that descriptor."""
    (cwd / "talk.toml").write_text(TALKATIVE)
    command = [sys.executable, "-P", "-m", module, "--nats", server.url, "--config", "talk.toml"]
    command += more
    if descriptor is None:
        command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    root = str(Path(__file__).parents[1])
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": root, "TERM": "xterm", **env},
        stdin=subprocess.DEVNULL,
        stdout=descriptor,
        stderr=descriptor,
    )


def live_goes_on(kind: str, server: NatsServer, cwd: Path, hold_s: float) -> None:
    count = ("--count", str(EVENTS), "--rate", str(round(EVENTS / hold_s)), "--options-rate", "0")
    with simulator(*count) as vendor, output(kind) as descriptor:
        process = started("ingestor.main", descriptor, server, cwd, **feeds_of(vendor))
        try:
            time.sleep(hold_s)
            until(lambda: stored(server.url) == EVENTS, "all stored")
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_S) == 143
        finally:
            process.kill()
            process.wait()


def replay_goes_on(kind: str, server: NatsServer, cwd: Path, hold_s: float) -> None:
    step_ns = round(hold_s * 1e9 / EVENTS)
    write_dbn(dbn_path(cwd, "trades"), trades(EVENTS, step_ns=step_ns), schema="trades")
    write_dbn(dbn_path(cwd, "mbp-10"), depth(EVENTS, step_ns=step_ns), schema="mbp-10")
    with output(kind) as descriptor:
        module, paced = "ingestor.replay_publisher", ("--data-dir", ".", "--speed", "1")
        process = started(module, descriptor, server, cwd, *paced)
        try:
            assert process.wait(hold_s + STOP_S) == 0
            assert stored(server.url) == 2 * EVENTS
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("kind", ["closed", *map(slow, ("pipe", "terminal", "gone", "full"))])
def test_a_live_run_publishes_all_and_heeds_a_signal(
    kind: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    live_goes_on(kind, nats_server, tmp_path, 1.0)


@pytest.mark.parametrize("kind", ["terminal", "full", *map(slow, ("pipe", "gone", "closed"))])
def test_a_replay_publishes_all_and_ends(
    kind: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    replay_goes_on(kind, nats_server, tmp_path, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", STUCK)
def test_a_minute_of_silence_costs_a_live_run_nothing(
    kind: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    live_goes_on(kind, nats_server, tmp_path, 60.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", STUCK)
def test_a_minute_of_silence_costs_a_replay_nothing(
    kind: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    replay_goes_on(kind, nats_server, tmp_path, 60.0)
