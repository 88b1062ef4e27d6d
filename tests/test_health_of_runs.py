"""``/healthz`` and the page of whole runs are right within 3 s of what happens to them.

Measured from the moment of the fault until both say so, with the same reason; a table of it is
printed (``bin/test tests/test_health_of_runs.py -s``). What the page is told is what it draws its
verdict from; the drawing is looked at in a browser (`tests.test_page_in_browser`).
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import nats
import numpy as np
import pytest

from ingestor.config.schema import Metrics
from ingestor.model.units import NS_PER_S
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests import at_another_time, live_cli, replay_cli
from tests.dbn_files import DAY_NS, dbn_path, depth, write_dbn
from tests.nats_servers import NatsServer, start_server
from tests.ports import free_port
from tests.processes import named
from tests.runtime.http import events, fetch, fetch_when_up

pytestmark = pytest.mark.slow

PATIENCE_S: Final = 30.0
RIGHT_WITHIN_S: Final = 3.0
QUIET_S: Final = Metrics().quiet_after_s
"""A vendor's silence is one from here on, and what is told of it is counted from here."""
IN_SESSION: Final = "2025-12-16T16:00:00Z"
AT_NIGHT: Final = "2025-12-17T04:00:00Z"


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Lines of what was measured, printed at the end."""
    lines: list[str] = []
    yield lines
    print("\n", "state, /healthz after s, page after s", *lines, sep="\n")


@dataclass
class Watched:
    """A run, with the port of its page."""

    process: subprocess.Popen[str]
    port: int
    table: list[str]
    told: dict[str, Any] = field(default_factory=dict)

    def is_right(self, state: str, since_s: float, words: str, *, bad: bool = True) -> None:
        """Wait until both say so, and note after how many seconds they did."""
        looks = (self._healthz, self._page)
        with ThreadPoolExecutor(len(looks)) as pool:
            at_s = [one.result() for one in [pool.submit(look, words, bad) for look in looks]]
        took_s = [one - since_s for one in at_s]
        self.table.append(f"{state:<40}" + "".join(f"{one:8.2f}" for one in took_s))
        assert max(took_s) < RIGHT_WITHIN_S, self.told

    def _healthz(self, words: str, bad: bool) -> float:
        def looked() -> bool:
            got = fetch(self.port, "/healthz")
            self.told["healthz"] = got
            right = (got.code == 503) == bad and got.text.startswith("ok\n") != bad
            return right and words in got.text

        return until(looked)

    def _page(self, words: str, bad: bool) -> float:
        deadline = time.monotonic() + PATIENCE_S
        for news in events(self.port):
            state = self.told["page"] = news["state"]
            about = [one["bad"] for one in state["findings"] if words in one["text"]]
            # Where all is well and nothing else is to be said, the page says only that.
            if (about == [bad] or words == "ok") and state["well"] is not bad:
                break
            assert time.monotonic() < deadline, state["findings"]
        return time.monotonic()

    def well(self) -> None:
        """Wait until all is well and data flows."""
        until(lambda: fetch(self.port, "/healthz").text == "ok\n")
        for news in events(self.port):
            if news["state"]["publisher"]["rate"] > 0:
                return


def until(condition: Callable[[], bool]) -> float:
    """Look every 20 ms; return when it was so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return time.monotonic()


@contextlib.contextmanager
def watched(process: subprocess.Popen[str], port: int, table: list[str]) -> Iterator[Watched]:
    try:
        fetch_when_up(port, "/healthz")
        yield Watched(process, port, table)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)


@contextlib.contextmanager
def live(
    folder: Path,
    server: NatsServer,
    table: list[str],
    *flags: str,
    vendor: SimulatorProcess | None = None,
    by: tuple[str, ...] = (),
    at: str = IN_SESSION,
) -> Iterator[Watched]:
    """Run the stocks feed of a vendor, or of a port where nobody listens, as at another time."""
    port = free_port()
    (folder / "live.toml").write_text(
        f'[metrics]\nlisten = "127.0.0.1:{port}"\n[polygon]\nfeeds = ["stocks"]\n'
    )
    nobody = {
        "POLYGON_API_KEY": live_cli.API_KEY,
        "POLYGON_STOCKS_URL": f"ws://127.0.0.1:{free_port()}/stocks",
    }
    process = live_cli.start(
        "--config",
        "live.toml",
        "--nats",
        server.url,
        *flags,
        cwd=folder,
        env=nobody if vendor is None else live_cli.feeds_of(vendor),
        by=(*by, sys.executable, at_another_time.__file__, at),
    )
    with watched(process, port, table) as run:
        yield run


@contextlib.contextmanager
def replaying(folder: Path, server: NatsServer, table: list[str], *flags: str) -> Iterator[Watched]:
    """Replay 100 s of depth, twenty events a second, and what comes two hours later."""
    behind = depth(10, start_ns=DAY_NS + 7_200 * NS_PER_S)
    records = np.concatenate([depth(2_000, step_ns=5 * 10**7), behind])
    write_dbn(dbn_path(folder / "data", "mbp-10"), records, schema="mbp-10")
    port = free_port()
    (folder / "replay.toml").write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n')
    given = ("--config", "replay.toml", "--data-dir", "data", "--nats", server.url)
    process = replay_cli.start(*given, "--feeds", "mbp10", *flags, cwd=folder)
    with watched(process, port, table) as run:
        yield run


@pytest.fixture
def vendor() -> Iterator[SimulatorProcess]:
    with live_cli.simulator("--rate", "500") as running:
        yield running


def test_a_vendor_that_was_never_there(
    tmp_path: Path, nats_server: NatsServer, table: list[str]
) -> None:
    with live(tmp_path, nats_server, table) as run:
        # Before it listens there is no page to be wrong.
        began_s = time.monotonic()
        run.is_right("vendor never there", began_s, "and never had: ")


def test_a_vendor_that_is_gone(
    tmp_path: Path, nats_server: NatsServer, vendor: SimulatorProcess, table: list[str]
) -> None:
    with live(tmp_path, nats_server, table, vendor=vendor) as run:
        run.well()
        os.kill(vendor.pid, signal.SIGKILL)
        run.is_right("vendor gone", time.monotonic(), "stocks has no connection to its vendor for")


@pytest.mark.parametrize("at", [IN_SESSION, AT_NIGHT], ids=["in session", "at night"])
def test_a_vendor_that_falls_silent(
    tmp_path: Path,
    nats_server: NatsServer,
    vendor: SimulatorProcess,
    table: list[str],
    at: str,
) -> None:
    with live(tmp_path, nats_server, table, vendor=vendor, at=at) as run:
        run.well()
        # Nothing is sent, and no ping is answered; its TCP stays up.
        vendor.control("half_open")
        silent_s = time.monotonic() + QUIET_S
        if at is AT_NIGHT:
            words = "stocks: the market is closed; nothing for"
            run.is_right("vendor silent at night", silent_s, words, bad=False)
        else:
            words = "stocks has received nothing for"
            run.is_right("vendor silent in session", silent_s, words)


def test_a_server_that_is_gone_and_one_that_comes_back(
    tmp_path: Path, nats_server: NatsServer, vendor: SimulatorProcess, table: list[str]
) -> None:
    with live(tmp_path, nats_server, table, vendor=vendor) as run:
        run.well()
        os.kill(nats_server.pid, signal.SIGKILL)
        began_s = time.monotonic()
        run.is_right("server gone", began_s, "there is no connection to the NATS server at")
        nats_server.kill()
        nats_server.start()
        run.is_right("server back", time.monotonic(), "ok", bad=False)


def test_a_server_that_is_frozen_and_one_that_goes_on(
    tmp_path: Path, nats_server: NatsServer, vendor: SimulatorProcess, table: list[str]
) -> None:
    with live(tmp_path, nats_server, table, vendor=vendor) as run:
        run.well()
        nats_server.pause()
        began_s = time.monotonic()
        run.is_right("server frozen", began_s, "the server does not answer; ")
        nats_server.resume()
        run.is_right("server goes on", time.monotonic(), "ok", bad=False)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A small file system of its own."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Take all the room that is left."""
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(b"x" * 4_096):
            pass


def test_a_disk_that_is_full_under_the_journal(
    tmp_path: Path, nats_server: NatsServer, vendor: SimulatorProcess, table: list[str]
) -> None:
    with small_disk(tmp_path / "journal", "16m") as disk:
        flags = ("--record", str(disk))
        with live(tmp_path, nats_server, table, *flags, vendor=vendor) as run:
            run.well()
            fill(disk)
            words = "the journal of stocks is not written: No space left on device"
            run.is_right("disk full under the journal", time.monotonic(), words)


def test_a_disk_that_is_full_under_the_server(
    tmp_path: Path, vendor: SimulatorProcess, table: list[str]
) -> None:
    with small_disk(tmp_path / "disk", "48m") as disk:
        server = start_server(disk / "server")
        try:
            with live(tmp_path, server, table, vendor=vendor) as run:
                run.well()
                fill(disk)
                # The server stores on in files that it has the room of, and then stops.
                run.is_right("disk full under the server", time.monotonic(), "disk that was full")
        finally:
            server.kill()


def test_a_stream_that_is_full(
    tmp_path: Path, nats_server: NatsServer, vendor: SimulatorProcess, table: list[str]
) -> None:
    with live(tmp_path, nats_server, table, vendor=vendor) as run:
        run.well()
        asyncio.run(bound_to_what_it_holds(nats_server.url))
        run.is_right("stream full", time.monotonic(), "maximum messages exceeded")


async def bound_to_what_it_holds(url: str) -> None:
    """Have the stream refuse what is new."""
    client = await nats.connect(url)
    try:
        context = client.jetstream()
        found = await context.stream_info("MARKET_DATA")
        config = found.config.evolve(max_msgs=found.state.messages, discard="new")
        await context.update_stream(config)
    finally:
        await client.close()


def test_a_feed_that_is_started_again(
    tmp_path: Path, nats_server: NatsServer, vendor: SimulatorProcess, table: list[str]
) -> None:
    with live(tmp_path, nats_server, table, vendor=vendor) as run:
        run.well()
        named(run.process.pid, "stocks").kill()
        killed_s = time.monotonic()
        until(lambda: "killed by SIGKILL" in str(next(events(run.port))["notes"]))
        run.is_right("feed restarting: told, and well again", killed_s, "ok", bad=False)
        assert run.told["page"]["feeds"][0]["restarts"] == 1


def test_a_replay_that_is_paused(tmp_path: Path, nats_server: NatsServer, table: list[str]) -> None:
    with replaying(tmp_path, nats_server, table, "--speed", "1") as run:
        run.well()
        token = token_of(run)
        steer(run, "pause", token)
        run.is_right("replay paused", time.monotonic(), "the replay is paused at 2024", bad=False)
        steer(run, "resume", token)
        run.is_right("replay goes on", time.monotonic(), "ok", bad=False)


def token_of(run: Watched) -> str:
    """What whoever may steer has, from the address that the run tells."""
    assert run.process.stderr is not None
    told = (re.search(r"status page are at \S+=(\S+)", line) for line in run.process.stderr)
    return next(one[1] for one in told if one)


def steer(run: Watched, command: str, token: str) -> None:
    """Post a command as the page does."""
    body, right = command.encode(), f"token {token}"
    got = fetch(run.port, "/control", "POST", body=body, Authorization=right)
    assert got.code == http.client.OK, got.text


def test_a_replay_in_a_hole(tmp_path: Path, nats_server: NatsServer, table: list[str]) -> None:
    with replaying(tmp_path, nats_server, table, "--speed", "20") as run:
        until(lambda: live_cli.stored(nats_server.url) == 2_000)
        words = "a hole in the data: the next event, of 2024-"
        run.is_right("replay in a hole", time.monotonic(), words, bad=False)
