"""The files in configs/ must be accepted as they stand, and show true defaults in comments."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from ingestor.config.load import Setting, defaults, file_layer, load, values
from ingestor.config.schema import LIVE_ONLY, REPLAY_ONLY, Config, is_among

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_file_is_accepted(path: Path) -> None:
    load([file_layer(path)])


def named(name: str) -> Path:
    return next(path for path in CONFIGS if path.name == name)


def settings_in(text: str) -> dict[str, str]:
    """Every key that a file sets or shows in a comment, with what stands behind the equals sign."""
    found: dict[str, str] = {}
    table = ""
    for line in text.splitlines():
        if header := re.match(r"^(?:# )?\[+([\w.]+)\]+$", line):
            table = header[1]
        elif setting := re.match(r"^(?:# )?(\w+) = (.+?)(?:\s+#.*)?$", line):
            found[f"{table}.{setting[1]}"] = setting[2]
    return found


@pytest.mark.parametrize(
    ("name", "left_out"), [("replay.toml", LIVE_ONLY), ("live.toml", REPLAY_ONLY)]
)
def test_a_program_s_file_changes_no_default_and_names_its_every_setting(
    name: str, left_out: frozenset[str]
) -> None:
    assert load([file_layer(named(name))]).config == Config()
    of_program = {key for key in defaults() if not is_among(key, left_out)}
    shown = {key for key in settings_in(named(name).read_text()) if "consumers." not in key}
    assert shown == of_program - {"nats.consumers"}


def test_a_comment_in_the_live_file_shows_the_default_or_is_an_example_of_what_is_unset() -> None:
    shown = settings_in(named("live.toml").read_text())
    for key in (key for key in shown if is_among(key, LIVE_ONLY)):
        loaded = load([{key: Setting(tomllib.loads(f"x = {shown[key]}")["x"], "test")}])
        default = defaults()[key]
        assert default in (None, ()) or values(loaded.config)[key] == default, key


def test_the_dedicated_file_gives_every_process_of_a_live_run_cpus_of_its_own() -> None:
    process = load([file_layer(named("dedicated.toml"))]).config.process
    cpus = (process.stocks_cpus, process.options_cpus, process.publisher_cpus)
    chosen = [cpu for one in (*cpus, process.supervisor_cpus) for cpu in one]
    assert all(cpus)
    assert len(chosen) == len(set(chosen))
