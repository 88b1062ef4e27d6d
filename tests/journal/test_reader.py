from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest
import zstandard

from ingestor.feeds.polygon.journal_feed import JournalFeed, first_event_ns
from ingestor.journal import reader
from ingestor.journal.format import Entry, Market
from ingestor.journal.reader import (
    JournalProgress,
    SegmentFrames,
    dates_recorded,
    find_segments,
    oddities,
)
from ingestor.journal.segments import list_segments
from ingestor.model.errors import NoDataError
from ingestor.model.units import NS_PER_S, new_york_ns
from tests.journal.tapes import (
    DAY,
    Received,
    live_messages,
    messages_of,
    record,
    stock_frames,
)
from tests.journal.test_segments import NEXT, put

THIRD = NEXT + dt.timedelta(days=1)


def readings(directory: Path, *dates: dt.date) -> list[tuple[str, bool]]:
    """Date and number of what is to be read, and whether it is silent."""
    return [
        (f"{one.segment.date:%d}-{one.segment.number}", one.context_only)
        for one in find_segments(directory, Market.STOCKS, dates, first_event_ns)
    ]


@pytest.mark.parametrize("is_file", [False, True])
def test_a_folder_that_is_missing_is_named(tmp_path: Path, *, is_file: bool) -> None:
    gone = tmp_path / "gone"
    if is_file:
        gone.touch()
    with pytest.raises(NoDataError, match=rf"{gone} cannot be listed: (No such|Not a)"):
        find_segments(gone, Market.STOCKS, [], first_event_ns)


def test_a_folder_that_holds_no_journal_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        NoDataError,
        match=r"no journal of stocks: no file is named stocks-YYYYMMDD-NNNNNN\.journal\[\.zst\]",
    ):
        find_segments(tmp_path, Market.STOCKS, [DAY], first_event_ns)


def test_a_date_that_is_missing_is_told_with_those_there_are(tmp_path: Path) -> None:
    put(tmp_path, DAY)
    put(tmp_path, NEXT)
    with pytest.raises(
        NoDataError,
        match="holds no stocks of 2025-12-18; dates there are: 2025-12-16, 2025-12-17",
    ):
        find_segments(tmp_path, Market.STOCKS, [THIRD, DAY], first_event_ns)


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


def misdated(directory: Path, by_days: int, *, seed: int = 1, count: int = 10) -> list[Received]:
    """Record frames of `DAY` by a clock that is wrong by so many days."""
    frames = stock_frames(count, seed=seed)
    off_ns = by_days * 24 * 3600 * NS_PER_S
    record(directory, "stocks", [(data, at + off_ns, socket) for data, at, socket in frames])
    return frames


@pytest.mark.parametrize("by_days", [-400, -1, 1, 30])
def test_a_day_recorded_under_a_wrong_date_is_found_by_its_frames(
    tmp_path: Path, by_days: int
) -> None:
    frames = misdated(tmp_path, by_days)
    (reading,) = find_segments(tmp_path, Market.STOCKS, [DAY], first_event_ns)
    wrong = DAY + dt.timedelta(days=by_days)
    assert (reading.segment.date, reading.date) == (wrong, DAY)
    assert sorted([DAY, wrong]) == dates_recorded(tmp_path, Market.STOCKS, first_event_ns)
    (said,) = oddities(tmp_path, [reading])
    assert f"holds frames of {DAY}: it is read as that day's" in said
    feed = JournalFeed(
        directory=tmp_path, market=Market.STOCKS, dates=[DAY], start=dt.time(9), end=dt.time(16)
    )
    assert len(messages_of(feed.blocks())) == len(live_messages("stocks", [frames]))


@pytest.mark.parametrize(
    ("beyond_ns", "days"),
    [(-1, [DAY - dt.timedelta(days=1), DAY]), (0, [DAY]), (1, [DAY, NEXT]), (2, [DAY, NEXT])],
)
def test_an_hour_around_the_date_of_its_name_is_still_that_date(
    tmp_path: Path, beyond_ns: int, days: list[dt.date]
) -> None:
    """-1 and 0: the hour before the day's midnight; 1 and 2: the one after its end."""
    put(tmp_path, DAY)
    hour_ns = 3600 * NS_PER_S
    start_ns = new_york_ns(DAY, dt.time()) - hour_ns
    end_ns = new_york_ns(NEXT, dt.time()) + hour_ns
    first_ns = start_ns + beyond_ns if beyond_ns <= 0 else end_ns + beyond_ns - 1
    assert dates_recorded(tmp_path, Market.STOCKS, lambda _: first_ns) == days
    last_ns = end_ns - 1
    assert dates_recorded(tmp_path, Market.STOCKS, lambda _: last_ns) == [DAY]


def test_a_file_that_was_renamed_to_a_wrong_date_is_found_by_its_frames(tmp_path: Path) -> None:
    record(tmp_path, "stocks", stock_frames(10))
    (path,) = tmp_path.glob("*.journal")
    path.rename(path.with_name("stocks-20240101-000001.journal"))
    (reading,) = find_segments(tmp_path, Market.STOCKS, [DAY], first_event_ns)
    assert reading.date == DAY


def test_segments_of_a_clock_that_stepped_come_in_order_of_their_frames(tmp_path: Path) -> None:
    day_ns = 24 * 3600 * NS_PER_S
    frames = stock_frames(30)
    steps = [0] * 10 + [3 * day_ns] * 10 + [0] * 10
    record(
        tmp_path,
        "stocks",
        [(data, at + off, socket) for (data, at, socket), off in zip(frames, steps, strict=True)],
    )
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS, dates=[DAY])
    sequences = [
        sequence for block in feed.blocks() for sequence in block.records["sequence"].tolist()
    ]
    assert sequences == sorted(sequences)
    assert feed.progress.frames == 30
    assert feed.progress.skipped == {}


def test_a_date_in_a_name_holds_though_a_frame_about_midnight_is_older(tmp_path: Path) -> None:
    midnight_ns = new_york_ns(DAY, dt.time(0))
    data = [(data, midnight_ns + 1, 1) for data, _, _ in stock_frames(3, start_ns=midnight_ns - 10)]
    record(tmp_path, "stocks", data)
    assert dates_recorded(tmp_path, Market.STOCKS, first_event_ns) == [DAY]


def test_a_copy_of_a_segment_is_read_once(tmp_path: Path) -> None:
    frames = stock_frames(20)
    record(tmp_path, "stocks", frames)
    (path,) = tmp_path.glob("*.journal")
    shutil.copy(path, path.with_name("stocks-20251216-000007.journal"))
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS)
    assert messages_of(feed.blocks()) == live_messages("stocks", [frames])
    assert feed.progress.skipped == {"frame_repeated": 20}


@pytest.mark.parametrize(("others", "more"), [(10, ""), (11, " and 1 more")])
def test_ten_names_are_told_and_the_rest_are_counted(
    tmp_path: Path, others: int, more: str
) -> None:
    for number in range(others):
        (tmp_path / f"other-{number:02}").touch()
    with pytest.raises(NoDataError, match=rf"passed over: other-00, .*other-09{more}(?!.* more)"):
        find_segments(tmp_path, Market.STOCKS, [], first_event_ns)


def test_names_that_are_passed_over_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        (tmp_path / f"stocks-2025121{number}.journal").touch()
    (tmp_path / "a\nb").touch()
    with pytest.raises(NoDataError, match=r"passed over: a\\nb, stocks-.* and 3 more"):
        find_segments(tmp_path, Market.STOCKS, [], first_event_ns)
    record(tmp_path, "stocks", stock_frames(2))
    list(JournalFeed(directory=tmp_path, market=Market.STOCKS).blocks())
    assert "passed over, being no part of a journal: a\\nb" in caplog.records[0].getMessage()


def test_a_segment_that_is_there_twice_is_told(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, zstd=True)
    (said,) = oddities(tmp_path, find_segments(tmp_path, Market.STOCKS, [], first_event_ns))
    assert said.endswith(".journal.zst is read")


def entries_from(directory: Path, from_ns: int | None) -> list[Entry]:
    """What of the only segment is read from a time on."""
    (segment,) = list_segments(directory, Market.STOCKS)
    frames = SegmentFrames(segment, JournalProgress(), lambda _: None, from_ns)
    return [one for one in frames.entries() if one is not None]


def test_from_a_time_on_all_is_read_that_is_as_new_and_little_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, "stocks", stock_frames(200))
    every = entries_from(tmp_path, None)
    monkeypatch.setattr(reader, "PROBE_BYTES", 4096)
    for index in range(0, len(every), 3):
        found = entries_from(tmp_path, every[index].recv_ns)
        assert found == every[len(every) - len(found) :]
        assert found[0].number <= index
        before = [one for one in found if one.recv_ns < every[index].recv_ns]
        assert sum(len(one.payload) for one in before) <= 2 * 4096
    assert entries_from(tmp_path, 0) == every


def test_a_compressed_segment_is_read_from_its_front(tmp_path: Path) -> None:
    record(tmp_path, "stocks", stock_frames(200))
    every = entries_from(tmp_path, None)
    (segment,) = list_segments(tmp_path, Market.STOCKS)
    segment.compressed_path.write_bytes(zstandard.compress(segment.path.read_bytes()))
    segment.path.unlink()
    assert entries_from(tmp_path, every[-1].recv_ns) == every
