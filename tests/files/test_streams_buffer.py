"""A buffer over a stream hands out every byte, in order, and never grows."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ingestor.files.streams import ReadBuffer, Searchable

CAPACITY = 64


class Trickle:
    """A stream that gives its bytes in pieces of its own choosing."""

    failure: str | None = None
    searchable: Searchable | None = None
    position = 0

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.slack = max((len(piece) for piece in pieces), default=0)
        self.rooms: list[int] = []
        self._pieces = list(pieces)

    def read_some(self, room: memoryview) -> int | None:
        self.rooms.append(len(room))
        while self._pieces:
            piece = self._pieces.pop(0)
            if piece:
                room[: len(piece)] = piece
                return len(piece)
        return 0


def pieces() -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.binary(max_size=100), max_size=20)


@given(pieces(), st.data())
def test_all_bytes_come_out_in_order_however_they_are_read(
    parts: list[bytes], data: st.DataObject
) -> None:
    stream = Trickle(parts)
    buffer = ReadBuffer(stream, CAPACITY)
    out = bytearray()
    while buffer.fill() or len(buffer):
        view = buffer.view(CAPACITY)
        assert len(view) == min(len(buffer), CAPACITY)
        used = data.draw(st.integers(1, len(view)))
        out += view[:used]
        buffer.consume(used)
        assert buffer.offset == len(out)
    assert out == b"".join(parts)


@given(pieces())
def test_the_buffer_never_grows_and_the_stream_always_has_its_slack(parts: list[bytes]) -> None:
    stream = Trickle(parts)
    buffer = ReadBuffer(stream, CAPACITY)
    while buffer.fill():
        buffer.consume(CAPACITY // 2)
    assert len(buffer._bytes) == CAPACITY + stream.slack
    assert min(stream.rooms) > stream.slack


def test_fill_says_whether_there_is_as_much_as_the_capacity() -> None:
    buffer = ReadBuffer(Trickle([b"x" * 60, b"y" * 60]), CAPACITY)
    assert buffer.fill()
    buffer.consume(60)
    assert not buffer.fill()
    assert bytes(buffer.view(CAPACITY)) == b"y" * 60


@given(pieces(), st.lists(st.integers(0, 300), max_size=5))
def test_what_is_read_to_a_size_is_that_or_all_there_is(
    parts: list[bytes], counts: list[int]
) -> None:
    buffer = ReadBuffer(Trickle(parts), CAPACITY)
    content = b"".join(parts)
    for count in counts:
        assert taken(buffer, count) == (content[:count], 0)
        content = content[count:]


def taken(buffer: ReadBuffer, count: int) -> tuple[bytes, int]:
    """What `read_to` adds to nothing, and how often it yields before."""
    content = bytearray()
    waits = len(list(buffer.read_to(content, count)))
    return bytes(content), waits


class Hesitant(Trickle):
    """A stream that has nothing to show for two calls of three."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces)
        self._calls = 0

    def read_some(self, room: memoryview) -> int | None:
        self._calls += 1
        return None if self._calls % 3 else super().read_some(room)


def test_a_stream_that_has_nothing_to_show_yet_is_waited_for() -> None:
    buffer = ReadBuffer(Hesitant([b"x" * 10, b"y" * 10]), CAPACITY)
    assert (buffer.fill(), buffer.waiting, len(buffer)) == (False, True, 0)
    assert taken(buffer, 15) == (b"x" * 10 + b"y" * 5, 4)
    assert taken(buffer, 15) == (b"y" * 5, 2)
    assert not buffer.waiting


def test_a_stream_that_failed_is_not_read_again() -> None:
    stream = Trickle([b"x" * 10, b"behind the hole"])
    buffer = ReadBuffer(stream, CAPACITY)
    stream.failure = "cannot be read"
    assert not buffer.fill()
    assert len(buffer) == 0
    stream.failure = None
    assert not buffer.fill()
    assert len(buffer) == 25
