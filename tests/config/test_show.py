from __future__ import annotations

from ingestor.config.load import Setting, defaults, load
from ingestor.config.schema import LIVE_ONLY, REPLAY_ONLY
from ingestor.config.show import show


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
                    "nats.url": Setting("nats://me:pw123@host:4222", "environment NATS_URL"),
                }
            ]
        )
    )
    assert "hunter2" not in text
    assert "s3cret" not in text
    assert "pw123" not in text
    assert "k3y" not in text
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
