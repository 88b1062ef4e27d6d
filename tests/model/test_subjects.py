"""Subjects with wildcards match what the server has them match."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.subjects import covers, overlap


@pytest.mark.parametrize(
    ("pattern", "subject", "answer"),
    [
        (">", "a", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "a.>", True),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.*", "a.b.c", False),
        ("a.b", "a.*", False),
        ("a.b", "a.b", True),
        ("a.b.c", "a.b", False),
    ],
)
def test_what_a_subject_covers(pattern: str, subject: str, answer: bool) -> None:
    assert covers(pattern, subject) is answer


subjects = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)
patterns = st.builds(
    lambda tokens, rest: [*tokens, ">"] if rest else tokens,
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3),
    st.booleans(),
)


def _matches(pattern: list[str], subject: list[str]) -> bool:
    if not pattern:
        return not subject
    if pattern[0] == ">":
        return bool(subject)
    return bool(subject) and pattern[0] in ("*", subject[0]) and _matches(pattern[1:], subject[1:])


@given(patterns, subjects)
def test_a_pattern_covers_exactly_the_subjects_it_matches(
    pattern: list[str], subject: list[str]
) -> None:
    assert covers(".".join(pattern), ".".join(subject)) == _matches(pattern, subject)
    assert overlap(".".join(pattern), ".".join(subject)) == _matches(pattern, subject)


@given(patterns, patterns, subjects)
def test_patterns_overlap_where_a_subject_matches_both(
    one: list[str], other: list[str], subject: list[str]
) -> None:
    in_one, in_other = (_matches(pattern, subject) for pattern in (one, other))
    if in_one and in_other:
        assert overlap(".".join(one), ".".join(other))
    if covers(".".join(one), ".".join(other)) and in_other:
        assert in_one
