"""The page of whole runs in a browser: what people see, also when something is wrong.

Set INGESTOR_SCREENSHOTS to a folder to have pictures of all of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S
from ingestor.sim.polygon.server_session import API_KEY
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.browser import Tab, browser, needs_chromium
from tests.dbn_files import DAY_NS, dbn_path, depth, write_dbn
from tests.nats_servers import NatsServer, start_server
from tests.ports import free_port
from tests.processes import named
from tests.runtime.http import fetch, fetch_when_up

pytestmark = needs_chromium

RIGHT_WITHIN_S: Final = 3.0
"""Page and /healthz tell what is wrong within this time."""
SLACK_S: Final = 1.5
"""What a test on a busy machine takes to look, twice."""
VERDICT: Final = "document.querySelector('#verdict').innerText"
FLOWS: Final = "document.querySelectorAll('#hops tr').length >= 6"
LAPTOP: Final = 1280
PHONE: Final = 390


class Run:
    """A run with a page, and a browser that looks at it."""

    def __init__(self, process: subprocess.Popen[str], port: int, tab: Tab) -> None:
        self.process = process
        self.port = port
        self.tab = tab

    def look(self, *, address: str = "", width: int = LAPTOP, dark: bool = False) -> None:
        """Load the page and wait until it shows the run."""
        address = address or f"http://127.0.0.1:{self.port}/"
        self.tab.open(address, width=width, dark=dark)
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


@dataclass
class Disturbed:
    """A live run, and what it depends on."""

    run: Run
    server: NatsServer
    simulator: SimulatorProcess


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@contextlib.contextmanager
def running(
    folder: Path, tab: Tab, module: str, *flags: str, settings: str = "", **environment: str
) -> Iterator[Run]:
    """Run a program with a page until the end of the block."""
    port = free_port()
    config = folder / "page.toml"
    config.write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n{settings}')
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--config", str(config), *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        fetch_when_up(port, "/healthz")
        yield Run(process, port, tab)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def live(
    folder: Path, tab: Tab, server: NatsServer, simulator: SimulatorProcess, settings: str = ""
) -> Iterator[Run]:
    """Run the live feeds of a simulator, and look at their page."""
    with running(
        folder,
        tab,
        "ingestor.main",
        "--nats",
        server.url,
        settings=settings,
        POLYGON_API_KEY=API_KEY,
        POLYGON_STOCKS_URL=simulator.stocks_url,
        POLYGON_OPTIONS_URL=simulator.options_url,
    ) as run:
        run.look()
        yield run


def simulated() -> SimulatorProcess:
    return SimulatorProcess("--rate", "500", "--options-rate", "100")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, tab: Tab) -> Iterator[Run]:
    """A live run in which all is well, for the tests that only look."""
    folder = tmp_path_factory.mktemp("calm")
    server = start_server(folder / "nats")
    try:
        with simulated() as simulator, live(folder, tab, server, simulator) as run:
            yield run
    finally:
        server.stop()


@pytest.fixture
def disturbed(tmp_path: Path, tab: Tab, nats_server: NatsServer) -> Iterator[Disturbed]:
    """A live run whose data flows, with all that can be taken from it."""
    with simulated() as simulator, live(tmp_path, tab, nats_server, simulator) as run:
        tab.until(FLOWS)
        yield Disturbed(run, nats_server, simulator)


def test_a_live_run_at_first_sight(calm: Run) -> None:
    tab = calm.tab
    calm.look()
    tab.until(FLOWS)
    tab.until("document.querySelectorAll('#strikes tr').length >= 5")
    assert tab.text("#mode").lower() == "live"
    assert tab.text("#where").startswith("MARKET_DATA at ")
    assert tab.text("#verdict") == "All is well"
    names = [tab.text(f"#feeds li:nth-child({at}) h3 b") for at in (1, 2)]
    assert names == ["stocks", "options"]
    tab.until("parseInt(document.querySelector('#stream .rate').innerText) > 0")
    assert "data flows" in tab.text("#notes")
    assert "Strikes around" in tab.text("#strikes-title")
    assert tab.faults == []
    # Nothing comes from elsewhere.
    assert {url.split("/")[2] for url in tab.requested} == {f"127.0.0.1:{calm.port}"}


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_laptop_and_a_phone_light_and_dark(calm: Run, width: int, dark: bool) -> None:
    calm.look(width=width, dark=dark)
    calm.tab.until("document.querySelectorAll('#strikes tr').length >= 5")
    calm.tab.until("samples.length >= 4")
    assert calm.tab.value("document.documentElement.scrollWidth") <= width
    back = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"
    assert (calm.tab.value(f"parseInt({back})") < 100) == dark
    calm.picture(f"live-{width}-{'dark' if dark else 'light'}")


def test_it_does_not_flicker(calm: Run) -> None:
    calm.look()
    tab = calm.tab
    tab.until(FLOWS)
    tab.value("window.seen = [...document.querySelectorAll('#feeds li, #hops tr, #processes tr')]")
    before = tab.text("#stream .rate")
    tab.until(f"document.querySelector('#stream .rate').innerText !== '{before}'")
    assert tab.value("seen.length > 8 && seen.every((node) => node.isConnected)") is True


def test_plots_are_read_by_keyboard(calm: Run) -> None:
    calm.look()
    tab = calm.tab
    tab.until("samples.length >= 4")
    tab.value("document.querySelector('#rates').focus()")
    tab.press("ArrowLeft")
    tab.press("ArrowLeft")
    assert tab.value("pointers.get('rates').steps") == 2
    tab.press("ArrowRight")
    assert tab.value("pointers.get('rates').steps") == 1
    tab.value("document.querySelector('#rates').blur()")
    assert tab.value("pointers.size") == 0


def test_a_page_that_loses_the_run_says_so_and_finds_it_again(calm: Run) -> None:
    calm.look()
    metrics = named(calm.process.pid, "metrics")
    metrics.suspend()
    calm.tab.until(f"{VERDICT} === 'No word from the run'")
    metrics.resume()
    calm.tab.until(f"{VERDICT} === 'All is well'")


def test_a_vendor_that_was_never_there_and_one_that_comes(
    tmp_path: Path, tab: Tab, nats_server: NatsServer
) -> None:
    with simulated() as simulator:
        os.kill(simulator.pid, signal.SIGSTOP)
        with live(tmp_path, tab, nats_server, simulator) as run:
            run.until_told("Something is wrong", "stocks has no connection to its vendor", 503)
            run.picture("vendor-never-there")
            os.kill(simulator.pid, signal.SIGCONT)
            run.until_told("All is well", "no longer without a connection", 200)


def test_a_vendor_that_is_gone(disturbed: Disturbed) -> None:
    os.kill(disturbed.simulator.pid, signal.SIGKILL)
    run = disturbed.run
    told_s = run.until_told("Something is wrong", "no connection to its vendor", 503)
    run.picture("vendor-gone")
    assert told_s < RIGHT_WITHIN_S + SLACK_S


def test_a_server_that_is_frozen_and_one_that_is_gone(disturbed: Disturbed) -> None:
    run, server = disturbed.run, disturbed.server
    server.pause()
    told_s = run.until_told("Something is wrong", "nothing is stored for", 503)
    run.picture("server-frozen")
    server.resume()
    run.until_told("All is well", "is no longer stalled", 200)
    server.kill()
    gone_s = run.until_told("Something is wrong", "there is no connection to the NATS", 503)
    run.picture("server-gone")
    assert max(told_s, gone_s) < RIGHT_WITHIN_S + SLACK_S


@pytest.mark.slow
def test_a_feed_that_receives_more_than_is_stored(
    tmp_path: Path, tab: Tab, nats_server: NatsServer
) -> None:
    small = "[process]\nring_bytes = 1048576\n[polygon]\nbacklog_rows = 20000\n"
    with (
        SimulatorProcess("--rate", "8000", "--options-rate", "100") as simulator,
        live(tmp_path, tab, nats_server, simulator, small) as run,
    ):
        tab.until(FLOWS)
        nats_server.pause()
        run.until_told("Something is wrong", "stocks falls behind: ", 503)
        run.picture("overload")
        tab.until("document.querySelector('#feeds').innerText.includes(' dropped')")
        tab.until("document.querySelector('#feeds .bad .fill').className.includes('full')")
        run.picture("overload-dropped")
        nats_server.resume()
        run.until_told("All is well", "stocks is no longer behind", 200)
        run.picture("overload-over")


def test_a_feed_that_is_killed_is_history_soon_and_so_is_the_run(disturbed: Disturbed) -> None:
    run, tab = disturbed.run, disturbed.run.tab
    named(run.process.pid, "stocks").kill()
    tab.until("document.querySelector('#notes').innerText.includes('process stocks was killed')")
    tab.until("document.querySelector('#notes').innerText.includes('stocks gap')")
    tab.until("document.querySelector('#feeds').innerText.includes('1 restart')")
    run.until_told("All is well", "stocks gap", 200)
    run.picture("feed-restarted")
    run.process.send_signal(signal.SIGTERM)
    tab.until(f"{VERDICT} === 'The run has ended'")


def test_a_replay_shows_its_day_its_speed_and_a_hole_in_it(
    tmp_path: Path, tab: Tab, nats_server: NatsServer
) -> None:
    behind = depth(10, start_ns=DAY_NS + 7_200 * NS_PER_S)
    records = np.concatenate([depth(2_000, step_ns=5 * 10**7), behind])
    write_dbn(dbn_path(tmp_path / "data", "mbp-10"), records, schema="mbp-10")
    flags = ("--data-dir", str(tmp_path / "data"), "--feeds", "mbp10", "--nats", nats_server.url)
    module = "ingestor.replay_publisher"
    with running(tmp_path, tab, module, *flags, "--speed", "20") as run:
        run.look()
        tab.until("document.querySelector('#speed').innerText.includes('\u00d720 asked for')")
        tab.until("/\u00d7(19|20)/.test(document.querySelector('#speed').innerText.split(',')[1])")
        run.picture("replay")
        run.until_told("All is well", "a hole in the data: the next event", 200)
        run.picture("replay-hole")


@contextlib.contextmanager
def replaying(folder: Path, tab: Tab, server: NatsServer, *flags: str) -> Iterator[Run]:
    """Replay an hour and forty minutes of ten events a second."""
    write_dbn(dbn_path(folder / "data", "mbp-10"), depth(60_000, step_ns=10**8), schema="mbp-10")
    given = ("--data-dir", str(folder / "data"), "--feeds", "mbp10", "--nats", server.url)
    with running(folder, tab, "ingestor.replay_publisher", *given, *flags) as run:
        yield run


def address_of(run: Run) -> str:
    """The address that the run tells, with its token."""
    assert run.process.stderr is not None
    told = (re.search(r"status page are at (\S+)", line) for line in run.process.stderr)
    return next(found[1] for found in told if found)


def enter(tab: Tab, form: str, text: str) -> None:
    tab.value(f"$('{form}').elements.value.value = '{text}'; $('{form}').requestSubmit()")


def test_a_replay_is_paused_told_another_speed_stepped_and_resumed(
    tmp_path: Path, tab: Tab, nats_server: NatsServer
) -> None:
    with replaying(tmp_path, tab, nats_server, "--speed", "20") as run:
        run.look(address=address_of(run))
        tab.until("$('speed').innerText.includes('\u00d720 asked for')")
        assert tab.value("location.href") == f"http://127.0.0.1:{run.port}/"
        run.picture("replay-controls")
        began_s = time.monotonic()
        tab.value("$('pause').click()")
        tab.until(f"{VERDICT} === 'Paused, and all is well' && $('pause').innerText === 'Resume'")
        tab.until("$('findings').innerText.startsWith('the replay is paused at 2024-')")
        assert time.monotonic() - began_s < RIGHT_WITHIN_S
        assert fetch(run.port, "/healthz").text.startswith("ok\nthe replay is paused at 2024-")
        minute, second, tenth = re.findall(r":(\d\d):(\d\d)(?:\.(\d))?Z", tab.text("#answer"))[0]
        stands = (int(minute) * 60 + int(second)) * 10 + int(tenth or 0) + 1
        tab.until(f"state.publisher.published === {stands}")
        enter(tab, "to-speed", "40")
        tab.until("$('speed').innerText === 'paused; \u00d740 asked for'")
        tab.value("$('faster').click()")
        tab.until("$('speed').innerText === 'paused; \u00d780 asked for'")
        assert tab.value("state.publisher.published") == stands
        tab.value("document.querySelector('[data-steer=\"step 1\"]').click()")
        tab.until(f"state.publisher.published === {stands + 1}")
        assert "a step of 1 event" in tab.text("#answer")
        run.picture("replay-paused")
        tab.value("$('pause').click()")
        tab.until(f"{VERDICT} === 'All is well'")
        tab.until("/\u00d780 asked for, \u00d7(7[5-9]|8[0-5])/.test($('speed').innerText)")
        enter(tab, "to-speed", "fast")
        tab.until("$('answer').className.includes('bad')")
        enter(tab, "to-seek", "50%")
        tab.until("/^seeks to (about )?50%, 2024-01-02T00:/.test($('answer').innerText)")
        enter(tab, "to-seek", "2024-01-02T00:30:00Z")
        tab.until("$('answer').innerText.startsWith('seeks to 2024-01-02T00:30')")
        enter(tab, "to-loop", "2024-01-02T00:20:00Z 2024-01-02T00:25:00Z")
        tab.until("$('answer').innerText.startsWith('loops over 2024-01-02T00:20')")
        enter(tab, "to-loop", "off")
        tab.until("$('answer').innerText.startsWith('loops no more')")
        tab.value(
            "$('density').dispatchEvent(new MouseEvent('click',"
            " { clientX: $('density').getBoundingClientRect().left + 100, clientY: 1 }))"
        )
        tab.until("/seeks to 2024-01-02T00:(?!30)/.test($('answer').innerText)")
        enter(tab, "to-time", "+50m")
        tab.until("$('speed').innerText.includes(', until 1')")
        run.picture("replay-until")
        # What makes no sense was refused once. Asked now: after its end it looks for the run again.
        assert [fault for fault in tab.faults if "400" not in fault] == []
        tab.value("$('stop').click()")
        assert tab.text("#stop") == "Stop the run? Press again"
        tab.value("$('stop').click()")
        tab.until(f"{VERDICT} === 'The run has ended'")
        assert run.process.wait(timeout=20) == ExitCode.TERMINATED


def test_who_has_no_token_is_asked_for_it(
    tmp_path: Path, tab: Tab, nats_server: NatsServer
) -> None:
    with replaying(tmp_path, tab, nats_server, "--speed", "1", "--paused") as run:
        token = address_of(run).partition("=")[2]
        run.look(width=PHONE)
        tab.until("!$('token-box').hidden && $('steer').hidden")
        run.picture("replay-token-phone")
        enter(tab, "token-box", "wrong")
        tab.until("$('answer').innerText.includes('needs the token of this run')")
        assert tab.value("$('token-box').hidden") is False
        enter(tab, "token-box", token)
        tab.until("$('token-box').hidden && !$('steer').hidden")
        assert tab.text("#answer").startswith("paused, before the first event")
        assert tab.value("document.documentElement.scrollWidth") <= PHONE
        run.picture("replay-controls-phone")
        run.look(dark=True)
        tab.until("!$('steer').hidden")
        run.picture("replay-controls-dark")


def test_a_replay_that_offers_no_control_shows_none(
    tmp_path: Path, tab: Tab, nats_server: NatsServer
) -> None:
    with replaying(tmp_path, tab, nats_server, "--paused", "--no-control") as run:
        assert address_of(run) == f"http://127.0.0.1:{run.port}/"
        run.look()
        tab.until(f"{VERDICT} === 'Paused, and all is well'")
        assert tab.value("$('controls').hidden") is True
