from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from ingestor.feeds.databento.selection import Catalog
from ingestor.model.units import NS_PER_S, new_york_ns, to_ns
from ingestor.runtime.day_list import Day, days_of_files, days_of_journal, held_of, holes
from ingestor.runtime.run_records import LIVE_JOB, RunRecord
from tests.dbn_files import DAY, DAY_NS, dbn_path, depth, write_dbn
from tests.doctor.test_prerequisites_data import write_day
from tests.journal.tapes import option_frames, record, stock_frames

DAY_OF_TRADES = Day(date=DAY, feed="trades", files=1, size_bytes=1, names=("a.dbn",))


def run(**values: Any) -> RunRecord:
    """A replay of `DAY_OF_TRADES` that is done, in sequences 10 to 20."""
    what = {"files": [{"name": "a.dbn", "size": 1}], "dates": []}
    made: dict[str, Any] = {
        "run": "r",
        "kind": "replay",
        "host": "h",
        "pid": 1,
        "started_ns": DAY_NS,
        "updated_ns": DAY_NS,
        "state": "done",
        "stream": "MARKET_DATA",
        "feeds": ("trades",),
        "job": "j",
        "first_seq": 10,
        "last_seq": 20,
        "what": what,
    } | values
    return RunRecord(**made)


def test_a_day_of_a_feed_says_what_its_files_say(tmp_path: Path) -> None:
    write_dbn(dbn_path(tmp_path, "mbp-10"), depth(3), schema="mbp-10")
    path = write_day(tmp_path)
    write_day(tmp_path, 1)
    first, second, third = days_of_files(Catalog([tmp_path]))
    assert [(day.date, day.feed) for day in (first, second, third)] == [
        (DAY, "mbp10"),
        (DAY, "trades"),
        (DAY + dt.timedelta(1), "trades"),
    ]
    assert (second.files, second.size_bytes, second.names) == (1, path.stat().st_size, (path.name,))
    assert (second.symbols, second.symbol_count) == (("ES.c.0",), 1)


def test_a_folder_without_dbn_has_no_days(tmp_path: Path) -> None:
    assert days_of_files(Catalog([tmp_path])) == []


def test_a_journal_s_days_are_those_of_its_segments(tmp_path: Path) -> None:
    start_ns = new_york_ns(DAY, dt.time(10))
    record(tmp_path, "stocks", stock_frames(300, start_ns=start_ns), segment_bytes=15_000)
    record(tmp_path, "options", option_frames(50, start_ns=start_ns), roots=("SPY",))
    options, stocks = days_of_journal(tmp_path)
    assert (options.feed, stocks.feed, stocks.date) == ("options", "stocks", DAY)
    files = sorted(path for path in tmp_path.glob("stocks-*.journal*") if ".lock" not in path.name)
    assert stocks.names == tuple(path.name for path in files)
    assert stocks.files == len(files) > 1
    assert stocks.size_bytes == sum(path.stat().st_size for path in files)
    assert stocks.first_ns is not None
    assert abs(stocks.first_ns - start_ns) < NS_PER_S


def test_trading_days_that_lack_are_holes_and_weekends_are_not() -> None:
    days = [
        Day(date=DAY + dt.timedelta(days), feed="trades", files=1, size_bytes=1)
        for days in (0, 3, 6)
    ]
    lacking = [DAY + dt.timedelta(days) for days in (1, 2)]
    assert holes(days) == {"trades": lacking}
    assert holes(days[:1]) == {}


@pytest.mark.parametrize(
    ("values", "first_seq", "held"),
    [
        ({}, 1, "all"),
        ({}, 10, "all"),
        ({}, 11, "part"),
        ({}, 21, "none"),
        ({"state": "running"}, 1, "part"),
        ({"feeds": ("mbp10",)}, 1, "none"),
        ({"last_seq": None}, 1, "none"),
        ({"job_seq": 5}, 10, "part"),
        ({"what": {"files": [{"name": "b.dbn"}]}}, 1, "none"),
        ({"what": {"files": [{"name": "a.dbn"}], "symbols": ["ES"]}}, 1, "part"),
        ({"what": {"files": [{"name": "a.dbn"}], "dates": [f"{DAY}"]}}, 1, "all"),
        ({"what": {"files": [{"name": "a.dbn"}], "dates": ["2024-01-03"]}}, 1, "none"),
    ],
)
def test_what_a_stream_holds_of_a_day_the_records_of_runs_tell(
    values: dict[str, Any], first_seq: int, held: str
) -> None:
    assert held_of(DAY_OF_TRADES, [run(**values)], first_seq) == held


def test_without_any_record_nobody_knows() -> None:
    assert held_of(DAY_OF_TRADES, [], 1) == "unknown"


def test_a_live_run_holds_a_part_of_the_days_on_which_it_ran() -> None:
    began = to_ns(dt.datetime(2024, 1, 2, 15, tzinfo=dt.UTC))
    live = run(kind="live", job=LIVE_JOB, started_ns=began, updated_ns=began, what={})
    assert held_of(DAY_OF_TRADES, [live], 1) == "part"
    later = run(kind="live", job=LIVE_JOB, started_ns=began + 10**14, updated_ns=began + 10**14)
    assert held_of(DAY_OF_TRADES, [later], 1) == "none"
