from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from io import FileIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ingestor.files import streams
from ingestor.files.streams import (
    FRAME_MAGIC,
    MAX_BLOCK_BYTES,
    MAX_PIECE_BYTES,
    MAX_WINDOW_BYTES,
    PIECES_AT_ONCE,
    ByteStream,
    FrameWalker,
    is_zstd,
    open_stream,
)
from ingestor.model.errors import BadDataError, NoDataError

NOISE = random.Random(3).randbytes(MAX_BLOCK_BYTES)
MUCH_NOISE = random.Random(7).randbytes(300_000)
TEXT = b"0123456789abcdef" * (MAX_BLOCK_BYTES // 16)
GOOD_BYTES = 10_000
BLOCKS = [TEXT, NOISE, TEXT, bytes(MAX_BLOCK_BYTES)]


def drain(stream: ByteStream) -> bytes:
    room = memoryview(bytearray(stream.slack + 1000))
    content = bytearray()
    while (count := stream.read_some(room)) != 0:
        content += room[: count or 0]
    return bytes(content)


def content_of(path: Path) -> tuple[bytes, str | None]:
    with open_stream(path) as stream:
        return drain(stream), stream.failure


def frame_of_blocks(*, checksum: bool = False) -> list[bytes]:
    """One frame as its header and blocks, each of which holds one of `BLOCKS`."""
    compressor = zstandard.ZstdCompressor(write_checksum=checksum).compressobj()
    pieces = [
        compressor.compress(block) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for block in BLOCKS
    ]
    return [*pieces, compressor.flush()]


@given(st.lists(st.binary(max_size=3000), max_size=4))
def test_frames_are_read_across(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("x") / "file"
    path.write_bytes(b"".join(map(zstandard.compress, parts)))
    assert content_of(path) == (b"".join(parts), None)


def test_a_plain_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "misnamed.zst"
    path.write_bytes(NOISE)
    assert content_of(path) == (NOISE, None)


def test_the_position_counts_bytes_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(zstandard.compress(TEXT * 20))
    with open_stream(path) as stream:
        drain(stream)
        assert stream.position == path.stat().st_size < len(TEXT)


def test_a_cut_frame_gives_all_blocks_before_the_cut(tmp_path: Path) -> None:
    pieces = frame_of_blocks()
    whole = b"".join(pieces[:3])
    path = tmp_path / "file"
    path.write_bytes(whole + pieces[3][:2])
    content, failure = content_of(path)
    assert content == b"".join(BLOCKS[:3])
    assert failure == f"ends inside a zstd frame at byte {len(whole) + 2} of the file"


def test_a_frame_cut_between_two_blocks_gives_the_last_one_in_full(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(frame_of_blocks()[:2]))
    content, failure = content_of(path)
    assert content == b"".join(BLOCKS[:2])
    assert failure is not None


def test_corrupt_data_gives_all_blocks_before_it(tmp_path: Path) -> None:
    pieces = frame_of_blocks()
    whole = b"".join(pieces[:2])
    path = tmp_path / "file"
    path.write_bytes(whole + b"\x07\x00\x00" + b"".join(pieces[3:]))
    content, failure = content_of(path)
    assert content == b"".join(BLOCKS[:2])
    assert failure is not None
    assert failure.startswith(f"holds corrupt zstd data at byte {len(whole)} of the file (")


def test_a_wrong_checksum_is_noticed_after_the_frame_was_handed_out(tmp_path: Path) -> None:
    pieces = frame_of_blocks(checksum=True)
    content = b"".join(pieces)
    path = tmp_path / "file"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found, failure = content_of(path)
    assert found == b"".join(BLOCKS)
    assert failure is not None
    assert "checksum" in failure


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(NoDataError, match=r"/gone cannot be opened: No such file"),
        open_stream(tmp_path / "gone"),
    ):
        pytest.fail("it was opened")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "a named pipe"), (os.mkdir, "a folder"), (None, "a device")],
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None] | None, kind: str
) -> None:
    path = tmp_path / "thing" if make else Path("/dev/zero")
    if make:
        make(path)
    with (
        pytest.raises(NoDataError, match=f"^{path} is {kind}; only files can be read$"),
        open_stream(path),
    ):
        pytest.fail("it was opened")


@pytest.mark.parametrize(
    "nothing",
    [b"\x50\x2a\x4d\x18\x00\x00\x00\x00", zstandard.compress(b""), None],
    ids=["skippable frames", "empty frames", "empty blocks"],
)
def test_much_that_holds_nothing_is_read_in_pieces(tmp_path: Path, nothing: bytes | None) -> None:
    path = tmp_path / "file"
    many = 3 * PIECES_AT_ONCE
    head = zstandard.ZstdCompressor(write_content_size=False).compress(b"")[:6]
    before = head + b"\0\0\0" * many + b"\1\0\0" if nothing is None else nothing * many
    path.write_bytes(before + zstandard.compress(TEXT))
    room = memoryview(bytearray(MAX_BLOCK_BYTES))
    with open_stream(path) as stream:
        waits = 0
        while (count := stream.read_some(room)) is None:
            waits += 1
        assert waits >= 3
        assert (bytes(room[:count]), stream.read_some(room)) == (TEXT, 0)
        assert (stream.failure, stream.position) == (None, path.stat().st_size)


class FailingDisk(FileIO):
    """A file of which only the first `GOOD_BYTES` can be read."""

    def readinto(self, room: Any) -> int:
        if self.tell() >= GOOD_BYTES:
            raise OSError(5, "Input/output error")
        return super().readinto(memoryview(room)[: GOOD_BYTES - self.tell()])


@pytest.mark.parametrize("zstd", [False, True])
def test_a_read_error_gives_what_was_read_before_and_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, zstd: bool
) -> None:
    monkeypatch.setattr(streams, "FileIO", FailingDisk)
    path = tmp_path / "file"
    first, *rest = frame_of_blocks()
    path.write_bytes(b"".join([first, NOISE[: GOOD_BYTES - len(first)], *rest]) if zstd else NOISE)
    content, failure = content_of(path)
    assert content.startswith(TEXT if zstd else NOISE[:GOOD_BYTES])
    assert failure is not None
    assert failure.endswith("of the file: Input/output error")


def test_a_file_of_which_nothing_can_be_read_is_named() -> None:
    path = Path("/proc/self/mem")
    with (
        pytest.raises(BadDataError, match=r"mem cannot be read at byte 0 of the file: Input/out"),
        open_stream(path),
    ):
        pytest.fail("it was opened")


def test_the_file_is_closed_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    with open_stream(path) as stream:
        pass
    with pytest.raises(ValueError, match="closed"):
        stream.read_some(memoryview(bytearray(10)))


def payloads() -> st.SearchStrategy[bytes]:
    """Blocks of every kind: compressed, raw (noise) and run-length (zeros)."""
    piece = st.one_of(
        st.binary(max_size=50),
        st.integers(0, 300_000).map(bytes),
        st.integers(0, 300_000).map(lambda size: MUCH_NOISE[:size]),
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


@given(st.data())
def test_a_file_damaged_anywhere_gives_the_front_of_its_content_and_says_why(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    blocks = [TEXT[:5000], NOISE[:5000], bytes(5000)]
    frames = [zstandard.ZstdCompressor(write_checksum=True).compress(block) for block in blocks]
    whole = b"".join(frames)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    if cut := data.draw(st.booleans()):
        del damaged[at:]
    else:
        damaged[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("x") / "file"
    path.write_bytes(damaged)
    if not is_zstd(bytes(damaged[:4])):
        return
    content, failure = content_of(path)
    ends = list(accumulate(map(len, frames)))
    before = b"".join(blocks[: sum(end <= at for end in ends)])
    assert content.startswith(before)
    if failure is None:
        # Cut between frames; or changed is the one bit of a frame's header that means nothing.
        assert content == (before if cut else b"".join(blocks))
