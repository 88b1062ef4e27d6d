from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingestor.publish.readback import Matcher, Message, Stored, messages_of

OURS: list[Message] = [("a", b"1"), ("a", b"1"), ("b", b"2"), ("a", b"3")]


def numbered(messages: list[Message], first: int = 1) -> list[tuple[int, Message]]:
    return list(enumerate(messages, first))


@given(st.integers(0, 4), st.lists(st.integers(0, 4), max_size=6))
def test_a_stored_prefix_is_found_whatever_lies_between(count: int, strangers: list[int]) -> None:
    stored = list(OURS[:count])
    for position in sorted(strangers, reverse=True):
        stored.insert(min(position, len(stored)), ("x", b"stranger"))
    matcher = Matcher(OURS)
    matcher.look_at(numbered(stored, 11))
    mine = [seq for seq, (subject, _) in numbered(stored, 11) if subject != "x"]
    assert matcher.stored == Stored(count, mine[0] if mine else None, mine[-1] if mine else None)
    assert matcher.strangers == len(strangers)
    assert matcher.complete == (count == len(OURS))
    assert matcher.missing == len(OURS) - count


def test_equal_messages_are_counted_each() -> None:
    matcher = Matcher(OURS)
    matcher.look_at(numbered([("a", b"1")]))
    assert matcher.stored.count == 1
    matcher.look_at(numbered([("a", b"1")], 2))
    assert matcher.stored == Stored(2, 1, 2)


def test_the_subject_counts_as_well_as_the_payload() -> None:
    matcher = Matcher(OURS)
    matcher.look_at(numbered([("b", b"1")]))
    assert matcher.stored == Stored(0, None, None)


def test_what_the_stream_dropped_can_be_taken_for_ours() -> None:
    matcher = Matcher(OURS)
    matcher.assume(7, 8)
    matcher.look_at(numbered([("b", b"2")], 9))
    assert matcher.stored == Stored(3, 7, 9)
    assert matcher.strangers == 0


@given(st.lists(st.tuples(st.sampled_from(["a", "b.c"]), st.binary(max_size=9)), max_size=5))
def test_any_frames_are_read_back(messages: list[Message]) -> None:
    frames = b"".join(
        b"PUB %b _I.%012d %08d\r\n%b\r\n" % (subject.encode(), index, len(payload), payload)
        for index, (subject, payload) in enumerate(messages)
    )
    assert messages_of(frames) == messages
