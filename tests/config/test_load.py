from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from ingestor.config.load import (
    MAX_CONFIG_BYTES,
    Setting,
    defaults,
    environment_layer,
    file_layer,
    load,
)
from ingestor.config.schema import Config
from ingestor.errors import ConfigurationError


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "replay.toml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults() -> None:
    assert load([]).config == Config()
    assert load([]).origins == {}


def test_a_flag_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    from_file = file_layer(file(tmp_path, "[replay]\nspeed = 4\ndata_dir = 'a'\nstart = '09:30'\n"))
    environment = environment_layer(
        {"S": "3", "D": "b"}, {"S": "replay.speed", "D": "replay.data_dir"}
    )
    flags = {"replay.speed": Setting("2", "flag --speed")}
    loaded = load([from_file, environment, flags])
    assert loaded.config.replay.speed == 2
    assert loaded.config.replay.data_dir == Path("b")
    assert loaded.config.replay.start == "09:30"
    assert loaded.origins == {
        "replay.speed": "flag --speed",
        "replay.data_dir": "environment D",
        "replay.start": f"file {tmp_path / 'replay.toml'}",
    }


def test_an_empty_variable_counts_as_unset() -> None:
    assert environment_layer({"S": ""}, {"S": "replay.speed"}) == {}


def test_a_variable_that_is_a_list_is_split_at_commas() -> None:
    layer = environment_layer({"D": "2025-12-16,2025-12-17"}, {"D": "replay.dates"})
    assert load([layer]).config.replay.dates == (dt.date(2025, 12, 16), dt.date(2025, 12, 17))


def test_toml_dates_and_lists_of_tables_are_understood(tmp_path: Path) -> None:
    text = "[replay]\ndates = [2025-12-16]\n[[nats.consumers]]\nname = 'lake'\n"
    config = load([file_layer(file(tmp_path, text))]).config
    assert config.replay.dates == (dt.date(2025, 12, 16),)
    assert config.nats.consumers[0].filter_subject == "market.>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[replay]\nsped = 1", "no setting replay.sped (file {}); did you mean replay.speed?"),
        ("[reply]\nspeed = 1", "there is no setting reply (file {}); did you mean replay?"),
        ("[replay]\nspeed = 'fast'", "'fast' (file {}) is not allowed: expected float, got str"),
        ("[replay]\nspeed = -1", "replay.speed = -1 (file {}) is not allowed: expected float >= 0"),
        ("[publish]\nencoding = 'xml'", "encoding = 'xml' (file {}) is not allowed: "),
        ("[publish]\nencoding = 'xml'", "; allowed: json, packed"),
        ("[replay]\nstart = '9:30'", "; allowed: HH:MM, 00:00 to 23:59"),
        ("replay = 3", "replay in file {} must be a table: write [replay]"),
        ("[replay]\nfeeds = ['trades', 'mbo']", "at [1]; allowed: mbp10, options, stocks, trades"),
        ("[[nats.consumers]]\nnam = 'x'", "unknown field nam"),
        ("[replay]\nspeed = nan", "replay.speed = nan (file {}) is not allowed"),
        ("[polygon]\nsymbol = 'SPY'", "; did you mean polygon.symbols?"),
        ("[polygon]\napi_key = 'a b'", "api_key = (hidden) (file {}) is not allowed: it has"),
        ("[polygon]\napi_key = 5", "api_key = (hidden) (file {}) is not allowed: expected str"),
        ("[polygon]\nstocks_url = 'https://h/'", "; allowed: ws://host:port/path or wss://host:"),
        ("[polygon]\nstocks_url = 'wss://me:pw@h/'", "it has another form"),
        ("[polygon]\nfeeds = ['bonds']", "at [0]; allowed: options, stocks"),
        ("[polygon]\nfeeds = []", "polygon.feeds = [] (file {}) is not allowed"),
        ("[polygon]\nsymbols = ['spy']", "; allowed: a ticker such as SPY"),
        ("[polygon]\nbacklog_rows = 5", " = 5 (file {}) is not allowed: expected int >= 1024"),
        ("[strikes]\neach_side = -1", "each_side = -1 (file {}) is not allowed: expected int >= 0"),
        ("[strikes]\nmax_contracts = 1001", "is not allowed: expected int <= 1000"),
        ("[live]\nstop_after_s = 0", "live.stop_after_s = 0 (file {}) is not allowed"),
        ("[replay]\nspeed = inf", "replay.speed = inf (file {}) is not allowed"),
    ],
)  # fmt: skip
def test_a_wrong_file_names_key_value_origin_and_what_is_allowed(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = file(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load([file_layer(path)])
    assert expected.format(path) in str(caught.value)


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.toml cannot be read: No such file"):
        file_layer(tmp_path / "missing.toml")
    with pytest.raises(ConfigurationError, match=r"replay\.toml is not TOML"):
        file_layer(file(tmp_path, "speed: 1"))
    with pytest.raises(ConfigurationError, match="larger than"):
        file_layer(file(tmp_path, "#" * (MAX_CONFIG_BYTES + 1)))


def test_every_setting_has_a_default_of_its_own_type() -> None:
    known = {key: Setting(value, "test") for key, value in defaults().items() if value is not None}
    assert load([known]).config == Config()
