from __future__ import annotations

import io
import random
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ingestor.files.zstd import (
    FRAME_MAGIC,
    MAX_BLOCK_BYTES,
    MAX_PIECE_BYTES,
    MAX_WINDOW_BYTES,
    FrameWalker,
    is_zstd,
)

NOISE = random.Random(7).randbytes(300_000)


def payloads() -> st.SearchStrategy[bytes]:
    """Blocks of every kind: compressed, raw (noise) and run-length (zeros)."""
    piece = st.one_of(
        st.binary(max_size=50),
        st.integers(0, 300_000).map(bytes),
        st.integers(0, 300_000).map(lambda size: NOISE[:size]),
        st.integers(0, 20_000).map(lambda count: b"abcdefg" * count),
    )
    return st.lists(piece, max_size=4).map(b"".join)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    payload = draw(payloads())
    if draw(st.booleans()):
        return zstandard.ZstdCompressor(
            level=draw(st.sampled_from([1, 3, 9])),
            write_checksum=draw(st.booleans()),
            write_content_size=draw(st.booleans()),
        ).compress(payload)
    streaming = zstandard.ZstdCompressor().compressobj()
    return streaming.compress(payload) + streaming.flush()


def skippable(size: int) -> bytes:
    return b"\x5e\x2a\x4d\x18" + size.to_bytes(4, "little") + b"?" * size


def walk(data: bytes) -> tuple[list[bytes], FrameWalker]:
    walker = FrameWalker(io.BufferedReader(io.BytesIO(data)))
    pieces = []
    while (piece := walker.read()) is not None:
        pieces.append(piece)
    return [piece for piece in pieces if piece], walker


@given(st.lists(frames(), max_size=3))
def test_the_pieces_together_are_the_file_and_it_ends_well(parts: list[bytes]) -> None:
    pieces, walker = walk(b"".join(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert (walker.failure, walker.position) == (None, len(b"".join(parts)))


@given(frames())
def test_no_piece_decompresses_to_more_than_a_block(frame: bytes) -> None:
    pieces, _ = walk(frame)
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    sizes = [len(decompressor.decompress(piece)) for piece in pieces]
    assert max(sizes) <= MAX_BLOCK_BYTES
    assert decompressor.eof


@given(st.lists(frames(), min_size=1, max_size=3), st.data())
def test_a_file_cut_anywhere_is_known_to_be_cut(parts: list[bytes], data: st.DataObject) -> None:
    content = b"".join(parts)
    ends = {len(b"".join(parts[:count])) for count in range(len(parts) + 1)}
    at = data.draw(st.integers(0, len(content) - 1))
    pieces, walker = walk(content[:at])
    assert b"".join(pieces) == content[:at]
    if at in ends:
        assert walker.failure is None
    else:
        assert walker.failure == f"ends inside a zstd frame at byte {at} of the file"


def test_a_frame_that_names_a_dictionary_is_walked_too() -> None:
    samples: list[Any] = [b"ESH4 %d trades at %d" % (n, n * n) for n in range(2000)]
    dictionary = zstandard.train_dictionary(2048, samples, dict_id=70_000)
    frame = zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[0] * 20_000)
    assert zstandard.get_frame_parameters(frame).dict_id == 70_000
    pieces, walker = walk(frame * 2)
    assert b"".join(pieces) == frame * 2
    assert walker.failure is None
    assert max(map(len, pieces)) < len(frame)


def test_skippable_frames_are_passed_over_wherever_they_stand() -> None:
    frame = zstandard.compress(b"hello")
    pieces, walker = walk(skippable(100_000) + frame + skippable(0))
    assert b"".join(pieces) == frame
    assert (walker.failure, walker.position) == (None, len(frame) + 100_016)


@pytest.mark.parametrize("kept", [5, 7, 8, 50])
def test_a_skippable_frame_can_be_cut_too(kept: int) -> None:
    _, walker = walk(skippable(100)[:kept])
    assert walker.failure == f"ends inside a zstd frame at byte {kept} of the file"


def test_what_is_no_frame_is_named_with_its_place() -> None:
    frame = zstandard.compress(b"hello")
    pieces, walker = walk(frame + b"garbage")
    assert b"".join(pieces) == frame
    assert walker.failure == f"holds no zstd frame at byte {len(frame)} of the file"


def test_after_a_failure_nothing_more_is_handed_out() -> None:
    _, walker = walk(b"garbage" + zstandard.compress(b"hello"))
    assert walker.read() is None
    assert walker.failure == "holds no zstd frame at byte 0 of the file"


def test_a_block_header_cannot_ask_for_more_than_the_bound() -> None:
    header = zstandard.compress(b"")[:6]
    assert header.startswith(FRAME_MAGIC)
    pieces, _ = walk(header + b"\xfc\xff\xff" + bytes(4_000_000))
    assert max(map(len, pieces)) == MAX_PIECE_BYTES - 1


@pytest.mark.parametrize("single_segment", [False, True])
def test_a_frame_that_needs_too_long_a_window_is_refused_before_it_is_read(
    *, single_segment: bool
) -> None:
    def head(size: int) -> bytes:
        if single_segment:
            return FRAME_MAGIC + b"\xa0" + size.to_bytes(4, "little")
        return FRAME_MAGIC + b"\x00" + bytes([(size.bit_length() - 11) << 3])

    raw_block = b"\x09\x00\x00x"
    pieces, walker = walk(head(MAX_WINDOW_BYTES) + raw_block)
    assert (len(pieces), walker.failure) == (2, None)
    frame = zstandard.compress(b"hello")
    pieces, walker = walk(frame + head(2 * MAX_WINDOW_BYTES) + raw_block)
    assert b"".join(pieces) == frame
    assert walker.failure == (
        f"holds a zstd frame at byte {len(frame)} of the file that needs a window of 256 MiB; "
        "allowed are 128 MiB"
    )


@pytest.mark.parametrize("size", [0, 1, 100])
def test_skipping_many_frames_reads_the_file_once(size: int) -> None:
    raw = CountingFile(skippable(size) * 100_000)
    walker = FrameWalker(io.BufferedReader(raw, 1 << 20))
    while walker.read() is not None:
        pass
    assert walker.position == len(raw.getvalue())
    assert raw.bytes_read <= 2 * len(raw.getvalue())


class CountingFile(io.BytesIO):
    """A file that counts what is read of it."""

    bytes_read = 0

    def readinto(self, room: Any) -> int:
        count = super().readinto(room)
        self.bytes_read += count
        return count


def test_files_are_told_by_their_first_bytes() -> None:
    assert is_zstd(zstandard.compress(b"x")[:4])
    assert is_zstd(skippable(3)[:4])
    assert not is_zstd(b"DBN\x03")
    assert not is_zstd(b"")
