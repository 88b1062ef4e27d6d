from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import zstandard

from ingestor.feeds.polygon.journal_feed import first_event_ns
from ingestor.files.streams import PIECES_AT_ONCE
from ingestor.journal.format import Market
from ingestor.journal.reader import dates_recorded
from ingestor.journal.segments import (
    header_of,
    is_whole,
    list_segments,
    open_segment,
    passed_over,
    segment_name,
)
from ingestor.model.errors import NoDataError
from tests.journal.tapes import DAY, HEADER, header, segment

ONE_DAY = dt.timedelta(days=1)
NEXT = DAY + ONE_DAY


def put(
    directory: Path, date: dt.date = DAY, number: int = 1, *, zstd: bool = False, **head: int
) -> Path:
    """Write a segment without entries."""
    data = segment([], header(date=date, **head))
    path = directory / segment_name(Market.STOCKS, date, number)
    if zstd:
        path, data = path.with_name(path.name + ".zst"), zstandard.compress(data)
    path.write_bytes(data)
    return path


def test_names_in_order_of_the_alphabet_are_in_order_of_time() -> None:
    keys = [(DAY, 1), (DAY, 2), (DAY, 10), (DAY, 999_999), (NEXT, 1), (dt.date(2026, 1, 1), 1)]
    names = [segment_name(Market.STOCKS, *key) for key in keys]
    assert names == sorted(names)


def test_other_files_are_no_segments(tmp_path: Path) -> None:
    for name in (
        "stocks.lock",
        "stocks-20251216-000001.journal.zst.part77",
        "stocks-20251316-000001.journal",
        "stocks-20251216-1.journal",
        "options-20251216-000001.journal",
        "notes.txt",
    ):
        (tmp_path / name).touch()
    assert list_segments(tmp_path, Market.STOCKS) == []
    assert [one.number for one in list_segments(tmp_path, Market.OPTIONS)] == [1]


def test_segments_come_in_order_with_their_size_on_disk(tmp_path: Path) -> None:
    paths = [put(tmp_path, NEXT, 1), put(tmp_path, DAY, 2, zstd=True), put(tmp_path, DAY, 1)]
    found = list_segments(tmp_path, Market.STOCKS)
    assert [(one.date, one.number) for one in found] == [(DAY, 1), (DAY, 2), (NEXT, 1)]
    assert [one.size for one in found] == [path.stat().st_size for path in reversed(paths)]
    assert dates_recorded(tmp_path, Market.STOCKS, first_event_ns) == [DAY, NEXT]


def test_of_a_segment_that_is_there_twice_the_plain_one_is_read_once(tmp_path: Path) -> None:
    plain, compressed = put(tmp_path), put(tmp_path, zstd=True)
    compressed.write_bytes(b"not even whole")
    (found,) = list_segments(tmp_path, Market.STOCKS)
    assert found.size == plain.stat().st_size
    assert header_of(found) == HEADER


def test_a_segment_compressed_since_it_was_listed_is_still_read(tmp_path: Path) -> None:
    plain = put(tmp_path)
    (found,) = list_segments(tmp_path, Market.STOCKS)
    put(tmp_path, zstd=True)
    plain.unlink()
    assert header_of(found) == HEADER
    plain.with_name(plain.name + ".zst").unlink()
    with pytest.raises(NoDataError, match=r"\.journal\.zst cannot be opened"), open_segment(found):
        pass
    assert header_of(found) is None


def test_a_header_behind_much_that_holds_nothing_is_found(tmp_path: Path) -> None:
    path = put(tmp_path, zstd=True)
    path.write_bytes(b"\x50\x2a\x4d\x18\0\0\0\0" * (PIECES_AT_ONCE + 1) + path.read_bytes())
    assert header_of(list_segments(tmp_path, Market.STOCKS)[0]) == HEADER


def test_a_segment_cut_in_its_header_has_none(tmp_path: Path) -> None:
    path = put(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert header_of(list_segments(tmp_path, Market.STOCKS)[0]) is None
    path.write_bytes(b"[{}]")
    assert header_of(list_segments(tmp_path, Market.STOCKS)[0]) is None


def test_of_a_segment_that_is_there_twice_the_whole_compressed_one_is_read(tmp_path: Path) -> None:
    plain, compressed = put(tmp_path), put(tmp_path, zstd=True)
    plain.write_bytes(plain.read_bytes()[:20])
    (found,) = list_segments(tmp_path, Market.STOCKS)
    assert (found.path_there, found.size) == (compressed, compressed.stat().st_size)
    assert header_of(found) == HEADER
    compressed.unlink()
    assert found.path_there == plain


@pytest.mark.parametrize("cut", range(1, 40, 4))
def test_a_compressed_file_without_a_sound_end_is_not_whole(tmp_path: Path, cut: int) -> None:
    path = put(tmp_path, zstd=True)
    assert is_whole(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert not is_whole(path)


def test_a_compressed_file_that_ends_after_a_block_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "stocks-20251216-000001.journal.zst"
    compressor = zstandard.ZstdCompressor(write_checksum=False).compressobj()
    first = compressor.compress(b"x" * 10) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    path.write_bytes(first)
    assert not is_whole(path)
    path.write_bytes(first + compressor.flush())
    assert is_whole(path)
    path.write_bytes(b"")
    assert not is_whole(path)


def test_what_belongs_to_no_journal_is_listed(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, NEXT, zstd=True)
    odd = ["notes.txt", "stocks-20251216-1.journal", "stocks-20251316-000001.journal"]
    for name in ("stocks.lock", "options-20251216-000001.journal.zst.part7", *odd):
        (tmp_path / name).touch()
    assert passed_over(tmp_path) == odd
