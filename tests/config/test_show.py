from __future__ import annotations

import pytest

from ingestor.config.load import Setting, defaults, load, show
from ingestor.config.schema import LIVE_ONLY, REPLAY_ONLY


def test_every_key_is_shown_with_its_value_and_origin() -> None:
    lines = show(load([{"replay.speed": Setting("2", "flag --speed")}])).splitlines()
    assert [line.split(" = ")[0] for line in lines] == list(defaults())
    speed = next(line for line in lines if line.startswith("replay.speed"))
    assert speed.split("#") == ["replay.speed = 2.0".ljust(speed.index("#")), " flag --speed"]
    assert next(line for line in lines if line.startswith("nats.url")).startswith(
        "nats.url = (unset)"
    )


def test_secrets_are_never_shown() -> None:
    text = show(
        load(
            [
                {
                    "nats.password": Setting("hunter2", "file x"),
                    "nats.token": Setting("s3cret", "file x"),
                    "polygon.api_key": Setting("k3y", "environment POLYGON_API_KEY"),
                    "polygon.standby_api_key": Setting("0ther", "file x"),
                    "nats.url": Setting("nats://me:pw123@host:4222", "environment NATS_URL"),
                }
            ]
        )
    )
    assert "hunter2" not in text
    assert "s3cret" not in text
    assert "pw123" not in text
    assert "k3y" not in text
    assert "0ther" not in text
    assert "host:4222" in text


def test_each_program_leaves_out_what_only_the_other_heeds() -> None:
    shown = {
        only: {line.split(" = ")[0] for line in show(load([]), leave_out=only).splitlines()}
        for only in (REPLAY_ONLY, LIVE_ONLY)
    }
    live, replay = shown[REPLAY_ONLY], shown[LIVE_ONLY]
    assert live | replay == set(defaults())
    assert {"polygon.feeds", "strikes.step", "record.dir"} <= live - replay
    assert {"replay.speed", "process.trades_cpus"} <= replay - live
    assert {"nats.url", "process.stocks_cpus"} <= live & replay


@pytest.mark.parametrize(
    "url",
    [
        "nats://a:hunter2@one,nats://b:hunter2@two:4333",
        "nats://hunter2@one,tls://two:4333",
        "a:hunter2@one,two:4333",
        "nats://a:hun/ter2@one, nats://b:x#hunter2@two:4333",
        "nats://a:hunter2@x@one,two:4333",
        "nats://a:hunter2",
        "nats://a:1,hunter2@two:4333",
        ("nats://a:hunter2@one", "nats://b:hunter2,x@two:4333"),
    ],
)
def test_the_secret_of_every_url_is_hidden(url: str | tuple[str, ...]) -> None:
    text = show(load([{"nats.url": Setting(url, "environment NATS_URL")}]))
    assert "hunter2" not in text
    assert "hun/ter2" not in text
    assert "two:4333" in text or url == "nats://a:hunter2"
