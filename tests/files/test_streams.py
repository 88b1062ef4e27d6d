from __future__ import annotations

import os
import random
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ingestor.files import streams
from ingestor.files.streams import PIECES_AT_ONCE, ByteStream, open_stream
from ingestor.files.zstd import MAX_BLOCK_BYTES
from ingestor.model.errors import BadDataError, NoDataError

NOISE = random.Random(3).randbytes(MAX_BLOCK_BYTES)
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
