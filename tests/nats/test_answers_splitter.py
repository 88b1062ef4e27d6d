from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.bounds import MAX_PAYLOAD_BYTES
from ingestor.model.errors import BadDataError
from ingestor.nats.answers import MAX_LINE_BYTES, Cut, Frame, Splitter, Status

TAPPED, OTHER = b"7", b"8"

PAYLOADS = st.binary(max_size=60) | st.sampled_from(
    [b"", b"\r\n", b"MSG a 7 b 3\r\nabc\r\n", b"PING\r\n"]
)
WORDS = st.sampled_from([b"market.futures.trades", b"a", b"$JS.ACK.S.c.1.2.3.4.5"])


def message(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> bytes:
    return b"MSG %b %b %b %d\r\n%b\r\n" % (subject, sid, reply, len(payload), payload)


def with_header(subject: bytes, sid: bytes, reply: bytes, header: bytes, payload: bytes) -> bytes:
    sizes = b"%d %d" % (len(header), len(header) + len(payload))
    words = b" ".join(filter(None, (subject, sid, reply, sizes)))
    return b"HMSG %b\r\n%b%b\r\n" % (words, header, payload)


@st.composite
def commands(draw: st.DrawFn) -> tuple[bytes, Frame | None]:
    """One command, and the frame to be cut out where it is a tapped message."""
    sid = draw(st.sampled_from([TAPPED, OTHER]))
    frame = (draw(WORDS), draw(WORDS), draw(PAYLOADS))
    plain = message(frame[0], sid, *frame[1:])
    headed = with_header(frame[0], sid, frame[1], b"NATS/1.0\r\nA: b\r\n\r\n", frame[2])
    control = draw(st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"INFO {}\r\n"]))
    kind = draw(st.sampled_from(["plain", "plain", "headed", "control"]))
    command = {"plain": plain, "headed": headed, "control": control}[kind]
    return command, frame if kind != "control" and sid == TAPPED else None


@given(st.lists(commands(), max_size=12), st.lists(st.integers(1, 400), max_size=30))
def test_however_the_stream_is_cut_the_same_comes_out(
    wanted: list[tuple[bytes, Frame | None]], sizes: list[int]
) -> None:
    stream = b"".join(command for command, _ in wanted)
    splitter = Splitter({TAPPED})
    frames: list[Frame] = []
    others = b""
    for size in [*sizes, len(stream) or 1]:
        piece, stream = stream[:size], stream[size:]
        cut = splitter.feed(piece)
        frames += cut.frames.get(TAPPED, [])
        others += b"".join(cut.others)
        assert not cut.statuses
    assert frames == [frame for _, frame in wanted if frame]
    assert others == b"".join(command for command, frame in wanted if not frame)


def test_every_other_command_is_given_back_whole_and_alone() -> None:
    cut = Splitter({TAPPED}).feed(b"PING\r\nMSG a 8 3\r\nabc\r\nINFO {}\r\n")
    assert cut.others == [b"PING\r\n", b"MSG a 8 3\r\nabc\r\n", b"INFO {}\r\n"]


def test_a_message_without_reply_is_cut_out_too() -> None:
    cut = Splitter({TAPPED}).feed(b"MSG a.b 7 3\r\nabc\r\n")
    assert (cut.frames, cut.others) == ({TAPPED: [(b"a.b", b"", b"abc")]}, [])


def test_what_comes_before_nonsense_in_one_piece_is_not_lost() -> None:
    splitter = Splitter({TAPPED})
    assert splitter.feed(b"PONG\r\nMSG a 8 99999999999\r\n").others == [b"PONG\r\n"]
    with pytest.raises(BadDataError, match="announced"):
        raise splitter.nonsense or AssertionError
    with pytest.raises(BadDataError, match="announced"):
        splitter.feed(b"PONG\r\n")


def test_messages_are_sorted_by_subscription() -> None:
    stream = message(b"a", b"7", b"r", b"1") + message(b"b", b"8", b"r", b"2")
    cut = Splitter({b"7", b"8"}).feed(stream + message(b"c", b"7", b"r", b"3"))
    assert cut.frames == {
        b"7": [(b"a", b"r", b"1"), (b"c", b"r", b"3")],
        b"8": [(b"b", b"r", b"2")],
    }


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"NATS/1.0 404 No Messages\r\n\r\n", (404, "No Messages")),
        (b"NATS/1.0 503\r\n\r\n", (503, "")),
        (b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Stream: 10\r\n\r\n", (100, "Idle Heartbeat")),
    ],
)
def test_a_status_is_told_from_a_message(header: bytes, status: tuple[int, str]) -> None:
    cut = Splitter({TAPPED}).feed(with_header(b"inbox.1", TAPPED, b"", header, b""))
    assert cut.statuses == [(TAPPED, Status("inbox.1", *status))]
    assert not cut.frames


def test_a_message_with_headers_of_its_own_is_a_message() -> None:
    header = b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n"
    cut = Splitter({TAPPED}).feed(with_header(b"a", TAPPED, b"r", header, b"xyz"))
    assert cut.frames == {TAPPED: [(b"a", b"r", b"xyz")]}


def test_a_payload_that_comes_in_many_pieces_is_joined_once() -> None:
    payload = bytes(range(256)) * 4000
    stream = message(b"a", TAPPED, b"r", payload)
    splitter = Splitter({TAPPED})
    pieces = [stream[at : at + 32768] for at in range(0, len(stream), 32768)]
    cuts = [splitter.feed(piece) for piece in pieces]
    assert cuts[-1].frames == {TAPPED: [(b"a", b"r", payload)]}
    assert not any(cut.frames for cut in cuts[:-1])


def test_what_came_before_a_long_message_does_not_make_it_be_looked_at_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut, looks = Splitter._cut, list[int]()

    def looked_at(self: Splitter, buffer: bytes, found: Cut) -> int:
        looks.append(len(buffer))
        return cut(self, buffer, found)

    monkeypatch.setattr(Splitter, "_cut", looked_at)
    before, long = (message(b"a", TAPPED, b"r", bytes(size)) for size in (30_000, 40_000))
    stream, splitter = before + long, Splitter({TAPPED})
    for at in range(0, len(stream), 32_768):
        splitter.feed(stream[at : at + 32_768])
    assert looks == [32_768, len(long)]


def test_a_line_without_end_is_refused_at_its_bound() -> None:
    splitter = Splitter({TAPPED})
    splitter.feed(b"x" * (MAX_LINE_BYTES - 1))
    with pytest.raises(BadDataError, match="line over"):
        splitter.feed(b"x")


def test_a_message_larger_than_any_server_carries_is_refused_at_once() -> None:
    with pytest.raises(BadDataError, match="announced"):
        Splitter({TAPPED}).feed(b"MSG a 7 r %d\r\n" % (MAX_PAYLOAD_BYTES + 1))


@pytest.mark.parametrize("line", [b"HMSG _INBOX.a 1" + b" " * 60_000, b"MSG" + b" 1" * 30_000])
def test_a_line_of_blanks_or_words_is_read_in_one_pass(line: bytes) -> None:
    began_s = time.process_time()
    cut = Splitter({b"1"}).feed(line + b"\r\n")
    assert time.process_time() - began_s < 1  # it took hours
    assert cut.others == [line + b"\r\n"]


@pytest.mark.parametrize("size", [b"-1", b"1" * 5_000, b"+5x"])
def test_a_size_that_is_none_is_bad_data(size: bytes) -> None:
    with pytest.raises(BadDataError):
        Splitter({b"1"}).feed(b"HMSG a 1 5 " + size + b"\r\n")


def test_a_message_with_a_status_in_its_header_and_a_payload_is_a_message() -> None:
    cut = Splitter({TAPPED}).feed(with_header(b"a", TAPPED, b"", b"NATS/1.0 404\r\n\r\n", b"x"))
    assert (cut.statuses, cut.frames) == ([], {TAPPED: [(b"a", b"", b"x")]})
