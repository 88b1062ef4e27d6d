"""The page of whole runs in a browser: what people see, also when something is wrong.

Set INGESTOR_SCREENSHOTS to a folder to have pictures of all of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from ingestor.model.units import NS_PER_S
from ingestor.sim.polygon.server_session import API_KEY
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.browser import Tab, browser, needs_chromium
from tests.dbn_files import DAY_NS, dbn_path, depth, write_dbn
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.processes import named
from tests.runtime.http import fetch, fetch_when_up

pytestmark = needs_chromium

RIGHT_WITHIN_S: Final = 3.0
"""Page and /healthz tell what is wrong within this time."""
SLACK_S: Final = 1.5
"""What a test on a busy machine takes to look, twice."""
VERDICT: Final = "document.querySelector('#verdict').innerText"
PHONE: Final = 390


class Run:
    """A run with a page, and a browser that looks at it."""

    def __init__(self, process: subprocess.Popen[str], port: int, tab: Tab) -> None:
        self.process = process
        self.port = port
        self.tab = tab

    def look(self, *, width: int = 1280, dark: bool = False) -> None:
        """Load the page and wait until it shows the run."""
        self.tab.open(f"http://127.0.0.1:{self.port}/", width=width, dark=dark)
        self.tab.until("document.querySelectorAll('#feeds li').length > 0")

    def until_told(self, verdict: str, finding: str, code: int) -> float:
        """Wait until the page and /healthz say so; return the seconds that took."""
        began_s = time.monotonic()
        self.tab.until(
            f"{VERDICT} === '{verdict}' && document.body.innerText.includes('{finding}')"
        )
        while fetch(self.port, "/healthz").code != code:
            assert time.monotonic() - began_s < 10, self.tab.text()
        return time.monotonic() - began_s

    def picture(self, name: str) -> None:
        """Keep a picture where they are wanted."""
        if folder := os.environ.get("INGESTOR_SCREENSHOTS"):
            self.tab.picture(Path(folder) / f"{name}.png")


Start = Callable[..., Run]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def start(tmp_path: Path, tab: Tab) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def starting(module: str, *flags: str, more: str = "", **environment: str) -> Run:
        port = free_port()
        config = tmp_path / "page.toml"
        config.write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n{more}')
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--config", str(config), *flags],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        fetch_when_up(port, "/healthz")
        tab.requested.clear()
        tab.faults.clear()
        return Run(process, port, tab)

    yield starting
    for process in processes:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()
        process.communicate()


def live(start: Start, server: NatsServer, simulator: SimulatorProcess) -> Run:
    return start(
        "ingestor.main",
        "--nats",
        server.url,
        POLYGON_API_KEY=API_KEY,
        POLYGON_STOCKS_URL=simulator.stocks_url,
        POLYGON_OPTIONS_URL=simulator.options_url,
    )


def simulated() -> SimulatorProcess:
    return SimulatorProcess("--rate", "500", "--options-rate", "100")


def test_a_live_run_at_first_sight(start: Start, nats_server: NatsServer) -> None:
    with simulated() as simulator:
        run = live(start, nats_server, simulator)
        run.look()
        tab = run.tab
        tab.until("document.querySelectorAll('#hops tr').length >= 6")
        tab.until("document.querySelectorAll('#strikes tr').length >= 5")
        assert tab.text("#mode").lower() == "live"
        assert tab.text("#where").startswith("MARKET_DATA at ")
        assert tab.text("#verdict") == "All is well"
        assert [tab.text(f"#feeds li:nth-child({at}) h3 b") for at in (1, 2)] == [
            "stocks",
            "options",
        ]
        tab.until("parseInt(document.querySelector('#stream .rate').innerText) > 0")
        assert "data flows" in tab.text("#notes")
        assert "Strikes around" in tab.text("#strikes-title")
        time.sleep(3)  # So that there is a line to see in the picture.
        run.picture("live-laptop-light")
        assert (tab.faults, {url.split("/")[2] for url in tab.requested}) == (
            [],
            {f"127.0.0.1:{run.port}"},
        )


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_light_and_dark(start: Start, nats_server: NatsServer, dark: bool) -> None:
    with simulated() as simulator:
        run = live(start, nats_server, simulator)
        run.look(width=PHONE, dark=dark)
        run.tab.until("document.querySelectorAll('#strikes tr').length >= 5")
        time.sleep(2)
        assert run.tab.value("document.documentElement.scrollWidth") <= PHONE
        light = run.tab.value(
            "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
        )
        assert (light < 100) == dark
        run.picture(f"live-phone-{'dark' if dark else 'light'}")
        run.look(dark=dark)
        time.sleep(1)
        run.picture(f"live-laptop-{'dark' if dark else 'light'}")


def test_it_does_not_flicker(start: Start, nats_server: NatsServer) -> None:
    with simulated() as simulator:
        run = live(start, nats_server, simulator)
        run.look()
        run.tab.until("document.querySelectorAll('#hops tr').length >= 6")
        run.tab.value(
            "window.seen = [...document.querySelectorAll('#feeds li, #hops tr, #processes tr')]"
        )
        before = run.tab.text("#stream .rate")
        run.tab.until(f"document.querySelector('#stream .rate').innerText !== '{before}'")
        assert run.tab.value("seen.every((node) => node.isConnected)") is True


def test_plots_are_read_by_keyboard(start: Start, nats_server: NatsServer) -> None:
    with simulated() as simulator:
        run = live(start, nats_server, simulator)
        run.look()
        run.tab.until("samples.length >= 4")
        run.tab.value("document.querySelector('#rates').focus()")
        run.tab.press("ArrowLeft")
        run.tab.press("ArrowLeft")
        assert run.tab.value("pointers.get('rates').steps") == 2
        run.tab.press("Tab")
        assert run.tab.value("document.activeElement.id") == "latency"
        assert run.tab.value("pointers.size") == 0


def test_a_vendor_that_was_never_there_and_one_that_comes(
    start: Start, nats_server: NatsServer
) -> None:
    with simulated() as simulator:
        os.kill(simulator.pid, signal.SIGSTOP)
        run = live(start, nats_server, simulator)
        run.look()
        run.until_told("Something is wrong", "stocks has no connection to its vendor", 503)
        run.picture("vendor-never-there")
        os.kill(simulator.pid, signal.SIGCONT)
        run.until_told("All is well", "no longer without a connection", 200)


def test_a_vendor_that_is_gone(start: Start, nats_server: NatsServer) -> None:
    with simulated() as simulator:
        run = live(start, nats_server, simulator)
        run.look()
        run.tab.until("document.querySelectorAll('#hops tr').length >= 6")
        os.kill(simulator.pid, signal.SIGKILL)
        told_s = run.until_told("Something is wrong", "no connection to its vendor", 503)
        run.picture("vendor-gone")
        assert told_s < RIGHT_WITHIN_S + SLACK_S


def test_a_server_that_is_frozen_and_one_that_is_gone(
    start: Start, nats_server: NatsServer
) -> None:
    with simulated() as simulator:
        run = live(start, nats_server, simulator)
        run.look()
        run.tab.until("document.querySelectorAll('#hops tr').length >= 6")
        nats_server.pause()
        told_s = run.until_told("Something is wrong", "nothing is stored for", 503)
        run.picture("server-frozen")
        nats_server.resume()
        run.until_told("All is well", "is no longer stalled", 200)
        nats_server.kill()
        gone_s = run.until_told("Something is wrong", "there is no connection to the NATS", 503)
        run.picture("server-gone")
        assert max(told_s, gone_s) < RIGHT_WITHIN_S + SLACK_S


def test_a_feed_that_is_killed_is_history_soon(start: Start, nats_server: NatsServer) -> None:
    with simulated() as simulator:
        run = live(start, nats_server, simulator)
        run.look()
        run.tab.until("document.querySelectorAll('#hops tr').length >= 6")
        named(run.process.pid, "stocks").kill()
        run.tab.until("document.querySelector('#notes').innerText.includes('stocks restart')")
        run.tab.until("document.querySelector('#notes').innerText.includes('stocks gap')")
        run.tab.until("document.querySelector('#feeds').innerText.includes('1 restart')")
        run.until_told("All is well", "stocks restart", 200)
        run.picture("feed-restarted")


def test_a_replay_shows_its_day_its_speed_and_a_hole_in_it(
    start: Start, nats_server: NatsServer, tmp_path: Path
) -> None:
    write_dbn(
        dbn_path(tmp_path / "data", "mbp-10"),
        np.concatenate(
            [depth(4_000, step_ns=5 * 10**7), depth(10, start_ns=DAY_NS + 7_200 * NS_PER_S)]
        ),
        schema="mbp-10",
    )
    flags = ("--data-dir", str(tmp_path / "data"), "--feeds", "mbp10", "--nats", nats_server.url)
    run = start("ingestor.replay_publisher", *flags, "--speed", "20")
    run.look()
    run.tab.until("document.querySelector('#speed').innerText.includes('\u00d720 asked for')")
    run.tab.until("/\u00d7(19|20)/.test(document.querySelector('#speed').innerText.split(',')[1])")
    run.picture("replay")
    run.until_told("All is well", "a hole in the data: the next event", 200)
    run.picture("replay-hole")


def test_the_page_says_that_the_run_has_ended(start: Start, nats_server: NatsServer) -> None:
    with simulated() as simulator:
        run = live(start, nats_server, simulator)
        run.look()
        run.tab.until("document.querySelectorAll('#hops tr').length >= 6")
        run.process.send_signal(signal.SIGTERM)
        run.tab.until(f"{VERDICT} === 'The run has ended'")
