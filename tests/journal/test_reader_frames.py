from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from ingestor.journal.format import Entry, Header, Market
from ingestor.journal.reader import MAX_DAMAGES_TOLD, READ_BYTES, JournalProgress, SegmentFrames
from ingestor.journal.segment_writer import compress
from ingestor.journal.segments import list_segments
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import NoDataError
from tests.journal.tapes import HEADER, entries, segment

FRAMES = entries([(b"[%d]" % number * 3000, number, 1) for number in range(90)])


class Reading:
    """A segment with these bytes, read."""

    def __init__(self, directory: Path, data: bytes, *, zstd: bool = False) -> None:
        path = directory / "stocks-20251216-000001.journal"
        path.write_bytes(data)
        if zstd:
            path = compress(path)
        self.headers: list[Header] = []
        self.progress = JournalProgress(bytes_read=1000)
        (one,) = list_segments(directory, Market.STOCKS)
        found = list(SegmentFrames(one, self.progress, self.headers.append).entries())
        self.frames = [entry for entry in found if isinstance(entry, Entry)]
        self.pieces = found.count(None)
        self.size = path.stat().st_size


@pytest.mark.parametrize("zstd", [False, True])
def test_a_segment_is_its_header_its_frames_and_a_sign_after_every_piece(
    tmp_path: Path, *, zstd: bool
) -> None:
    reading = Reading(tmp_path, segment(FRAMES), zstd=zstd)
    assert reading.headers == [HEADER]
    assert reading.frames == FRAMES
    assert reading.pieces >= len(segment(FRAMES)) // (2 * READ_BYTES)
    assert reading.progress.bytes_read == 1000 + reading.size
    assert reading.progress.damages == 0


def test_an_empty_file_is_a_torn_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reading = Reading(tmp_path, b"")
    assert (reading.headers, reading.frames, reading.progress.damages) == ([], [], 0)
    assert [one.levelname for one in caplog.records] == ["WARNING"]


def test_a_compressed_file_that_is_cut_is_damaged_not_torn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Reading(tmp_path, segment(FRAMES), zstd=True)
    path = tmp_path / "stocks-20251216-000001.journal.zst"
    path.write_bytes(path.read_bytes()[:-20])
    caplog.clear()
    (one,) = list_segments(tmp_path, Market.STOCKS)
    progress = JournalProgress()
    headers: list[Header] = []
    list(SegmentFrames(one, progress, headers.append).entries())
    assert progress.damages == 1
    assert [one.levelname for one in caplog.records] == ["ERROR"]


def test_damage_in_two_places_is_told_twice(tmp_path: Path) -> None:
    data = bytearray(segment(FRAMES))
    data[1000] ^= 1
    data[-1000] ^= 1
    data[-40_000] ^= 1
    reading = Reading(tmp_path, bytes(data))
    assert reading.progress.damages == 2
    assert len(reading.frames) == len(FRAMES) - 3
    assert str(reading.progress.damaged).startswith(
        f"{tmp_path}/stocks-20251216-000001.journal is damaged from byte 44 to 9076 uncompressed"
    )


def test_a_file_that_is_gone_is_no_damage_but_missing(tmp_path: Path) -> None:
    Reading(tmp_path, segment(FRAMES))
    (one,) = list_segments(tmp_path, Market.STOCKS)
    one.path.unlink()
    headers: list[Header] = []
    with pytest.raises(NoDataError, match="cannot be opened"):
        list(SegmentFrames(one, JournalProgress(), headers.append).entries())


def test_a_frame_received_at_an_impossible_time_costs_itself(tmp_path: Path) -> None:
    last = FRAMES[2]._replace(recv_ns=MAX_TIME_NS)
    frames = [FRAMES[0], FRAMES[1]._replace(recv_ns=MAX_TIME_NS + 1), last]
    reading = Reading(tmp_path, segment(frames))
    assert reading.frames == [FRAMES[0], last]
    assert reading.progress.damages == 1
    assert "frame 1 was received after the year 2262" in str(reading.progress.damaged)


def test_a_compressed_file_that_asks_for_a_window_of_two_gibibytes_is_damaged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "stocks-20251216-000001.journal.zst"
    compressor = zstandard.ZstdCompressor().compressobj()
    data = bytearray(compressor.compress(segment(FRAMES[:1])) + compressor.flush())
    data[5] = (31 - 10) << 3
    path.write_bytes(data)
    (one,) = list_segments(tmp_path, Market.STOCKS)
    progress = JournalProgress()
    headers: list[Header] = []
    list(SegmentFrames(one, progress, headers.append).entries())
    assert progress.damages == 1
    assert re.search("window|memory", str(progress.damaged))


def test_a_compressed_file_of_two_hundred_megabytes_of_nothing_takes_little_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "stocks-20251216-000001.journal.zst"
    path.write_bytes(zstandard.compress(segment(FRAMES[:1]) + bytes(200 << 20)))
    (one,) = list_segments(tmp_path, Market.STOCKS)
    headers: list[Header] = []
    tracemalloc.start()
    found = list(SegmentFrames(one, JournalProgress(), headers.append).entries())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0] == FRAMES[0]
    assert found.count(None) > 500
    assert peak_bytes < 4 << 20


def test_damages_beyond_a_hundred_are_counted_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = entries([(b"[]", number, 1) for number in range(600)])
    data = bytearray(segment(frames))
    for at in range(44 + 4, len(data) - 40, 2 * (32 + 2)):
        data[at] ^= 1
    reading = Reading(tmp_path, bytes(data))
    assert reading.progress.damages == 300
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == MAX_DAMAGES_TOLD
