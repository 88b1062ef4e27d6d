"""Addresses where no feed is: told with the cause, tried again, never given up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestor.feeds.polygon.socket import Endpoint, SocketLimits
from ingestor.model.errors import ConfigurationError
from ingestor.model.feed_status import What
from tests.feeds.polygon.rig import Rig, Scenario, drive
from tests.ports import free_port
from tests.publish.certificates import make_certificates
from tests.sim.polygon.conftest import Start


def until_told(caplog: pytest.LogCaptureFixture) -> Scenario:
    """A scenario that ends soon after the first attempt has failed."""

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: failures(caplog))
        beats = len(rig.sink.beats)
        await rig.until(lambda: len(rig.sink.beats) > beats + 2)

    return scenario


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "cannot connect" in text]


ADDRESSES: dict[str, Callable[[str], str]] = {
    "HTTP 404": lambda url: url.replace("/stocks", "/nowhere"),
    "TLS handshake": lambda url: url.replace("ws://", "wss://"),
    "refused": lambda _: f"ws://127.0.0.1:{free_port()}/stocks",
    "no.such.host.invalid:80/stocks: ": lambda _: "ws://no.such.host.invalid/stocks",
}


@pytest.mark.parametrize("cause", ADDRESSES)
def test_a_wrong_address_is_told_with_its_cause_and_tried_again(
    start: Start, caplog: pytest.LogCaptureFixture, cause: str
) -> None:
    simulator = start()
    url = ADDRESSES[cause](simulator.stocks_url)
    sink = drive(simulator, until_told(caplog), url=url)
    (line,) = failures(caplog)
    assert cause in line
    assert sink.counts.frames == 0


def test_a_server_that_appears_later_is_found(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: failures(caplog))
        start("--port", str(port))
        await rig.until_rows(10)

    drive(start(), scenario, url=f"ws://127.0.0.1:{port}/stocks")
    assert any("failed attempts before" in text for text in caplog.messages)


@pytest.mark.parametrize("url", ["https://socket.massive.com/stocks", "stocks", "ws://:80x/"])
def test_what_is_no_address_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not the address of a WebSocket"):
        Endpoint(url, SocketLimits())


def test_a_feed_streams_over_tls(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_certificates(tmp_path)
    simulator = start("--tls-cert", str(files.server), "--tls-key", str(key_of(files.server)))
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))

    async def scenario(rig: Rig) -> None:
        await rig.until_rows(200)
        rig.control("drop")
        await rig.until_told(What.GAP)

    sink = drive(simulator, scenario)
    assert simulator.stocks_url.startswith("wss://")
    assert sink.counts.reconnects == 1


def test_a_server_that_nobody_vouches_for_is_not_talked_to(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = make_certificates(tmp_path)
    simulator = start("--tls-cert", str(files.server), "--tls-key", str(key_of(files.server)))
    drive(simulator, until_told(caplog))
    (line,) = failures(caplog)
    assert "certificate verify failed" in line
    assert simulator.control("stats")["stocks"]["opened"] == 0


def key_of(certificate: Path) -> Path:
    return certificate.with_suffix(".key")
