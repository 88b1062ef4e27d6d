"""What keys command."""

from __future__ import annotations

import pytest

from ingestor.model.replay_control import Do, ReplayCommand
from ingestor.runtime.keyboard import command_of, keys_of

UP, DOWN, RIGHT = b"\x1b[A", b"\x1b[B", b"\x1b[C"


def test_what_a_terminal_sends_is_a_key_a_byte_and_three_for_an_arrow() -> None:
    assert list(keys_of(b" \x1b[A?\x1bOCx")) == [b" ", UP, b"?", b"\x1bOC", b"x"]
    assert list(keys_of(b"\x1b[")) == [b"\x1b["]


@pytest.mark.parametrize(
    ("key", "told", "attained", "command"),
    [
        (b" ", 1, 0, ReplayCommand(do=Do.TOGGLE)),
        (RIGHT, 1, 0, ReplayCommand(do=Do.STEP, events=1)),
        (b"\x1bOC", 1, 0, ReplayCommand(do=Do.STEP, events=1)),
        (b"\x1b[D", 1, 0, ReplayCommand(do=Do.SEEK, by_ns=-10_000_000_000)),
        (b">", 1, 0, ReplayCommand(do=Do.SEEK, by_ns=60_000_000_000)),
        (b"0", 1, 0, ReplayCommand(do=Do.SEEK, share=0.0)),
        (b"9", 1, 0, ReplayCommand(do=Do.SEEK, share=0.9)),
        (b"l", 1, 0, ReplayCommand(do=Do.LOOP)),
        (UP, 4, 0, ReplayCommand(do=Do.SPEED, speed=8.0)),
        (DOWN, 4, 0, ReplayCommand(do=Do.SPEED, speed=2.0)),
        (DOWN, 0, 1_000, ReplayCommand(do=Do.SPEED, speed=512.0)),
        (DOWN, 0, 1e12, ReplayCommand(do=Do.SPEED, speed=524_288.0)),
        (UP, 0, 1_000, None),
        (DOWN, 0, 0, None),
        (UP, 600_000, 0, None),
        (DOWN, 0.000_001, 0, None),
        (b"x", 1, 0, None),
        (b"\x1b", 1, 0, None),
    ],
)
def test_a_key_commands(
    key: bytes, told: float, attained: float, command: ReplayCommand | None
) -> None:
    assert command_of(key, told, attained) == command
