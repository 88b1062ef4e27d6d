from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ingestor import log as logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("data flows", "data flows"),
        ("stocks: data flows", "data flows"),
        ("options: x", "options: x"),
    ],
)
def test_a_line_says_when_how_bad_and_which_process_once(
    capsys: pytest.CaptureFixture[str], message: str, told: str
) -> None:
    logs.configure("stocks", "info")
    logging.getLogger("anything").info("%s", message)
    line = capsys.readouterr().err
    assert line[10] == "T"
    assert line[23:] == f"Z INFO    stocks: {told}\n"


def test_what_libraries_tell_about_wires_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("stocks", "DEBUG")
    logging.getLogger("websockets.client").info("> TEXT {key}")
    logging.getLogger("nats.aio").error("reconnecting")
    assert capsys.readouterr().err == ""
