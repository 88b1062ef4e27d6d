"""Two sequences side by side: what is told of every way in which one can differ from the other."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.runtime import comparison
from ingestor.runtime.comparison import Comparison, Counts, Item

PIECE = 100


def item(number: int) -> Item:
    return b"subject", b"%d" % number


def day(rows: int = 1_000) -> list[Item]:
    return [item(number) for number in range(rows)]


def compare(expected: list[Item], stored: list[Item], piece: int = PIECE) -> Comparison:
    """Compare as a reader does: a piece of what is stored, and as much as is wanted for it."""
    result = Comparison()
    pieces = iter([expected[at : at + piece] for at in range(0, len(expected), piece)])

    def catch_up() -> None:
        while True:
            while result.wants_expected:
                if (more := next(pieces, None)) is None:
                    result.end_expected()
                else:
                    result.put_expected(more)
            result.advance()
            if not result.wants_expected:
                return

    for at in range(0, len(stored), piece):
        part = stored[at : at + piece]
        result.put_stored(part, range(at + 1, at + 1 + len(part)))
        catch_up()
    result.end_stored()
    catch_up()
    result.finish()
    if result.suspects:
        result.note_repeated(expected)
    return result


def test_equal_sequences_have_no_first_difference() -> None:
    result = compare(day(), day())
    assert result.counts == Counts(equal=1_000)
    assert result.first is None


def test_nothing_equals_nothing() -> None:
    assert compare([], []).counts == Counts()


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (lambda rows: rows[:400] + rows[403:], Counts(equal=997, missing=3)),
        (lambda rows: rows[200:], Counts(equal=800, missing=200)),
        (lambda rows: rows[:700], Counts(equal=700, missing=300)),
        (lambda _: [], Counts(missing=1_000)),
        (lambda rows: [*rows[:5], item(-1), *rows[5:]], Counts(equal=1_000, extra=1)),
        (lambda rows: [*rows, item(-1)], Counts(equal=1_000, extra=1)),
        (lambda rows: rows[:5] + rows[3:], Counts(equal=1_000, repeated=2)),
        (lambda rows: rows + rows, Counts(equal=1_000, repeated=1_000)),
        (lambda rows: [*rows[:7], item(-1), *rows[8:]], Counts(equal=999, changed=1)),
        (
            lambda rows: [*rows[:7], (b"other", rows[7][1]), *rows[8:]],
            Counts(equal=999, missing=1, extra=1),
        ),
        (
            lambda rows: [*rows[:7], rows[8], rows[7], *rows[9:]],
            Counts(equal=999, wrong_order=1),
        ),
        (
            lambda rows: [item(-n) if n % 3 == 1 else rows[n] for n in range(1_000)],
            Counts(equal=667, changed=333),
        ),
    ],
)
def test_what_differs_is_counted_by_kind(
    change: Callable[[list[Item]], list[Item]], counts: Counts
) -> None:
    assert compare(day(), change(day())).counts == counts


def test_the_first_difference_shows_both_sides_and_where() -> None:
    stored = day()
    stored[41] = item(-1)
    stored[80] = item(-2)
    first = compare(day(), stored).first
    assert first is not None
    assert (first.number, first.seq) == (42, 42)
    assert (first.expected, first.stored) == (item(41), item(-1))


def test_a_side_that_has_ended_shows_nothing() -> None:
    first = compare(day(10), day(9)).first
    assert first is not None
    assert (first.number, first.expected, first.stored, first.seq) == (10, item(9), None, None)


def test_equal_messages_are_real_and_may_stand_in_a_row() -> None:
    expected = [item(1)] * 5 + [item(2)]
    assert compare(expected, expected).counts == Counts(equal=6)
    assert compare(expected, expected[1:]).counts == Counts(equal=5, missing=1)


def test_a_hole_wider_than_every_window_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "WINDOW", 16)
    monkeypatch.setattr(comparison, "MAX_WINDOW", 64)
    assert compare(day(), day()[500:]).counts == Counts(equal=500, missing=500)


def test_a_message_that_moved_farther_than_a_window_is_in_wrong_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparison, "WINDOW", 16)
    stored = day()
    stored.append(stored.pop(3))
    assert compare(day(), stored).counts == Counts(equal=999, wrong_order=1)


def test_hashes_that_are_not_kept_still_count_as_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_HELD", 10)
    counts = compare(day(), day() + day()).counts
    assert (counts.equal, counts.repeated + counts.extra) == (1_000, 1_000)
    assert counts.repeated == 10


@given(
    st.lists(st.integers(0, 8), max_size=60), st.randoms(use_true_random=False), st.integers(1, 9)
)
def test_every_message_of_both_sides_is_counted_once(
    numbers: list[int], chance: random.Random, piece: int
) -> None:
    expected = [item(number) for number in numbers]
    stored = list(expected)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(stored) + 1)
        edits = (stored[:at] + stored[at + 2 :], [*stored[:at], item(9), *stored[at:]])
        stored = edits[chance.randrange(2)]
    counts = compare(expected, stored, piece).counts
    both = counts.equal + counts.changed + counts.wrong_order
    assert both + counts.missing == len(expected)
    assert both + counts.extra + counts.repeated == len(stored)
    assert (counts.differences == 0) == (expected == stored)
