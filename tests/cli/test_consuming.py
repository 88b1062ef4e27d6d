from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ingestor.cli import consuming
from ingestor.cli.parser import Parser
from ingestor.client import DEFAULT_URL, From, Since
from ingestor.model.errors import ConfigurationError, ExitCode, NatsUnreachableError

NOW_NS = 1_765_895_400_000_000_000


@pytest.mark.parametrize(
    ("text", "ago_s"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("0s", 0)]
)
def test_a_span_is_counted_back_from_now(text: str, ago_s: int) -> None:
    assert consuming.since_ns(text, NOW_NS) == NOW_NS - ago_s * 10**9


@pytest.mark.parametrize(
    "text",
    [
        "2025-12-16T14:30",
        "2025-12-16T14:30Z",
        "2025-12-16 14:30:00",
        "2025-12-16T14:30:00.000+00:00",
        "2025-12-16T09:30-05:00",
    ],
)
def test_a_time_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert consuming.since_ns(text, 0) == NOW_NS


@pytest.mark.parametrize(
    "text", ["", "yesterday", "10", "10x", "-5m", "2025-13-01", "2999-01-01", "14:30"]
)
def test_a_time_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--since is"):
        consuming.since_ns(text, NOW_NS)


def test_without_a_time_everything_is_meant() -> None:
    assert consuming.start_of(None, False, NOW_NS) is From.BEGINNING
    assert consuming.start_of(None, True, NOW_NS) is From.NEW
    assert consuming.start_of("1s", False, NOW_NS) == Since(NOW_NS - 10**9)


def test_the_server_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:1")
    parser = Parser("tool", "about", "more")
    consuming.add_where(parser)
    assert parser.parse_args([]).nats == "nats://elsewhere:1"
    assert parser.parse_args(["--nats", "nats://here"]).nats == "nats://here"


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "1e300", "x"])
def test_seconds_are_finite_and_above_zero(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (argparse makes the sentence)
        consuming.seconds(text)
    assert consuming.seconds("2.5") == 2.5


@pytest.mark.parametrize("text", ["0", "-1", "x"])
def test_a_count_is_a_number_above_zero(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("tool", "about", "more")
    parser.add_argument("--count", type=consuming.positive)
    assert parser.parse_args(["--count", "7"]).count == 7
    with pytest.raises(SystemExit) as ending:
        parser.parse_args([f"--count={text}"])
    assert ending.value.code == ExitCode.CONFIGURATION
    assert "--count" in capsys.readouterr().err


def test_an_error_becomes_a_sentence_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    async def failing() -> int:
        raise NatsUnreachableError("nobody there")

    assert consuming.run("tool", failing()) == ExitCode.NATS_UNREACHABLE
    assert capsys.readouterr().err == "tool: nobody there\n"


def test_what_is_cancelled_ends_as_interrupted() -> None:
    async def cancelled() -> int:
        raise asyncio.CancelledError

    assert consuming.run("tool", cancelled()) == ExitCode.INTERRUPTED


def test_the_way_in_may_stand_in_a_file_and_the_url_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NATS_URL", raising=False)
    path = tmp_path / "live.toml"
    path.write_text("[nats]\nurl = ['nats://a', 'nats://b']\nuser = 'u'\npassword = 's3cret'\n")
    parser = Parser("tool", "about", "more")
    consuming.add_where(parser)

    of_file = consuming.way_in(parser.parse_args(["--config", str(path)]))
    both = consuming.way_in(parser.parse_args(["--config", str(path), "--nats", "c"]))

    assert (of_file["url"], of_file["user"]) == (("nats://a", "nats://b"), "u")
    assert (both["url"], both["password"]) == ("c", "s3cret")
    assert consuming.way_in(parser.parse_args([]))["url"] == DEFAULT_URL


def test_the_help_shows_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://jo:s3cret@elsewhere:1")
    parser = Parser("tool", "about", "more")
    consuming.add_where(parser)
    assert "s3cret" not in parser.format_help()
