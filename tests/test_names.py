"""The names that people type are found where they look."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import ingestor


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ingestor.stream_ingestor", "StreamIngestor"),
        ("ingestor.dbn_ingestor", "DBNIngestor"),
        ("ingestor.replay_publisher", "ReplayPublisher"),
        ("ingestor.strike_manager", "StrikeManager"),
    ],
)
def test_a_class_is_found_in_the_package_and_in_the_module_of_its_name(
    module: str, name: str
) -> None:
    assert getattr(ingestor, name) is getattr(import_module(module), name)
    assert name in dir(ingestor)
    assert name in ingestor.__all__


def test_event_source_has_the_four_words_of_the_contract() -> None:
    assert {source.name: source.value for source in ingestor.EventSource} == {
        "POLYGON_WS": "polygon_ws",
        "DIRECT_FEED": "direct_feed",
        "REPLAY": "replay",
        "SIM": "sim",
    }


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'ingestor' has no attribute 'StrikeManger'"):
        _ = ingestor.StrikeManger


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import ingestor, sys; print(*(name for name in sys.modules if 'ingestor.' in name))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "\n"
