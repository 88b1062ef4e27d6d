"""The files in configs/ must be accepted as they stand, and show true defaults in comments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingestor.config.load import defaults, file_layer, load
from ingestor.config.schema import Config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_file_is_accepted(path: Path) -> None:
    load([file_layer(path)])


def test_the_replay_file_changes_no_default() -> None:
    path = next(path for path in CONFIGS if path.name == "replay.toml")
    assert load([file_layer(path)]).config == Config()


def test_the_replay_file_names_every_setting_of_a_replay() -> None:
    text = next(path for path in CONFIGS if path.name == "replay.toml").read_text()
    named = set(re.findall(r"^#? ?(\w+) = ", text, re.MULTILINE))
    missing = {key for key in defaults() if key.split(".")[1] not in named | {"consumers"}}
    assert missing == set()
