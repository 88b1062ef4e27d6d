"""``/healthz`` and page of live runs whose vendor falls silent, and whose disk is full.

The other states of a run are looked at in a browser (`tests.test_page_in_browser`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ingestor.feeds.polygon.hours import MarketHours
from ingestor.model.units import now_ns
from ingestor.runtime.health import STOCKS_REGULAR
from tests import live_cli
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.runtime.http import Got, events, fetch, fetch_when_up

pytestmark = pytest.mark.slow

PATIENCE_S: Final = 30.0
ROOM: Final = "256k"


@contextlib.contextmanager
def live(
    folder: Path, server: NatsServer, *flags: str, by: tuple[str, ...] = (), vendor: tuple[str, ...]
) -> Iterator[int]:
    """Run the stocks feed of a simulator; yield the port of its page."""
    port = free_port()
    (folder / "live.toml").write_text(
        f'[metrics]\nlisten = "127.0.0.1:{port}"\n[polygon]\nfeeds = ["stocks"]\n'
    )
    with live_cli.simulator(*vendor) as running:
        process = live_cli.start(
            "--config", "live.toml", "--nats", server.url, *flags, cwd=folder,
            env=live_cli.feeds_of(running), by=by,
        )  # fmt: skip
        try:
            fetch_when_up(port, "/healthz")
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)


def until_told(port: int, words: str) -> Got:
    deadline = time.monotonic() + PATIENCE_S
    while words not in (got := fetch(port, "/healthz")).text:
        assert time.monotonic() < deadline, got.text
        time.sleep(0.02)
    return got


def findings_of_page(port: int) -> list[dict[str, Any]]:
    """What the page shows, which looks at the run a few times a second."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found: list[dict[str, Any]] = next(events(port))["state"]["findings"]
        if found:
            return found
        assert time.monotonic() < deadline


def test_a_vendor_that_falls_silent_is_judged_by_the_hours_of_its_market(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with live(tmp_path, nats_server, vendor=("--count", "500", "--rate", "500")) as port:
        is_open = MarketHours(STOCKS_REGULAR).open_since_ns(now_ns()) is not None
        # At night, and at the weekend, nobody is to be woken.
        words = "though its market is open" if is_open else "stocks: the market is closed; nothing"
        got = until_told(port, words)
        assert (got.code, got.text.startswith("ok")) == ((503, False) if is_open else (200, True))
        [finding] = findings_of_page(port)
        assert words in finding["text"]
        assert finding["bad"] is is_open


@pytest.mark.skipif(os.getuid() != 0, reason="only root may make a small disk")
def test_a_journal_whose_disk_is_full(tmp_path: Path, nats_server: NatsServer) -> None:
    small = f'mount -t tmpfs -o size={ROOM} tmpfs journal && exec "$@"'
    by = ("unshare", "--mount", "bash", "-c", small, "bash")
    if subprocess.run([*by[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    (tmp_path / "journal").mkdir()
    flags = ("--record", "journal")
    with live(tmp_path, nats_server, *flags, by=by, vendor=("--rate", "5000")) as port:
        got = until_told(port, "the journal of stocks is not written: No space left on device")
        assert got.code == 503
        assert got.text.startswith("not recorded: stocks for ")
        [finding] = [one for one in findings_of_page(port) if one["bad"]]
        assert "No space left on device" in finding["text"]
