from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import pytest

from ingestor.model.units import NS_PER_S
from ingestor.runtime.tell import Rate, Teller


@dataclass
class Told:
    share: float | None = None

    def sentence(self) -> str:
        return "half way"


def test_a_rate_is_that_of_the_last_two_seconds_or_since_the_beginning() -> None:
    rate = Rate(0)
    assert rate.update(0, 5) == 0
    assert rate.update(NS_PER_S, 10) == 10
    assert rate.update(2 * NS_PER_S, 1_000) == 500
    assert rate.update(3 * NS_PER_S, 1_010) == 500
    assert rate.update(4 * NS_PER_S, 1_040) == 20


def test_lines_are_logged_as_far_apart_as_was_asked(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    seconds = iter((0, 1, 9, 10, 15, 20))
    monkeypatch.setattr("time.monotonic_ns", lambda: next(seconds) * NS_PER_S)
    teller = Teller(lambda _: Told(), 10)
    for _ in range(5):
        teller.tick()
    teller.close()
    assert caplog.messages == ["half way", "half way"]


def test_where_a_terminal_watches_the_line_is_drawn_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    teller = Teller(lambda _: Told(), 0.001)
    teller.tick()
    teller.close()
    assert "half way" in capfd.readouterr().err
    assert caplog.messages == []
