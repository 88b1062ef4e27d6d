"""What Databento delivers, as it is delivered, through the real command into a real server."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from databento_dbn import Metadata, Schema, SType

from ingestor.errors import ExitCode
from ingestor.records import Records
from ingestor.units import NS_PER_S
from tests.dbn_files import DAY, DAY_NS, INSTRUMENT, compressed, depth, trades
from tests.nats_servers import NatsServer
from tests.replay_cli import Finished, read_stream, replay

ONE = dt.timedelta(days=1)
DAY_LONG_NS = 86_400 * NS_PER_S
HOUR_NS = 3_600 * NS_PER_S
_RAW: Any = SType.RAW_SYMBOL
_ID: Any = SType.INSTRUMENT_ID
_SCHEMAS: dict[str, Any] = {
    "trades": Schema.TRADES,
    "mbp-10": Schema.MBP_10,
    "ohlcv-1m": Schema.OHLCV_1M,
}

Row = tuple[int, int, int, bool]
"""ts_event, ts_recv, sequence, and whether it is depth, which comes after trades where all tie."""


def deliver(
    path: Path,
    records: Records,
    schema: str,
    *,
    days: tuple[dt.date, dt.date] = (DAY, DAY),
    symbols: dict[str, int] | None = None,
    dataset: str = "GLBX.MDP3",
) -> Path:
    """Write a file with a header as a download has it: its span, its symbols, its dataset."""
    first, end = days[0], days[1] + ONE
    symbols = {"ES.c.0": INSTRUMENT} if symbols is None else symbols
    mappings: Any = [
        SimpleNamespace(
            raw_symbol=symbol,
            intervals=[SimpleNamespace(start_date=first, end_date=end, symbol=str(number))],
        )
        for symbol, number in symbols.items()
    ]
    header = Metadata(
        dataset=dataset,
        start=DAY_NS + (first - DAY).days * DAY_LONG_NS,
        end=DAY_NS + (end - DAY).days * DAY_LONG_NS,
        stype_in=_RAW,
        stype_out=_ID,
        schema=_SCHEMAS[schema],
        symbols=list(symbols),
        mappings=mappings,
        version=3,
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    body = records.tobytes()
    path.write_bytes(compressed(header, body) if path.suffix == ".zst" else header + body)
    return path


def job(folder: Path) -> Path:
    """Put beside a job's files what the vendor puts there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("manifest", "metadata", "condition", "symbology"):
        (folder / f"{name}.json").write_text('{"result": {}}' if name == "symbology" else "{}")
    return folder


def at(records: Records, *, instrument: int = INSTRUMENT, sequence: int = 6_000) -> Records:
    """Give records another instrument and sequence, so that each row is told from all others."""
    records["instrument_id"] = instrument
    records["sequence"] = sequence + np.arange(len(records))
    return records


def rows(records: Records) -> list[Row]:
    is_depth = records.itemsize > 48
    columns = (records[name].tolist() for name in ("ts_event_ns", "ts_recv_ns", "sequence"))
    return [(*one, is_depth) for one in zip(*columns, strict=True)]


def merged(*files: Records) -> list[Row]:
    """The contract's order, for files that never step back in time."""
    return sorted(row for records in files for row in rows(records))


def published(server: NatsServer) -> list[Row]:
    events = [json.loads(one.data) for one in read_stream(server.url)]
    return [(e["ts_event_ns"], e["ts_recv_ns"], e["seq"], "levels" in e) for e in events]


def symbols_of(server: NatsServer) -> set[str]:
    return {json.loads(one.data)["symbol"] for one in read_stream(server.url)}


def run(cwd: Path, server: NatsServer, *arguments: str | Path) -> Finished:
    words = [str(argument) for argument in arguments]
    finished = replay(*words, "--nats", server.url, "--summary", "json", cwd=cwd)
    assert finished.exit_code == 0, finished.err
    return finished


def wrong(cwd: Path, *arguments: str | Path) -> Finished:
    words = [str(argument) for argument in arguments]
    return replay(*words, "--nats", "nats://127.0.0.1:9", cwd=cwd)


def last_line(finished: Finished) -> str:
    return finished.err.strip().splitlines()[-1]


def hourly(count: int, day: int = 0, sequence: int = 6_000) -> Records:
    """Trades an hour apart, from midnight of a day on."""
    start_ns = DAY_NS + day * DAY_LONG_NS
    return at(trades(count, start_ns=start_ns, step_ns=HOUR_NS), sequence=sequence)


# The forms in which files come

T = at(trades(40), sequence=100)
D = at(depth(60, step_ns=NS_PER_S // 2), sequence=500)


@pytest.mark.parametrize("depth_of_folders", [0, 1, 3])
@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_a_folder_of_jobs_is_replayed_as_it_is_delivered(
    tmp_path: Path, nats_server: NatsServer, depth_of_folders: int, suffix: str
) -> None:
    base = tmp_path.joinpath("data", *("2024", "q1", "es")[:depth_of_folders])
    for name, records, schema in (("AAAAAAAAAA", T, "trades"), ("BBBBBBBBBB", D, "mbp-10")):
        folder = job(base / f"GLBX-20240103-{name}")
        deliver(folder / f"glbx-mdp3-20240102.{schema}.dbn{suffix}", records, schema)
    finished = run(tmp_path, nats_server, "--data-dir", "data")
    assert published(nats_server) == merged(T, D)
    assert "passed over" not in finished.err


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
    tmp_path: Path, nats_server: NatsServer, name: str, how: str
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
    run(tmp_path, nats_server, *ways[how])
    assert published(nats_server) == rows(T)


def test_files_and_folders_named_together_are_one_replay(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    one = deliver(tmp_path / "a.dbn", T, "trades")
    deliver(tmp_path / "job" / "b.dbn.zst", D, "mbp-10")
    run(tmp_path, nats_server, one, "--speed", "0", tmp_path / "job", one)
    assert published(nats_server) == merged(T, D)


def test_names_without_the_suffix_are_taken_when_they_are_named(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    run(tmp_path, nats_server, deliver(tmp_path / "download", T, "trades"))
    assert published(nats_server) == rows(T)


def test_pieces_are_read_in_the_order_of_their_numbers(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    """Steps back in time at the seams stay where they are: the pieces are one file."""
    whole = at(trades(120), sequence=1)
    whole["ts_event_ns"][40] -= np.uint64(5 * NS_PER_S)
    for number in range(3):
        name = f"glbx-mdp3-20240102.trades.{number:04d}.dbn.zst"
        deliver(job(tmp_path / "job") / name, whole[number * 40 : number * 40 + 40], "trades")
    run(tmp_path, nats_server, "--data-dir", "job", "--feeds", "trades")
    assert published(nats_server) == rows(whole)


def by_symbol(folder: Path, count: int, size: int) -> list[Records]:
    found = []
    for number in range(count):
        records = at(
            trades(size, start_ns=DAY_NS + number * 1_000, step_ns=NS_PER_S + 977 * number),
            instrument=100 + number,
            sequence=number * size,
        )
        symbol = f"S{number:03d}"
        path = folder / f"glbx-mdp3-20240102.trades.{symbol}.dbn.zst"
        deliver(path, records, "trades", symbols={symbol: 100 + number})
        found.append(records)
    return found


@pytest.mark.parametrize(("count", "size"), [(2, 5_000), (60, 50)])
def test_a_delivery_split_by_symbol_is_merged_in_time(
    tmp_path: Path, nats_server: NatsServer, count: int, size: int
) -> None:
    files = by_symbol(job(tmp_path / "job"), count, size)
    deliver(job(tmp_path / "other") / "glbx-mdp3-20240102.mbp-10.dbn.zst", D, "mbp-10")
    run(tmp_path, nats_server, "job", "other")
    assert published(nats_server) == merged(*files, D)
    assert symbols_of(nats_server) == {f"S{number:03d}" for number in range(count)} | {"ES.c.0"}


def test_files_by_symbol_of_one_header_are_parts_by_their_names(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    both = {"ESH4": INSTRUMENT, "ESM4": 5}
    near, far = at(trades(30), sequence=1), at(trades(30, step_ns=NS_PER_S // 3), instrument=5)
    for name, records in (("ESH4", near), ("ESM4", far)):
        deliver(tmp_path / f"glbx-mdp3-20240102.trades.{name}.dbn", records, "trades", symbols=both)
    run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    assert published(nats_server) == merged(near, far)


def test_datasets_that_give_one_number_to_two_instruments_keep_their_symbols(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    es, nvda = at(trades(20), sequence=1), at(trades(20, start_ns=DAY_NS + 5), sequence=900)
    deliver(tmp_path / "trades" / "glbx-mdp3-20240102.trades.dbn", es, "trades")
    deliver(
        tmp_path / "trades" / "xnas-itch-20240102.trades.dbn", nvda, "trades",
        symbols={"NVDA": INSTRUMENT}, dataset="XNAS.ITCH",
    )  # fmt: skip
    run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    assert published(nats_server) == merged(es, nvda)
    found = {(e["seq"] >= 900, e["symbol"]) for e in events(nats_server)}
    assert found == {(False, "ES.c.0"), (True, "NVDA")}


def events(server: NatsServer) -> Iterable[dict[str, Any]]:
    return [json.loads(one.data) for one in read_stream(server.url)]


def test_a_broken_file_among_those_merged_costs_its_own_rest_alone(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    files = by_symbol(tmp_path, 3, 40)
    path = tmp_path / "glbx-mdp3-20240102.trades.S001.dbn.zst"
    plain = deliver(tmp_path / path.stem, files[1], "trades", symbols={"S001": 101})
    plain.write_bytes(plain.read_bytes()[:-1])
    path.unlink()
    finished = replay(
        "--data-dir", str(tmp_path), "--feeds", "trades", "--nats", nats_server.url,
        "--summary", "json", cwd=tmp_path,
    )  # fmt: skip
    assert finished.exit_code == ExitCode.BAD_DATA
    assert str(plain) in last_line(finished)
    assert published(nats_server) == merged(files[0], files[1][:-1], files[2])


# The same data twice


def test_the_same_day_in_two_jobs_is_published_once_and_told(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    for name in ("GLBX-20240103-AAAAAAAAAA", "GLBX-20240105-BBBBBBBBBB"):
        deliver(job(tmp_path / name) / "glbx-mdp3-20240102.trades.dbn.zst", T, "trades")
    finished = run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    assert published(nats_server) == rows(T)
    (line,) = [line for line in finished.err.splitlines() if "passed over" in line]
    assert "GLBX-20240103-AAAAAAAAAA/glbx-mdp3-20240102.trades.dbn.zst: " in line
    assert "GLBX-20240105-BBBBBBBBBB/glbx-mdp3-20240102.trades.dbn.zst holds the same data" in line


@pytest.mark.parametrize("names", [("foo.dbn", "foo.dbn.zst"), ("a.dbn.zst", "b.dbn")])
def test_of_the_same_data_plain_and_compressed_the_plain_one_is_read(
    tmp_path: Path, nats_server: NatsServer, names: tuple[str, str]
) -> None:
    plain, other = sorted(names, key=lambda name: name.endswith(".zst"))
    for name in names:
        deliver(tmp_path / name, T, "trades")
    finished = run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    assert published(nats_server) == rows(T)
    (line,) = [line for line in finished.err.splitlines() if other in line]
    assert plain in line


def test_a_whole_delivery_and_its_parts_are_the_same_data(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    parts = by_symbol(job(tmp_path / "GLBX-20240103-PARTS"), 3, 20)
    everything = np.concatenate(parts)
    order = np.lexsort([everything[n] for n in ("sequence", "ts_recv_ns", "ts_event_ns")])
    symbols = {f"S{number:03d}": 100 + number for number in range(3)}
    path = job(tmp_path / "GLBX-20240102-WHOLE") / "glbx-mdp3-20240102.trades.dbn.zst"
    deliver(path, everything[order], "trades", symbols=symbols)
    run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    assert published(nats_server) == merged(*parts)


def test_a_day_that_a_longer_file_holds_too_is_published_once_in_its_place(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    week = hourly(24 * 3, sequence=1)
    deliver(tmp_path / "w.dbn.zst", week, "trades", days=(DAY, DAY + 2 * ONE))
    own = week[24:48].copy()
    deliver(tmp_path / "d.dbn.zst", own, "trades", days=(DAY + ONE, DAY + ONE))
    run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    assert published(nats_server) == rows(week)


# Days, and windows of a day


@pytest.mark.parametrize("name", ["week.dbn.zst", "trades/glbx-mdp3-20240102.trades.dbn.zst"])
def test_of_a_longer_file_a_date_means_its_records_of_that_day(
    tmp_path: Path, nats_server: NatsServer, name: str
) -> None:
    """By the time of receipt, by which the vendor cuts days too."""
    week = hourly(24 * 4)
    week["ts_event_ns"][48] -= np.uint64(NS_PER_S)
    deliver(tmp_path / name, week, "trades", days=(DAY, DAY + 3 * ONE))
    dates = ("2024-01-03,2024-01-04", "2024-01-04")
    flags = [word for date in dates for word in ("--date", date)]
    run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades", *flags)
    assert published(nats_server) == rows(week[24:72])


def test_a_days_own_file_is_published_whole(tmp_path: Path, nats_server: NatsServer) -> None:
    records = hourly(20)
    records["ts_event_ns"][0] -= np.uint64(11 * HOUR_NS)
    records["ts_recv_ns"][19] += np.uint64(DAY_LONG_NS)
    deliver(tmp_path / "any.dbn", records, "trades")
    run(tmp_path, nats_server, "any.dbn", "--date", "2024-01-02")
    assert published(nats_server) == rows(records)


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
    tmp_path: Path, nats_server: NatsServer, window: str, form: str
) -> None:
    flags, hours_of_day, begins_at_23 = WINDOWS[window]
    week = hourly(24 * 4)
    if form == "week":
        deliver(tmp_path / "week.dbn.zst", week, "trades", days=(DAY, DAY + 3 * ONE))
    for day in range(4 if form == "days" else 0):
        date = DAY + day * ONE
        path = tmp_path / f"glbx-mdp3-{date:%Y%m%d}.trades.dbn"
        deliver(path, week[24 * day : 24 * day + 24], "trades", days=(date, date))
    run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades", *flags)
    hours = range(23 if begins_at_23 else 0, 96)
    expected = [hour for hour in hours if hour % 24 in hours_of_day]
    assert published(nats_server) == in_hours(week, expected)


def test_a_week_from_sunday_evening_over_a_change_to_summer_time(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    """On 2024-03-10 New York goes from UTC-5 to UTC-4, an hour before the week begins at 18:00."""
    sunday = dt.date(2024, 3, 8)
    first = (sunday - DAY).days
    week = hourly(24 * 4, first)
    path = tmp_path / "week.dbn.zst"
    mapping = (sunday, sunday + 3 * ONE)
    deliver(path, week, "trades", days=mapping)
    run(tmp_path, nats_server, path, "--start", "09:30", "--end", "16:00")
    winter, summer = [15, 16, 17, 18, 19, 20], [14, 15, 16, 17, 18, 19]
    expected = [24 * day + hour for day in (0, 1) for hour in winter]
    expected += [24 * day + hour for day in (2, 3) for hour in summer]
    assert published(nats_server) == in_hours(week, expected)


# What is not used, and what is wrong


def test_what_is_seen_and_not_used_is_named_once_with_the_reason(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    deliver(tmp_path / "trades.dbn", T, "trades")
    deliver(tmp_path / "glbx-mdp3-20240102.ohlcv-1m.dbn.zst", trades(0), "ohlcv-1m")
    deliver(tmp_path / "bars.dbn", trades(0), "ohlcv-1m")
    other = (DAY + ONE, DAY + ONE)
    deliver(tmp_path / "glbx-mdp3-20240103.trades.dbn.zst", T, "trades", days=other)
    deliver(tmp_path / "tomorrow.dbn", T, "trades", days=other)
    (tmp_path / "text.dbn").write_bytes(b"this is not DBN at all")
    (tmp_path / "empty.dbn").write_bytes(b"")
    (tmp_path / "glbx.csv.zst").write_bytes(b"x")
    (tmp_path / "job.zip").write_bytes(b"x")
    (tmp_path / "cut.dbn.zst.part").write_bytes(b"x")
    flags = ("--feeds", "trades", "--date", "2024-01-02")
    finished = run(tmp_path, nats_server, "--data-dir", tmp_path, *flags)
    assert published(nats_server) == rows(T)
    lines = [line for line in finished.err.splitlines() if "passed over" in line]
    expected = {
        "glbx-mdp3-20240102.ohlcv-1m.dbn.zst": "schema ohlcv-1m",
        "bars.dbn": "schema ohlcv-1m",
        "glbx-mdp3-20240103.trades.dbn.zst": "2024-01-03",
        "tomorrow.dbn": "2024-01-03",
        "text.dbn": "not a DBN file",
        "empty.dbn": "is empty",
        "glbx.csv.zst": "another encoding",
        "job.zip": "unpack it",
        "cut.dbn.zst.part": "not complete",
    }
    for name, reason in expected.items():
        (line,) = [line for line in lines if f"{tmp_path}/{name}" in line]
        assert reason in line
    assert len(lines) == len(expected)


def test_a_thousand_files_passed_over_make_one_line(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    deliver(tmp_path / "trades.dbn", T, "trades")
    for number in range(1_000):
        (tmp_path / f"{number:04d}.dbn").write_bytes(b"text %d" % number)
    finished = run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    lines = [line for line in finished.err.splitlines() if "passed over" in line]
    assert len(lines) == 1
    assert "1000 files, such as" in lines[0]


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
    tmp_path: Path, files: dict[str, str], flags: list[str], sentences: list[str]
) -> None:
    for name, schema in files.items():
        deliver(tmp_path / name, trades(0), schema)
    finished = wrong(tmp_path, "--data-dir", tmp_path, *flags)
    assert finished.exit_code == ExitCode.NO_DATA
    assert str(tmp_path) in last_line(finished)
    for sentence in sentences:
        assert sentence in last_line(finished)


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
    tmp_path: Path, flags: list[str], exit_code: int, sentences: list[str]
) -> None:
    finished = wrong(tmp_path, *flags)
    assert finished.exit_code == exit_code
    assert "RFC3339" not in finished.err
    for sentence in sentences:
        assert sentence in last_line(finished)


@pytest.mark.parametrize("where", ["flag", "file"])
def test_mbp_10_is_accepted_where_mbp10_is(
    tmp_path: Path, nats_server: NatsServer, where: str
) -> None:
    deliver(tmp_path / "d.dbn", D, "mbp-10")
    config = tmp_path / "config.toml"
    config.write_text('[replay]\nfeeds = ["mbp-10"]\n')
    given = ["--feeds", "mbp-10"] if where == "flag" else ["--config", str(config)]
    run(tmp_path, nats_server, "--data-dir", tmp_path, *given)
    assert published(nats_server) == rows(D)
