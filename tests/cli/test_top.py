"""``ingestor top`` looks at runs that run."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
from rich.console import Console

from ingestor.cli.run_figures import Scrape
from ingestor.cli.top import COLUMNS, MAX_BYTES, SPARE, MetricsUrl, Shown, main
from ingestor.model.errors import BadDataError, ConfigurationError
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter
from ingestor.runtime.latency import Hop
from ingestor.runtime.run_view import exposition
from tests.dbn_files import dbn_path, depth, write_dbn
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.replay_cli import finish, start
from tests.runtime.http import fetch_when_up
from tests.runtime.views import NOW_NS, Looked, looked

ROOT = Path(__file__).resolve().parents[2]
EVENT_NS = 1_765_895_400 * NS_PER_S
PATIENCE_S = 20.0


def scraped(run: Looked, at_s: float) -> Scrape:
    return Scrape(exposition(run.view, None, NOW_NS), at_s)


def drawn(shown: Shown, columns: int) -> list[str]:
    console = Console(width=columns, color_system=None)
    with console.capture() as captured:
        console.print(shown.picture())
    return [line.rstrip() for line in captured.get().splitlines()]


def shown_of(run: Looked, health: str = "ok\n") -> Shown:
    run.row("stocks")[Counter.RECORDS] = 1_000
    run.row("options")[Counter.RECORDS] = 90
    before = scraped(run, 0.0)
    run.row("stocks")[Counter.RECORDS] = 3_000
    run.row("options")[Counter.RECORDS] = 95
    run.table.note_stored({"market.stocks.trades": 1_234})
    return Shown(before, scraped(run, 2.0), EVENT_NS, health)


@contextmanager
def replaying(folder: Path, server: NatsServer) -> Iterator[int]:
    """A replay of a minute that shows its metrics; yields the port."""
    data, port = folder / "data", free_port()
    write_dbn(dbn_path(data, "mbp-10"), depth(6_000, step_ns=10**7), schema="mbp-10")
    (folder / "metrics.toml").write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n')
    flags = ["--data-dir", str(data), "--feeds", "mbp10", "--nats", server.url, "--speed", "1"]
    process = start(*flags, "--config", str(folder / "metrics.toml"), cwd=folder)
    try:
        fetch_when_up(port, "/metrics")
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        finish(process)


def top(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "ingestor", "top", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("columns", [40, 60, 80, 160])
def test_the_picture_tells_what_runs_how_fast_and_that_all_is_well(columns: int) -> None:
    run = looked()
    recorder = run.table.latencies.recorder(2, Hop.PUBLISH_TO_STORED)
    recorder.add(20_000_000, 10)
    recorder.flush()
    lines = drawn(shown_of(run), columns)
    told = "live  MARKET_DATA at nats://127.0.0.1:4222, since 2025-12-16T14:30"
    assert " ".join(lines).startswith(told)
    assert "all is well" in lines
    (stocks,) = [line.split() for line in lines if line.startswith("stocks")]
    assert stocks[:3] == ["stocks", "connected", "1,000"]
    (titles,) = [line.split() for line in lines if line.startswith("process")]
    shown = [name for name in COLUMNS if name in titles]
    assert titles == shown
    if columns >= 80:
        assert shown == [*COLUMNS]
    else:
        assert {*COLUMNS} - {*shown} == {*SPARE[: len(COLUMNS) - len(shown)]} != set()
    assert [line for line in lines if line.startswith("publish to stored ")]
    assert [line.split() for line in lines if line.startswith("market.stocks.trades")] == [
        ["market.stocks.trades", "1,234", "617"]
    ]
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if "\N{HORIZONTAL ELLIPSIS}" in line]


def test_what_is_wrong_is_told_instead() -> None:
    health = "silent: publisher for 3.0 s\nprocess publisher has given no sign of life for 3.0 s\n"
    lines = drawn(shown_of(looked(), health), 120)
    assert "all is well" not in lines
    assert "silent: publisher for 3.0 s" in lines


def test_processes_are_sorted_by_a_column_and_turned() -> None:
    shown = shown_of(looked())

    def names() -> list[str]:
        told = ("stocks", "options", "publisher")
        return [name for line in drawn(shown, 120) if (name := line.partition(" ")[0]) in told]

    assert names() == ["stocks", "options", "publisher"]
    shown.turned = True
    assert names() == ["publisher", "options", "stocks"]
    shown.order = "events"
    assert names()[-2:] == ["options", "stocks"]
    shown.turned = False
    assert names()[:2] == ["stocks", "options"]


def test_one_picture_of_a_run_is_printed(tmp_path: Path, nats_server: NatsServer) -> None:
    with replaying(tmp_path, nats_server) as port:
        told = top("--once", "--url", f"127.0.0.1:{port}", "--interval", "0.5", "--sort", "memory")
    assert (told.returncode, told.stderr) == (0, "")
    assert re.search(r"^replay  MARKET_DATA at 127.0.0.1:", told.stdout)
    assert re.search(r"^x1(\.\d+)?, \d+% done$|^x0\.\d+, \d+% done$", told.stdout, re.M)
    assert re.search(r"^mbp10 +runs|^mbp10 +ended", told.stdout, re.M)
    assert re.search(r"^publisher +connected +\d+ ", told.stdout, re.M)
    assert re.search(r"^market.futures.mbp10 +[\d,]+ +\d+$", told.stdout, re.M)
    assert re.search(r"^publish to stored +[\d,.]+ [mu]s ", told.stdout, re.M)


def test_a_run_is_looked_at_through_its_nats_server(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with replaying(tmp_path, nats_server):
        told = top("--once", "--nats", nats_server.url, "--interval", "0.2")
        other = top("--once", "--nats", nats_server.url, "--run", "another")
    assert (told.returncode, told.stderr) == (0, "")
    assert re.search(r"^replay  MARKET_DATA at 127.0.0.1:", told.stdout)
    assert re.search(r"^mbp10 +runs|^mbp10 +ended", told.stdout, re.M)
    assert (other.returncode, other.stdout) == (3, "")
    assert "there is no run another at" in other.stderr


class Watched:
    """The program on a terminal of its own, and all that it has shown."""

    def __init__(self, *words: str, program: str = "top") -> None:
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.chdir(ROOT)
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [sys.executable, "-m", "ingestor", program, *words])
        ioctl(self._terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.shown = ""

    def press(self, key: str) -> None:
        """Press a key, and forget what was shown before."""
        self.shown = ""
        os.write(self._terminal, key.encode())

    def until(self, pattern: str) -> None:
        """Read until a pattern is shown."""
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, self.shown
            if select.select([self._terminal], [], [], 0.1)[0]:
                self.shown += os.read(self._terminal, 65_536).decode(errors="replace")

    def ended(self) -> int:
        """Wait for the end; return the exit code."""
        try:
            while os.read(self._terminal, 65_536):
                pass
        except OSError:
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._terminal)
        return code


def test_keys_sort_pause_and_leave(tmp_path: Path, nats_server: NatsServer) -> None:
    with replaying(tmp_path, nats_server) as port:
        screen = Watched("--url", f"http://127.0.0.1:{port}", "--interval", "0.2")
        screen.until("all is well")
        screen.press("s")
        screen.until("events/s v")
        screen.press("r")
        screen.until(r"events/s \^")
        screen.press(" ")
        screen.until("paused")
        screen.press("q")
        assert screen.ended() == 0


def test_a_run_that_has_ended_is_told_and_its_last_figures_stay(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with replaying(tmp_path, nats_server) as port:
        screen = Watched("--url", f"http://127.0.0.1:{port}", "--interval", "0.2")
        screen.until("all is well")
    screen.press("x")
    screen.until("(?s)no run shows its metrics at .*market.futures.mbp10")
    os.kill(screen.pid, signal.SIGINT)
    assert screen.ended() == 130


def test_nobody_there_is_told_with_what_turns_it_on() -> None:
    told = top("--once", "--url", f"http://127.0.0.1:{free_port()}")
    assert (told.returncode, told.stdout) == (3, "")
    assert "Connection refused; metrics.listen in the configuration" in told.stderr


def test_a_server_without_runs_is_told(
    nats_server: NatsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--once", "--nats", nats_server.url]) == 3
    assert "no run shows its metrics at" in capfd.readouterr().err


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:x", "https://127.0.0.1:1"])
def test_an_address_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--url"):
        MetricsUrl(url)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "these are no"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"# x\n" * (MAX_BYTES // 4 + 1), "is longer than 4,194,304"),
    ],
)
def test_what_is_no_run_is_refused_within_bounds(answer: bytes, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                try:
                    connection.sendall(answer)
                except OSError:
                    return

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(BadDataError, match=told):
            MetricsUrl(f"127.0.0.1:{port}").look()
        server.join()


def test_the_command_ends_with_the_code_of_what_went_wrong(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["--once", "--url", "ftp://x"]) == 2
    assert "is not like http://127.0.0.1:9464" in capfd.readouterr().err
