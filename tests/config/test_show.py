from __future__ import annotations

from ingestor.config.load import Setting, defaults, load
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
                    "nats.url": Setting("nats://me:pw123@host:4222", "environment NATS_URL"),
                }
            ]
        )
    )
    assert "hunter2" not in text
    assert "s3cret" not in text
    assert "pw123" not in text
    assert "host:4222" in text
