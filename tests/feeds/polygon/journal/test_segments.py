from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import zstandard

from ingestor.errors import NoDataError
from ingestor.feeds.polygon.journal.format import Market
from ingestor.feeds.polygon.journal.segments import (
    available_dates,
    find_segments,
    header_of,
    holds_journal,
    list_segments,
    open_segment,
    segment_name,
)
from tests.feeds.polygon.journal.tapes import DAY, HEADER, header, segment

ONE_DAY = dt.timedelta(days=1)
NEXT, THIRD = DAY + ONE_DAY, DAY + 2 * ONE_DAY


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


def readings(directory: Path, *dates: dt.date) -> list[tuple[str, bool]]:
    """Date and number of what is to be read, and whether it is silent."""
    return [
        (f"{one.segment.date:%d}-{one.segment.number}", one.silent)
        for one in find_segments(directory, Market.STOCKS, dates)
    ]


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
    assert holds_journal(tmp_path)


def test_segments_come_in_order_with_their_size_on_disk(tmp_path: Path) -> None:
    paths = [put(tmp_path, NEXT, 1), put(tmp_path, DAY, 2, zstd=True), put(tmp_path, DAY, 1)]
    found = list_segments(tmp_path, Market.STOCKS)
    assert [(one.date, one.number) for one in found] == [(DAY, 1), (DAY, 2), (NEXT, 1)]
    assert [one.size for one in found] == [path.stat().st_size for path in reversed(paths)]
    assert available_dates(tmp_path, Market.STOCKS) == [DAY, NEXT]


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


def test_a_segment_cut_in_its_header_has_none(tmp_path: Path) -> None:
    path = put(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert header_of(list_segments(tmp_path, Market.STOCKS)[0]) is None
    path.write_bytes(b"[{}]")
    assert header_of(list_segments(tmp_path, Market.STOCKS)[0]) is None


@pytest.mark.parametrize("is_file", [False, True])
def test_a_folder_that_is_missing_is_named(tmp_path: Path, *, is_file: bool) -> None:
    gone = tmp_path / "gone"
    if is_file:
        gone.touch()
    with pytest.raises(NoDataError, match=rf"{gone} cannot be listed: (No such|Not a)"):
        find_segments(gone, Market.STOCKS)


def test_a_folder_that_holds_no_journal_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        NoDataError,
        match=r"no journal of stocks: no file is named stocks-YYYYMMDD-NNNNNN\.journal\[\.zst\]",
    ):
        find_segments(tmp_path, Market.STOCKS, [DAY])
    assert not holds_journal(tmp_path)


def test_a_date_that_is_missing_is_told_with_those_there_are(tmp_path: Path) -> None:
    put(tmp_path, DAY)
    put(tmp_path, NEXT)
    with pytest.raises(
        NoDataError,
        match="holds no stocks of 2025-12-18; dates there are: 2025-12-16, 2025-12-17",
    ):
        find_segments(tmp_path, Market.STOCKS, [THIRD, DAY])


def test_no_dates_mean_every_segment_there_is(tmp_path: Path) -> None:
    put(tmp_path, DAY, part=1)
    put(tmp_path, NEXT, part=2)
    assert readings(tmp_path) == [("16-1", False), ("17-1", False)]


def test_a_day_is_preceded_by_what_its_connection_brought_before(tmp_path: Path) -> None:
    put(tmp_path, DAY, 1, part=1, connection=1)
    put(tmp_path, DAY, 2, part=2, connection=1)
    put(tmp_path, DAY, 3, part=3, connection=2)
    put(tmp_path, NEXT, 1, part=4, connection=2)
    put(tmp_path, NEXT, 2, part=5, connection=3)
    expected = [("16-2", True), ("16-3", True), ("17-1", False), ("17-2", False)]
    assert readings(tmp_path, NEXT) == expected


def test_a_day_that_another_run_begins_is_preceded_by_nothing(tmp_path: Path) -> None:
    put(tmp_path, DAY, 1, run_ns=1, part=1)
    put(tmp_path, NEXT, 1, run_ns=2, part=1)
    assert readings(tmp_path, NEXT) == [("17-1", False)]
    put(tmp_path, NEXT, 1, run_ns=2, part=2)
    assert readings(tmp_path, NEXT) == [("17-1", False)]


def test_what_precedes_a_day_reaches_back_at_most_to_another_day_that_is_read(
    tmp_path: Path,
) -> None:
    for part, date in enumerate((DAY, NEXT, THIRD), 1):
        put(tmp_path, date, part=part)
    assert readings(tmp_path, THIRD, DAY) == [("16-1", False), ("17-1", True), ("18-1", False)]


def test_what_precedes_a_day_ends_where_a_header_is_damaged(tmp_path: Path) -> None:
    put(tmp_path, DAY, 1, part=1).write_bytes(b"")
    put(tmp_path, DAY, 2, part=2)
    put(tmp_path, NEXT, 1, part=3)
    assert readings(tmp_path, NEXT) == [("16-2", True), ("17-1", False)]
