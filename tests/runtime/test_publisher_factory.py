"""What is wrong with the way to the server is said before any process is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestor.config.schema import Consumer, Nats
from ingestor.model.errors import ConfigurationError, ExitCode
from ingestor.runtime import run_keeper
from ingestor.runtime.publisher_factory import checked_options
from tests.dbn_files import dbn_path, trades, write_dbn
from tests.nats.test_stream import request
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.replay_cli import replay

LOST = Nats(consumers=(Consumer(name="core", filter_subject="markt.>"),))


@pytest.mark.parametrize("stream", [None, {"subjects": ["market.>", "orders.>"]}])
def test_a_consumer_that_no_message_can_reach_is_refused(
    nats_server: NatsServer, stream: dict[str, object] | None
) -> None:
    if stream is not None:
        request(nats_server, "STREAM.CREATE.MARKET_DATA", name="MARKET_DATA", **stream)
    with pytest.raises(ConfigurationError, match=r"'markt\.>' of 'core' is not allowed.* none of"):
        checked_options(LOST, nats_server.url)


@pytest.mark.parametrize(
    "stream",
    [
        {"subjects": ["market.>", "markt.futures"]},
        {"subjects": ["market.>"], "subject_transform": {"src": "market.>", "dest": "markt.>"}},
    ],
    ids=["subject", "transform"],
)
def test_a_stream_that_is_there_says_what_a_consumer_can_get(
    nats_server: NatsServer, stream: dict[str, object]
) -> None:
    request(nats_server, "STREAM.CREATE.MARKET_DATA", name="MARKET_DATA", **stream)
    assert checked_options(LOST, nats_server.url).url == nats_server.url


def test_a_server_that_is_away_is_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_keeper, "OPEN_TIMEOUT_S", 0.5)
    url = f"nats://127.0.0.1:{free_port()}"
    assert checked_options(LOST, url).url == url


def test_nothing_is_started_for_such_a_consumer(nats_server: NatsServer, tmp_path: Path) -> None:
    write_dbn(dbn_path(tmp_path, "trades"), trades(1), schema="trades")
    config = tmp_path / "replay.toml"
    config.write_text("[[nats.consumers]]\nname = 'core'\nfilter_subject = 'markt.>'\n")
    to = ("--data-dir", str(tmp_path), "--nats", nats_server.url, "--feeds", "trades")
    finished = replay("--config", str(config), *to, cwd=tmp_path)
    assert finished.exit_code == ExitCode.CONFIGURATION
    (told,) = finished.err.splitlines()
    assert "filter_subject = 'markt.>' of 'core' is not allowed" in told
    assert finished.out == ""
