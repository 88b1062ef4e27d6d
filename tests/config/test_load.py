from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.config.load import (
    MAX_CONFIG_BYTES,
    Setting,
    cautions,
    defaults,
    environment_layer,
    file_layer,
    layers_of,
    load,
    secret_file_cautions,
    secret_files_layer,
)
from ingestor.config.schema import Config
from ingestor.model.errors import ConfigurationError
from ingestor.model.replay_control import MIN_SPEED


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
        ("[polygon]\nsymbols = ['spy']", "; allowed: * or a ticker such as SPY"),
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


TOO_MUCH = [
    pytest.param("a = " + "[" * 50_000, "nested too deeply", id="arrays"),
    pytest.param("a = " + "{b = " * 5_000, "nested too deeply", id="tables"),
    pytest.param("a = " + "9" * 5_000, "a number has more than 4300 digits", id="digits"),
    pytest.param("[nats]\nreplicas = 0x" + "f" * 9_000, "thousands of digits", id="hexadecimals"),
    pytest.param("a" + ".a" * 50_000 + " = 1", "more than 16 dots", id="a dotted key"),
    pytest.param("[a" + ".a" * 50_000 + "]", "more than 16 dots", id="a dotted table"),
    pytest.param('"\\' * 60_000, "is not TOML", id="texts without end"),
    pytest.param("[replay]\nspeed = 1e400", "out of range", id="a number too large"),
    pytest.param("x" * 100_000 + " = 1", "no setting xxx", id="a long key"),
    pytest.param("[replay]\n" + "x" * 100_000 + " = 1", "no setting replay.xxx", id="a long name"),
]


@pytest.mark.parametrize(("text", "sentence"), TOO_MUCH)
def test_a_file_that_would_take_all_memory_or_time_is_refused_in_a_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as raised:
        load([file_layer(file(tmp_path, text))])
    assert len(str(raised.value)) < 700


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, "\ufeff[replay]\nspeed = 2\n")
    assert load([file_layer(path)]).config.replay.speed == 2


def test_what_is_no_text_or_no_regular_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"[replay]\nspeed = \xff\n")
    with pytest.raises(ConfigurationError, match="byte 17 is not UTF-8"):
        file_layer(path)
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        file_layer(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigurationError, match="no regular file"):
        file_layer(pipe)
    with path.open("wb") as sparse:
        sparse.truncate(2**30)
    with pytest.raises(ConfigurationError, match=f"larger than {MAX_CONFIG_BYTES} bytes"):
        file_layer(path)


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from([*"[]{}=\"'\n.#,", "nats", "url", "speed", "[replay]"])
        | st.text(max_size=8)
        | st.integers().map(str)
        | st.floats().map(str)
    ).map("".join)
)
def test_any_text_is_a_configuration_or_a_mistake_in_it(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="replace") as written:
        written.write(text)
        written.flush()
        with contextlib.suppress(ConfigurationError):
            load([file_layer(Path(written.name))])


NUMBERS = [
    key for key, value in defaults().items() if isinstance(value, float) or key.endswith("_s")
]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "-1"])
def test_a_time_or_speed_that_makes_no_sense_is_refused_whatever_sets_it(
    key: str, value: str
) -> None:
    for setting in (Setting(value, "flag"), Setting(float(value), "file x", typed=True)):
        with pytest.raises(ConfigurationError, match=f"{re.escape(key)} = .* is not allowed"):
            load([{key: setting}])


@pytest.mark.parametrize("listen", ["h:0", "h:65536", "h:99999", "h:-1", "h:", "h"])
def test_a_port_is_1_to_65535(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 65535"):
        load([{"metrics.listen": Setting(listen, "flag")}])
    assert load([{"metrics.listen": Setting("h:65535", "flag")}])


def test_a_speed_of_nearly_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected 0 or at least"):
        load([{"replay.speed": Setting("1e-300", "flag --speed")}])


def test_several_servers_are_a_list_or_a_text_with_commas(tmp_path: Path) -> None:
    listed = load([file_layer(file(tmp_path, "[nats]\nurl = ['nats://a', 'nats://b']"))])
    assert listed.config.nats.url == ("nats://a", "nats://b")
    assert load([{"nats.url": Setting("a,b", "flag --nats")}]).config.nats.url == "a,b"


def test_secrets_in_a_file_that_everybody_can_read_are_warned_of(tmp_path: Path) -> None:
    for text in (
        "[nats]\npassword = 'x'",
        "[nats]\nurl = 'nats://a:b@c'",
        "[polygon]\napi_key = 'x'",
    ):
        path = file(tmp_path, text)
        path.chmod(0o644)
        (sentence,) = cautions(path, file_layer(path))
        assert str(path) in sentence
        path.chmod(0o600)
        assert cautions(path, file_layer(path)) == []
    path = file(tmp_path, "[nats]\nurl = 'nats://c'")
    path.chmod(0o644)
    assert cautions(path, file_layer(path)) == []


def test_no_number_is_infinite_or_none() -> None:
    numbers = [key for key, value in defaults().items() if isinstance(value, float)]
    for key in (*numbers, "replay.max_gap_s", "nats.max_age_s", "strikes.focus"):
        for value in (float("nan"), float("inf"), -float("inf")):
            with pytest.raises(ConfigurationError, match=re.escape(key)):
                load([{key: Setting(value, "file x", typed=True)}])


def test_the_slowest_speed_is_allowed_and_a_slower_one_is_not() -> None:
    slowest = load([{"replay.speed": Setting(MIN_SPEED, "file x", typed=True)}])
    assert slowest.config.replay.speed == MIN_SPEED
    with pytest.raises(ConfigurationError, match=r"replay\.speed"):
        load([{"replay.speed": Setting(MIN_SPEED / 2, "file x", typed=True)}])


def test_a_secret_is_read_from_the_file_that_a_variable_names(tmp_path: Path) -> None:
    path = file(tmp_path, "  k3y\r\n")
    for name, key in (("", "api_key"), ("STANDBY_", "standby_api_key")):
        variable = f"POLYGON_{name}API_KEY_FILE"
        loaded = load([secret_files_layer({variable: str(path), "NATS_TOKEN_FILE": ""})])
        assert getattr(loaded.config.polygon, key) == "k3y"
        assert loaded.origins == {f"polygon.{key}": f"environment {variable}"}


def test_a_secret_beside_a_file_with_one_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, "k3y")
    environ = {"POLYGON_API_KEY_FILE": str(path), "POLYGON_API_KEY": "an0ther"}
    with pytest.raises(ConfigurationError, match="both set: unset one of them") as refused:
        secret_files_layer(environ)
    assert "an0ther" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 5_000])
def test_a_file_without_a_secret_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"NATS_TOKEN_FILE:.*{path}"):
        secret_files_layer({"NATS_TOKEN_FILE": str(path)})
    with pytest.raises(ConfigurationError, match=r"NATS_PASSWORD_FILE:.*cannot be read"):
        secret_files_layer({"NATS_PASSWORD_FILE": str(tmp_path / "none")})


def test_a_file_with_a_secret_that_everybody_can_read_is_cautioned_of(tmp_path: Path) -> None:
    path = file(tmp_path, "k3y")
    path.chmod(0o644)
    (caution,) = secret_file_cautions({"POLYGON_API_KEY_FILE": str(path)})
    assert caution.endswith(f"{path}: chmod 600 it")
    _, warned = layers_of(None, {"POLYGON_API_KEY_FILE": str(path)}, {})
    assert warned == [caution]
    path.chmod(0o600)
    assert secret_file_cautions({"POLYGON_API_KEY_FILE": str(path)}) == []
