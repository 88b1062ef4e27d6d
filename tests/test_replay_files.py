"""Which files a command line means, and what their feeds hand on, in this process."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingestor.cli import command_line
from ingestor.cli import replay as cli
from ingestor.config.schema import Config
from ingestor.feeds.databento.selection import MAX_LANES
from ingestor.model.errors import ExitCode
from ingestor.model.records import Records
from ingestor.model.units import NS_PER_S
from ingestor.runtime import replay_feeds
from ingestor.runtime.feed_process import FeedSource
from tests.dbn_files import DAY, INSTRUMENT, depth, trades, write_dbn
from tests.deliveries import (
    DAY_LONG_NS,
    HOUR_NS,
    ONE,
    Row,
    at,
    by_symbol,
    deliver,
    hourly,
    job,
    merged,
    rows,
)

T = at(trades(40), sequence=100)
D = at(depth(60, step_ns=NS_PER_S // 2), sequence=500)

Read = Callable[..., dict[str, list[Row]]]


class _Configured(BaseException):
    """Ends the command once it is configured."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Read:
    """Return what gives the rows of each feed of a command line, as the feed hands them on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "configure", lambda *_: None)
    configs: list[Config] = []

    def publisher(config: Config, **_: Any) -> Any:
        configs.append(config)
        raise _Configured

    monkeypatch.setattr(cli, "ReplayPublisher", publisher)

    def rows_of(source: FeedSource) -> list[Row]:
        return [row for block in source.blocks() for row in rows(block.records)]

    def feeds(*arguments: str | Path) -> dict[str, list[Row]]:
        with pytest.raises(_Configured):
            cli.main([str(one) for one in arguments])
        config = configs.pop()
        sources = replay_feeds.feed_sources(config, config.replay.data_dir)
        return {name: rows_of(source) for name, source in sources.items()}

    return feeds


Wrong = Callable[..., tuple[int, str]]


@pytest.fixture
def wrong(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Wrong:
    """Return what gives exit code and last line of a command that starts nothing."""
    monkeypatch.chdir(tmp_path)

    def main(*arguments: str | Path) -> tuple[int, str]:
        words = [str(one) for one in arguments]
        exit_code = cli.main([*words, "--nats", "nats://127.0.0.1:9"])
        return exit_code, capfd.readouterr().err.strip().splitlines()[-1]

    return main


NAMES = [
    "glbx-mdp3-20240102.trades.dbn.zst",
    "glbx-mdp3-20240101-20240131.trades.dbn.zst",
    "glbx-mdp3-20240102.trades.ESH6.dbn.zst",
    "glbx-mdp3-20240102.trades.0000.dbn.zst",
    "xnas-itch-20240102.trades.dbn.zst",
    "foo.dbn",
    ".dbn.zst",
    "Week 1 (copy).DBN",
    "glbx-mdp3-20240102.mbp-10.dbn",
]


@pytest.mark.parametrize("how", ["job folder", "data-dir is the file", "argument", "config"])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do_however_the_file_is_given(
    tmp_path: Path, read: Read, name: str, how: str
) -> None:
    """Also one that says another schema: the header knows."""
    path = deliver(job(tmp_path / "job") / name, T, "trades")
    config = tmp_path / "config.toml"
    config.write_text(f'[replay]\nfiles = ["{path}"]\n')
    ways: dict[str, Sequence[str | Path]] = {
        "job folder": ["--data-dir", path.parent, "--feeds", "trades"],
        "data-dir is the file": ["--data-dir", path],
        "argument": ["--speed", "0", path, "--encoding", "json"],
        "config": ["--config", config],
    }
    assert read(*ways[how]) == {"trades": rows(T)}


@pytest.mark.parametrize("depth_of_folders", [0, 1, 5])
@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_jobs_lie_at_any_sensible_depth(
    tmp_path: Path, read: Read, depth_of_folders: int, suffix: str
) -> None:
    base = tmp_path.joinpath("data", *"abcde"[:depth_of_folders])
    for name, records, schema in (("AAAAAAAAAA", T, "trades"), ("BBBBBBBBBB", D, "mbp-10")):
        folder = job(base / f"GLBX-20240103-{name}")
        deliver(folder / f"glbx-mdp3-20240102.{schema}.dbn{suffix}", records, schema)
    assert read("--data-dir", "data") == {"trades": rows(T), "mbp10": rows(D)}


def test_links_that_lead_in_a_circle_or_twice_to_a_file_do_no_harm(
    tmp_path: Path, read: Read
) -> None:
    path = deliver(tmp_path / "job" / "a.dbn", T, "trades")
    (tmp_path / "job" / "up").symlink_to(tmp_path)
    (tmp_path / "again.dbn").symlink_to(path)
    assert read("--data-dir", tmp_path, "--feeds", "trades") == {"trades": rows(T)}


def test_names_without_the_suffix_are_taken_when_they_are_named(tmp_path: Path, read: Read) -> None:
    assert read(deliver(tmp_path / "download", T, "trades")) == {"trades": rows(T)}


@pytest.mark.parametrize("name", ["live.dbn", "glbx-mdp3-20240102.trades.dbn"])
def test_a_capture_without_a_schema_serves_the_feeds_its_name_leaves_open(
    tmp_path: Path, read: Read, name: str
) -> None:
    path = write_dbn(tmp_path / name, T.tobytes() + D.tobytes(), schema=None, zstd=False)
    expected = {"trades": rows(T), "mbp10": rows(D)}
    assert read(path) == (expected if name == "live.dbn" else {"trades": rows(T)})


@pytest.mark.parametrize(("count", "size"), [(2, 30_000), (7, 1_000), (60, 50)])
def test_files_split_by_symbol_are_merged_in_time(
    tmp_path: Path, read: Read, count: int, size: int
) -> None:
    files = by_symbol(tmp_path, count, size)
    assert read("--data-dir", tmp_path, "--feeds", "trades") == {"trades": merged(*files)}


def test_days_split_by_symbol_stay_merged_from_day_to_day(tmp_path: Path, read: Read) -> None:
    files = []
    for number in range(6):
        date, symbol = DAY + number // 2 * ONE, ("ESH4", "NQH4")[number % 2]
        start_ns = number // 2 * DAY_LONG_NS
        records = at(trades(50, step_ns=NS_PER_S + number), sequence=100 * number)
        for name in ("ts_event_ns", "ts_recv_ns"):
            records[name] += np.uint64(start_ns)
        path = tmp_path / f"glbx-mdp3-{date:%Y%m%d}.trades.{symbol}.dbn"
        deliver(path, records, "trades", days=(date, date), symbols={symbol: number % 2})
        files.append(records)
    assert read("--data-dir", tmp_path, "--feeds", "trades") == {"trades": merged(*files)}


def test_files_that_hold_the_same_data_in_part_are_for_people_to_choose_from(
    tmp_path: Path, wrong: Wrong
) -> None:
    one = deliver(tmp_path / "1" / "a.dbn", T, "trades", symbols={"ES": INSTRUMENT, "NQ": 2})
    other = deliver(tmp_path / "2" / "b.dbn", T, "trades", symbols={"NQ": 2, "CL": 3})
    exit_code, line = wrong("--data-dir", tmp_path)
    assert exit_code == ExitCode.CONFIGURATION
    assert str(one) in line
    assert str(other) in line
    assert "share some instruments on 2024-01-02" in line


def test_a_file_within_another_is_passed_over(tmp_path: Path, read: Read) -> None:
    one = deliver(tmp_path / "1" / "a.dbn", T, "trades", symbols={"ES": INSTRUMENT, "NQ": 2})
    within = deliver(tmp_path / "2" / "b.dbn", T[:9], "trades", symbols={"ES": INSTRUMENT})
    assert read(one, within) == {"trades": rows(T)}


def test_more_files_than_can_be_merged_are_refused(tmp_path: Path, wrong: Wrong) -> None:
    by_symbol(tmp_path, MAX_LANES + 1, 1)
    exit_code, line = wrong("--data-dir", tmp_path, "--feeds", "trades")
    assert exit_code == ExitCode.NO_DATA
    assert f"{MAX_LANES + 1} trades files overlap in time; at most {MAX_LANES}" in line


def test_files_by_symbol_of_one_header_are_parts_by_their_names(tmp_path: Path, read: Read) -> None:
    both = {"ESH4": INSTRUMENT, "ESM4": 5}
    near, far = at(trades(30), sequence=1), at(trades(30, step_ns=NS_PER_S // 3), instrument=5)
    for name, records in (("ESH4", near), ("ESM4", far)):
        deliver(tmp_path / f"glbx-mdp3-20240102.trades.{name}.dbn", records, "trades", symbols=both)
    assert read("--data-dir", tmp_path, "--feeds", "trades") == {"trades": merged(near, far)}


@pytest.mark.parametrize("names", [("foo.dbn", "foo.dbn.zst"), ("a.dbn.zst", "b.dbn")])
def test_of_the_same_data_plain_and_compressed_the_plain_one_is_read(
    tmp_path: Path, read: Read, caplog: pytest.LogCaptureFixture, names: tuple[str, str]
) -> None:
    caplog.set_level("INFO")
    plain, other = sorted(names, key=lambda name: name.endswith(".zst"))
    for name in names:
        deliver(tmp_path / name, T, "trades")
    assert read("--data-dir", tmp_path, "--feeds", "trades") == {"trades": rows(T)}
    (line,) = [line for line in caplog.messages if other in line]
    assert plain in line


def test_a_whole_delivery_and_its_parts_are_the_same_data(tmp_path: Path, read: Read) -> None:
    parts = by_symbol(job(tmp_path / "GLBX-20240103-PARTS"), 3, 20)
    everything = np.concatenate(parts)
    order = np.lexsort([everything[n] for n in ("sequence", "ts_recv_ns", "ts_event_ns")])
    symbols = {f"S{number:03d}": 100 + number for number in range(3)}
    path = job(tmp_path / "GLBX-20240102-WHOLE") / "glbx-mdp3-20240102.trades.dbn.zst"
    deliver(path, everything[order], "trades", symbols=symbols)
    assert read("--data-dir", tmp_path, "--feeds", "trades") == {"trades": merged(*parts)}


def test_a_day_that_a_longer_file_holds_too_is_published_once_in_its_place(
    tmp_path: Path, read: Read
) -> None:
    week = hourly(24 * 3, sequence=1)
    deliver(tmp_path / "w.dbn.zst", week, "trades", days=(DAY, DAY + 2 * ONE))
    own = week[24:48].copy()
    deliver(tmp_path / "d.dbn.zst", own, "trades", days=(DAY + ONE, DAY + ONE))
    assert read("--data-dir", tmp_path, "--feeds", "trades") == {"trades": rows(week)}


def test_a_days_own_file_is_published_whole(tmp_path: Path, read: Read) -> None:
    records = hourly(20)
    records["ts_event_ns"][0] -= np.uint64(11 * HOUR_NS)
    records["ts_recv_ns"][19] += np.uint64(DAY_LONG_NS)
    deliver(tmp_path / "any.dbn", records, "trades")
    assert read("any.dbn", "--date", "2024-01-02") == {"trades": rows(records)}


def in_hours(records: Records, hours: Iterable[int]) -> list[Row]:
    """Rows of hourly records by their number of hours since midnight UTC of `DAY`."""
    return [rows(records)[hour] for hour in hours]


WINDOWS: dict[str, tuple[tuple[str, ...], Sequence[int], bool]] = {
    "a session of each day": (("--start", "09:30", "--end", "16:00"), range(15, 21), False),
    "from an evening to the next": (
        ("--start", "18:00", "--end", "17:00"),
        [hour for hour in range(24) if hour != 22],
        True,
    ),
    "over midnight UTC": (("--start", "18:00", "--end", "21:00"), [23, 0, 1], True),
    "only from a time on": (("--start", "16:00"), [21, 22, 23], False),
    "only up to a time": (("--end", "09:30"), range(15), False),
}
"""Flags, hours UTC of each day that are inside, and whether the first of them is at 23."""


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("form", ["week", "days"])
def test_a_window_applies_to_each_day_of_a_longer_file_as_to_files_of_a_day(
    tmp_path: Path, read: Read, window: str, form: str
) -> None:
    flags, hours_of_day, begins_at_23 = WINDOWS[window]
    week = hourly(24 * 4)
    if form == "week":
        deliver(tmp_path / "week.dbn.zst", week, "trades", days=(DAY, DAY + 3 * ONE))
    for day in range(4 if form == "days" else 0):
        date = DAY + day * ONE
        path = tmp_path / f"glbx-mdp3-{date:%Y%m%d}.trades.dbn"
        deliver(path, week[24 * day : 24 * day + 24], "trades", days=(date, date))
    hours = range(23 if begins_at_23 else 0, 96)
    expected = [hour for hour in hours if hour % 24 in hours_of_day]
    assert read("--data-dir", tmp_path, "--feeds", "trades", *flags) == {
        "trades": in_hours(week, expected)
    }


def test_a_week_from_sunday_evening_over_a_change_to_summer_time(
    tmp_path: Path, read: Read
) -> None:
    """On 2024-03-10 New York goes from UTC-5 to UTC-4, an hour before the week begins at 18:00."""
    sunday = dt.date(2024, 3, 8)
    first = (sunday - DAY).days
    week = hourly(24 * 4, first)
    path = tmp_path / "week.dbn.zst"
    mapping = (sunday, sunday + 3 * ONE)
    deliver(path, week, "trades", days=mapping)
    winter, summer = [15, 16, 17, 18, 19, 20], [14, 15, 16, 17, 18, 19]
    expected = [24 * day + hour for day in (0, 1) for hour in winter]
    expected += [24 * day + hour for day in (2, 3) for hour in summer]
    assert read(path, "--start", "09:30", "--end", "16:00") == {"trades": in_hours(week, expected)}


@pytest.mark.parametrize(
    ("files", "flags", "sentences"),
    [
        ({"a.dbn": "mbp-10"}, [], ["no trades file", "mbp-10 files, but no trades: --feeds mbp10"]),
        ({"a.dbn": "trades"}, [], ["no mbp-10 file", "trades files, but no mbp-10"]),
        ({"a.dbn": "ohlcv-1m"}, [], ["no trades file", "holds schema ohlcv-1m"]),
        ({}, [], ["no trades file", "no DBN file of any kind"]),
        (
            {"a.dbn": "trades"},
            ["--feeds", "trades", "--date", "2024-01-05"],
            ["no trades file for 2024-01-05", "dates there are: 2024-01-02"],
        ),
    ],
)
def test_where_nothing_fits_near_misses_are_named(
    tmp_path: Path, wrong: Wrong, files: dict[str, str], flags: list[str], sentences: list[str]
) -> None:
    for name, schema in files.items():
        deliver(tmp_path / name, trades(0), schema)
    exit_code, line = wrong("--data-dir", tmp_path, *flags)
    assert exit_code == ExitCode.NO_DATA
    assert str(tmp_path) in line
    for sentence in sentences:
        assert sentence in line


@pytest.mark.parametrize(
    ("flags", "exit_code", "sentences"),
    [
        (["--feeds", "mbp01"], 2, ["did you mean mbp10?"]),
        (["--feeds", "trade"], 2, ["did you mean trades?"]),
        (["--date", "yesterday"], 2, ["'yesterday'", "YYYY-MM-DD, such as 2025-12-16"]),
        (["--date", "20240102"], 2, ["did you mean 2024-01-02?"]),
        (["--date", "2024/01/02"], 2, ["did you mean 2024-01-02?"]),
        (["--date", "2024-02-30"], 2, ["2024-02-30", "YYYY-MM-DD"]),
        (["nowhere.dbn"], 3, ["the file nowhere.dbn does not exist"]),
        (["--data-dir", "nowhere"], 3, ["the data folder nowhere does not exist"]),
    ],
)
def test_a_wrong_word_is_answered_with_what_is_meant(
    wrong: Wrong, flags: list[str], exit_code: int, sentences: list[str]
) -> None:
    code, line = wrong(*flags)
    assert code == exit_code
    assert "RFC3339" not in line
    for sentence in sentences:
        assert sentence in line


@pytest.mark.parametrize("where", ["flag", "file"])
def test_mbp_10_is_accepted_where_mbp10_is(tmp_path: Path, read: Read, where: str) -> None:
    deliver(tmp_path / "d.dbn", D, "mbp-10")
    config = tmp_path / "config.toml"
    config.write_text('[replay]\nfeeds = ["mbp-10"]\n')
    given = ["--feeds", "mbp-10"] if where == "flag" else ["--config", str(config)]
    assert read("--data-dir", tmp_path, *given) == {"mbp10": rows(D)}
