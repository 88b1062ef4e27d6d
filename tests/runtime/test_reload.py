"""What SIGHUP changes in a live run, and what it refuses."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from ingestor.config.schema import Config, Log, Nats, Polygon, Strikes
from ingestor.model.errors import ConfigurationError
from ingestor.runtime import log as logs
from ingestor.runtime.live_run import check
from ingestor.runtime.reload import LiveSettings, Reload


def spy(**more: Any) -> Config:
    return Config(polygon=Polygon(symbols=("SPY",)), **more)


def reloaded(
    before: Config, after: Config | Exception, caplog: pytest.LogCaptureFixture
) -> tuple[LiveSettings, str]:
    """Reload once; return what feeds see, and what was told."""

    def read() -> Config:
        if isinstance(after, Exception):
            raise after
        return after

    settings = LiveSettings()
    caplog.clear()
    Reload(before, read, check, settings)()
    (record,) = caplog.records
    return settings, record.getMessage()


def test_symbols_and_strikes_are_shown_to_the_feeds(caplog: pytest.LogCaptureFixture) -> None:
    before = spy()
    after = Config(polygon=Polygon(symbols=("SPY", "QQQ")), strikes=Strikes(each_side=5))
    settings, told = reloaded(before, after, caplog)
    watch = settings.watch(before)
    assert watch.config.polygon.symbols == ("SPY", "QQQ")
    assert watch.config.strikes == Strikes(each_side=5)
    assert told == "SIGHUP: reloaded: polygon.symbols, strikes.each_side"


def test_each_change_is_seen_once_by_whoever_watches() -> None:
    settings = LiveSettings()
    watch = settings.watch(spy())
    assert not watch.changed()
    for symbols in (("QQQ",), ("*",)):
        settings.show(Config(polygon=Polygon(symbols=symbols)))
    assert watch.changed()
    assert watch.config.polygon.stocks == ("*",)
    assert not watch.changed()


def test_what_needs_a_restart_is_named_and_the_rest_is_heeded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    after = Config(nats=Nats(stream="OTHER", password="s3cret-word"), strikes=Strikes(each_side=4))
    settings, told = reloaded(Config(), after, caplog)
    assert settings.watch(Config()).config == Config(strikes=Strikes(each_side=4))
    assert told == (
        "SIGHUP: reloaded: strikes.each_side; not without a restart: nats.password, nats.stream"
    )


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (ConfigurationError("configuration file x is not TOML"), "is not TOML"),
        (Config(strikes=Strikes(recentre=100.0)), "recentre = 100.0 is more than"),
        (Config(polygon=Polygon(symbols=("QQQ",))), "'SPY' is not allowed"),
        (
            Config(polygon=Polygon(symbols=("QQQ",)), strikes=Strikes(underlying="QQQ")),
            "strikes.underlying cannot change without a restart",
        ),
    ],
)
def test_what_is_wrong_is_refused_as_a_whole(
    after: Config | Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings, told = reloaded(spy(), after, caplog)
    assert told.startswith("SIGHUP: nothing is reloaded, the run goes on as it was: ")
    assert reason in told
    assert settings.generation == 0


def test_a_file_that_says_what_it_said_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    settings, told = reloaded(spy(), spy(), caplog)
    assert (settings.generation, told) == (0, "SIGHUP: nothing has changed")


def test_a_second_reload_is_compared_with_the_first(caplog: pytest.LogCaptureFixture) -> None:
    wide, wanted = spy(strikes=Strikes(each_side=9)), [spy(strikes=Strikes(each_side=9)), spy()]
    reload = Reload(spy(), lambda: wanted.pop(0), check, settings := LiveSettings())
    reload()
    assert settings.watch(spy()).config == wide
    reload()
    assert settings.watch(wide).config == spy()


def test_the_level_of_the_log_changes_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(logs, "set_level", told.append)
    Reload(spy(), lambda: spy(log=Log(level="DEBUG")), check, settings := LiveSettings())()
    assert (told, settings.generation) == (["DEBUG"], 0)


def test_as_many_symbols_as_the_configuration_takes_can_be_shown() -> None:
    symbols = [f"Z{number:05}.LONGESTON"[:16] for number in range(20_000)]
    polygon = msgspec.convert({"symbols": symbols}, Polygon)
    settings = LiveSettings()
    settings.show(Config(polygon=polygon))
    assert settings.watch(Config()).config.polygon == polygon


def test_a_level_that_is_set_is_heeded_by_the_next_line_of_a_process_and_by_those_to_come(
    capfd: pytest.CaptureFixture[str],
) -> None:
    try:
        logs.configure("one", "INFO")
        logs.set_level("ERROR")
        logs.configure("other", "INFO")
        logging.getLogger("x").warning("not told")
        logging.getLogger("x").error("told")
    finally:
        logs.set_level("NOTSET")
    assert [line.split(": ", 1)[1] for line in capfd.readouterr().err.splitlines()] == ["told"]
