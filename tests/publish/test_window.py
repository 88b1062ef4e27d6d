from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.blocks import Frames, Runs
from ingestor.publish.window import Window
from tests.publish.plain import trades

messages_of_parts = st.lists(
    st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=6
)
"""Rows of each message, part by part."""


def push(window: Window, first: int, rows: list[int]) -> None:
    stops = np.cumsum(np.array(rows, dtype=np.int64))
    window.push(trades(first, sum(rows)), Frames([b"x" * 10 * len(rows)], stops, {}))


def sizes(runs: list[Runs]) -> list[int]:
    return [int(s) for one in runs for _, records in one.pieces() for s in records["size"]]


@given(messages_of_parts, st.lists(st.integers(0, 9), max_size=12))
def test_a_window_holds_what_a_plain_list_of_messages_holds(
    parts: list[list[int]], acks: list[int]
) -> None:
    window, model, first = Window(), list[list[int]](), 0
    for rows in parts:
        push(window, first, rows)
        for count in rows:
            model.append(list(range(first, first + count)))
            first += count
    acked: list[int] = []
    for wish in acks:
        count = min(wish, len(model))
        just_acked = [row for message in model[:count] for row in message]
        assert window.acknowledge(count) == len(just_acked)
        acked += just_acked
        del model[:count]
        left = [row for message in model for row in message]
        assert sizes(window.unacknowledged()) == left
        assert (window.messages, window.rows) == (len(model), len(left))
        assert window.acked_rows == len(acked)
        assert (window.size_bytes == 0) == (not model)
    assert sizes(window.take_back()) == list(range(len(acked), first))


def test_taking_back_empties_the_window_and_keeps_what_was_acknowledged() -> None:
    window = Window()
    push(window, 0, [2, 3, 1])
    window.acknowledge(1)
    assert sizes(window.take_back()) == [2, 3, 4, 5]
    assert (window.messages, window.rows, window.size_bytes) == (0, 0, 0)
    assert (window.acked_messages, window.acked_rows) == (1, 2)
    push(window, 2, [1])
    assert sizes(window.unacknowledged()) == [2]


def test_bytes_are_freed_when_a_part_is_wholly_acknowledged() -> None:
    window = Window()
    push(window, 0, [1, 1])
    push(window, 2, [1])
    window.acknowledge(1)
    assert window.size_bytes == 30
    window.acknowledge(1)
    assert window.size_bytes == 10


def test_more_acknowledgements_than_messages_are_a_bug() -> None:
    window = Window()
    push(window, 0, [1])
    with pytest.raises(ValueError, match="2 messages acknowledged of 1"):
        window.acknowledge(2)
