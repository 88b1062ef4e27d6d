from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from databento_dbn import Compression, DBNDecoder, MBP10Msg, Metadata, TradeMsg
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.model.errors import BadDataError, ConfigurationError, ExitCode
from ingestor.model.records import FUTURES_TRADE, MBP10, Records
from ingestor.model.units import NS_PER_MS, NS_PER_S, new_york_ns, to_ns
from ingestor.sim import day as day_module
from ingestor.sim.sample_day import MAX_DEPTH_EVENTS, SampleDay, main, write_sample_day
from ingestor.sim.script import INSTRUMENT_ID
from tests.sim.tape_checker import (
    check_changes,
    check_events,
    check_heads,
    check_levels,
    crossed,
    rows_of,
)

DATE = dt.date(2025, 12, 16)
MIDNIGHT_NS = to_ns(dt.datetime(2025, 12, 16, tzinfo=dt.UTC))
REAL = Path(__file__).parents[2].parent / "shared/data/dbn-data"


def content_of(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".zst":
        return data
    return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(data)


def read(path: Path) -> tuple[Any, Records]:
    """Header and records of a file, by nothing but the format."""
    content = content_of(path)
    header_bytes = 8 + int.from_bytes(content[4:8], "little")
    dtype = FUTURES_TRADE if ".trades." in path.name else MBP10
    return Metadata.decode(content[:header_bytes]), np.frombuffer(content[header_bytes:], dtype)


def make(folder: Path, events: int = 3_000, **options: Any) -> SampleDay:
    return write_sample_day(folder, DATE, depth_events=events, **options)


@cache
def a_day() -> tuple[Records, Records]:
    """Trades and depth records of a day that plays its script twice and a part."""
    with tempfile.TemporaryDirectory() as folder:
        day = make(Path(folder), 160_000, seed=3)
        return read(day.trades_path)[1], read(day.depth_path)[1]


def opening_of(depth: Records) -> int:
    """Row of the auction trade."""
    (row,) = np.flatnonzero((depth["action"] == ord("T")) & (depth["side"] == ord("N")))
    return int(row)


def gathering_of(depth: Records) -> Any:
    """Rows between the close and the auction."""
    event = depth["ts_event_ns"]
    close, reopen = (new_york_ns(DATE, dt.time(hour)) for hour in (17, 18))
    return (event >= close) & (event < reopen)


def check_day(depth: Records) -> None:
    check_heads(depth, INSTRUMENT_ID)
    check_levels(depth)
    rows = rows_of(depth)
    check_changes(rows)
    check_events(rows)


# What holds in every file


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    events=st.integers(1_000, 6_000),
    date=st.dates(dt.date(2010, 1, 1), dt.date(2037, 12, 31)),
)
def test_every_record_says_what_changed_in_the_book(seed: int, events: int, date: dt.date) -> None:
    with tempfile.TemporaryDirectory() as folder:
        day = write_sample_day(Path(folder), date, depth_events=events, seed=seed)
        depth = read(day.depth_path)[1]
    assert len(depth) == events
    check_day(depth)


@pytest.mark.parametrize("seed", range(4))
def test_seams_between_repetitions_show_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(day_module, "SCRIPT_ROWS", 700)
    day = make(tmp_path, 10_000, seed=seed)
    check_day(read(day.depth_path)[1])


def test_in_session_the_book_is_never_crossed() -> None:
    _, depth = a_day()
    auction = opening_of(depth)
    in_session = ~gathering_of(depth)
    in_session[auction] = False
    assert not crossed(depth[in_session]).any()


def test_before_the_opening_auction_the_book_is_crossed() -> None:
    _, depth = a_day()
    gathered = depth[gathering_of(depth)]
    assert crossed(gathered[1:]).all()
    assert crossed(depth[opening_of(depth)][np.newaxis]).all()
    assert not crossed(depth[opening_of(depth) + 1][np.newaxis]).any()


def test_the_trades_file_holds_the_trades_of_the_depth_file() -> None:
    trades, depth = a_day()
    traded = depth[depth["action"] == ord("T")]
    for name in set(FUTURES_TRADE.names or ()) - {"length", "rtype"}:
        assert (trades[name] == traded[name]).all(), name
    assert set(trades["rtype"].tolist()) == {0}
    assert set(trades["length"].tolist()) == {12}


def test_times_lie_in_the_utc_day_and_outside_the_daily_break() -> None:
    _, depth = a_day()
    event, recv = depth["ts_event_ns"][1:], depth["ts_recv_ns"]
    day_ns = 86_400 * NS_PER_S
    assert event[0] >= MIDNIGHT_NS
    assert recv[0] == MIDNIGHT_NS
    assert recv[-1] < MIDNIGHT_NS + day_ns
    close, gathering = new_york_ns(DATE, dt.time(17)), new_york_ns(DATE, dt.time(17, 45))
    assert not ((event >= close) & (event < gathering)).any()


def test_the_first_record_is_a_snapshot_of_long_ago() -> None:
    _, depth = a_day()
    first = depth[0]
    assert (first["flags"], chr(first["action"]), chr(first["side"])) == (168, "A", "N")
    assert int(first["ts_recv_ns"]) - int(first["ts_event_ns"]) == 11 * 3_600 * NS_PER_S


def test_the_auction_trade_stands_at_the_reopening_to_the_nanosecond() -> None:
    trades, _ = a_day()
    (auction,) = trades[trades["side"] == ord("N")]
    assert int(auction["ts_event_ns"]) == new_york_ns(DATE, dt.time(18))


# What makes a day like a real one


def test_one_record_in_thirteen_or_so_is_a_trade() -> None:
    trades, depth = a_day()
    assert 12 < len(depth) / len(trades) < 15


def test_some_trades_are_equal_in_every_byte() -> None:
    trades, _ = a_day()
    assert len(np.unique(trades)) < len(trades)


def test_dozens_of_records_share_one_ts_event_and_more_one_millisecond() -> None:
    _, depth = a_day()
    event = depth["ts_event_ns"]
    assert 30 <= np.unique(event, return_counts=True)[1].max() <= 200
    assert 40 <= np.unique(event // NS_PER_MS, return_counts=True)[1].max() <= 400


def test_the_open_is_busy_and_the_night_is_quiet() -> None:
    _, depth = a_day()

    def between(start: dt.time, minutes: int) -> int:
        begin = new_york_ns(DATE, start)
        end = begin + minutes * 60 * NS_PER_S
        return int(((depth["ts_event_ns"] >= begin) & (depth["ts_event_ns"] < end)).sum())

    quiet = new_york_ns(dt.date(2025, 12, 15), dt.time(23))
    hour = depth["ts_event_ns"][1:] - np.uint64(quiet)
    in_quiet_hour = int((hour < 3_600 * NS_PER_S).sum())
    assert between(dt.time(9, 30), 30) > 20 * in_quiet_hour > 0
    assert between(dt.time(15, 50), 10) > 2 * between(dt.time(12, 0), 10)


def test_the_price_moves_in_ticks_and_stays_near_where_it_began() -> None:
    _, depth = a_day()
    bid = depth["levels"]["bid_px_e9"][~gathering_of(depth), 0]
    assert 5_900 * 10**9 < bid.min() < bid.max() < 7_000 * 10**9
    assert 4 * 10**9 < bid.max() - bid.min() < 300 * 10**9
    changes = np.flatnonzero(np.diff(bid))
    assert 0.005 < len(changes) / len(bid) < 0.05


def test_another_date_or_seed_is_another_day(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", seed=1), make(tmp_path / "b", seed=2)
    third = write_sample_day(tmp_path / "c", dt.date(2025, 12, 17), depth_events=3_000, seed=1)
    prices = [read(day.depth_path)[1]["levels"]["bid_sz"] for day in (first, second, third)]
    assert (prices[0] != prices[1]).any()
    assert (prices[0] != prices[2]).any()


def test_in_summer_the_session_follows_new_york(tmp_path: Path) -> None:
    date = dt.date(2025, 7, 15)
    day = write_sample_day(tmp_path, date, depth_events=3_000)
    trades = read(day.trades_path)[1]
    (auction,) = trades[trades["side"] == ord("N")]
    assert int(auction["ts_event_ns"]) == to_ns(dt.datetime(2025, 7, 15, 22, tzinfo=dt.UTC))


# The same every time, at any size


PLAIN_SHA256 = {
    "trades": "fbddfe07b81833b99ecb196a72e8879f170282027b58959860feb7c3054201b0",
    "MBP-10": "e4bdcd497e2e178e00db002ff6d3632e6e206e4f366b0510f2a0767e1368824a",
}


def test_the_bytes_of_a_seed_never_change(tmp_path: Path) -> None:
    """If this fails the generator draws or computes differently: on purpose, or not."""
    day = make(tmp_path, 5_000, seed=7, compress=False)
    for path in (day.trades_path, day.depth_path):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == PLAIN_SHA256[path.parent.name]


def test_the_same_seed_writes_the_same_compressed_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", seed=5), make(tmp_path / "b", seed=5)
    assert first.depth_path.read_bytes() == second.depth_path.read_bytes()
    assert first.trades_path.read_bytes() == second.trades_path.read_bytes()


def test_compression_changes_nothing_but_the_size(tmp_path: Path) -> None:
    packed, plain = make(tmp_path / "a"), make(tmp_path / "b", compress=False)
    assert content_of(packed.depth_path) == plain.depth_path.read_bytes()
    assert content_of(packed.trades_path) == plain.trades_path.read_bytes()
    assert packed.depth_bytes < plain.depth_bytes / 5


@pytest.mark.parametrize("events", [1_000, 1_001, 20_000, 70_000])
def test_a_day_has_exactly_as_many_records_as_asked_for(tmp_path: Path, events: int) -> None:
    day = make(tmp_path, events, compress=False)
    trades, depth = read(day.trades_path)[1], read(day.depth_path)[1]
    assert (day.trades, day.depth_events) == (len(trades), len(depth))
    assert len(depth) == events
    assert (day.depth_bytes, day.trades_bytes) == (
        day.depth_path.stat().st_size,
        day.trades_path.stat().st_size,
    )


@pytest.mark.slow
def test_memory_stays_bounded_however_large_the_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from ingestor.sim.sample_day import main;"
        "assert main(sys.argv[1:]) == 0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = [
        int(
            run(
                "-c", code, "--out", str(tmp_path), "--date", "2025-12-16", "--events", events
            ).stdout.split()[-1]
        )
        for events in ("200_000", "2_000_000")
    ]
    assert peaks[1] < 1.2 * peaks[0]


# As the vendor writes files


@pytest.mark.parametrize("compress", [True, False])
def test_the_vendors_decoder_reads_all_records(tmp_path: Path, compress: bool) -> None:
    day = make(tmp_path, compress=compress)
    kinds = {day.trades_path: (TradeMsg, day.trades), day.depth_path: (MBP10Msg, 3_000)}
    for path, (kind, count) in kinds.items():
        decoder = DBNDecoder(compression=Compression.from_str("zstd" if compress else "none"))
        decoder.write(path.read_bytes())
        metadata, *records = decoder.decode()
        assert isinstance(metadata, Metadata)
        assert len(records) == count
        assert {type(record) for record in records} == {kind}


def test_the_header_says_what_a_real_one_says(tmp_path: Path) -> None:
    day = make(tmp_path)
    for path, schema in ((day.trades_path, "trades"), (day.depth_path, "mbp-10")):
        header, _ = read(path)
        assert (header.version, header.dataset, str(header.schema)) == (3, "GLBX.MDP3", schema)
        assert (str(header.stype_in), str(header.stype_out)) == ("continuous", "instrument_id")
        assert header.symbols == ["ES.c.0"]
        assert (header.start, header.end) == (MIDNIGHT_NS, MIDNIGHT_NS + 86_400 * NS_PER_S)
        assert header.mappings == {
            "ES.c.0": [
                {
                    "start_date": DATE,
                    "end_date": DATE + dt.timedelta(days=1),
                    "symbol": str(INSTRUMENT_ID),
                }
            ]
        }


def test_header_and_records_are_separate_zstd_frames(tmp_path: Path) -> None:
    day = make(tmp_path)
    for path in (day.trades_path, day.depth_path):
        frame = zstandard.ZstdDecompressor().decompressobj()
        header = frame.decompress(path.read_bytes())
        assert len(header) == 8 + int.from_bytes(header[4:8], "little")
        assert frame.unused_data


def test_symbology_lies_beside_the_files_and_knows_every_date(tmp_path: Path) -> None:
    make(tmp_path)
    write_sample_day(tmp_path, dt.date(2025, 12, 18), depth_events=1_000)
    make(tmp_path)
    for folder in ("trades", "MBP-10"):
        symbology = json.loads((tmp_path / folder / "symbology.json").read_text())
        days = [entry["d0"] for entry in symbology["result"]["ES.c.0"]]
        assert days == ["2025-12-16", "2025-12-18"]
        assert (symbology["start_date"], symbology["end_date"]) == ("2025-12-16", "2025-12-19")


def test_symbology_keeps_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "trades" / "symbology.json"
    path.parent.mkdir()
    theirs = {"ES.c.0": [{"d0": "2024-01-02", "d1": "2024-01-03", "s": "42"}]}
    path.write_text(json.dumps({"result": theirs, "symbols": ["ES.c.0"]}))
    make(tmp_path)
    intervals = json.loads(path.read_text())["result"]["ES.c.0"]
    assert [entry["s"] for entry in intervals] == ["42", str(INSTRUMENT_ID)]


def test_a_symbology_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trades" / "symbology.json"
    path.parent.mkdir()
    path.write_text("[]")
    with pytest.raises(BadDataError, match=r"symbology\.json is not a symbology file"):
        make(tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason="no real DBN files on this machine")
def test_the_real_file_of_a_day_has_the_same_header_and_frames(tmp_path: Path) -> None:
    day = make(tmp_path)
    real = REAL / "MBP-10/glbx-mdp3-20231225.mbp-10.dbn.zst"
    ours, theirs = read(day.depth_path), read(real)
    for name in ("version", "dataset", "stype_in", "stype_out", "ts_out", "symbols", "limit"):
        assert getattr(ours[0], name) == getattr(theirs[0], name), name
    for name in ("length", "rtype", "publisher_id"):
        assert set(ours[1][name].tolist()) == set(theirs[1][name].tolist()), name


# Files that are in the way, disks that are full, runs that are cut off


def files_under(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **options
    )


def run_program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return run("-m", "ingestor.sim.sample_day", *arguments, **options)


def test_writing_a_day_again_replaces_it(tmp_path: Path) -> None:
    make(tmp_path, 3_000, seed=1)
    again = make(tmp_path, 2_000, seed=2)
    assert len(read(again.depth_path)[1]) == 2_000
    assert len(files_under(tmp_path)) == 3


def test_a_day_lies_either_plain_or_compressed_never_both(tmp_path: Path) -> None:
    make(tmp_path, compress=True)
    day = make(tmp_path, compress=False)
    assert files_under(tmp_path) == {day.trades_path.name, day.depth_path.name, "symbology.json"}


@pytest.mark.parametrize("suffix", ["", ".zst"])
@pytest.mark.parametrize("theirs", [b"somebody's", b""])
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, suffix: str, theirs: bytes) -> None:
    path = tmp_path / "MBP-10" / f"glbx-mdp3-20251216.mbp-10.dbn{suffix}"
    path.parent.mkdir()
    path.write_bytes(theirs)
    with pytest.raises(ConfigurationError, match="is left alone"):
        make(tmp_path)
    assert path.read_bytes() == theirs
    assert files_under(tmp_path) == {path.name}


@pytest.mark.skipif(not REAL.exists(), reason="no real DBN files on this machine")
def test_a_real_day_is_never_replaced(tmp_path: Path) -> None:
    name = "MBP-10/glbx-mdp3-20231225.mbp-10.dbn.zst"
    (tmp_path / "MBP-10").mkdir()
    (tmp_path / name).symlink_to(REAL / name)
    with pytest.raises(ConfigurationError, match="is left alone"):
        write_sample_day(tmp_path, dt.date(2023, 12, 25), depth_events=1_000)


def test_an_interrupted_run_leaves_no_file(tmp_path: Path) -> None:
    def interrupt(rows: int) -> None:
        if rows > 1_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, 5_000, progress=interrupt)
    assert files_under(tmp_path) == set()


def test_a_killed_run_leaves_no_file_under_a_name_of_data(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal, datetime, pathlib; from ingestor.sim import sample_day;"
        "sample_day.write_sample_day(pathlib.Path(sys.argv[1]), datetime.date(2025, 12, 16),"
        " progress=lambda rows: rows > 1000 and os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert run("-c", code, str(tmp_path)).returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob("*.dbn*.zst"))


@pytest.mark.parametrize("form", [[], ["--plain"]])
def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing(
    tmp_path: Path, form: list[str]
) -> None:
    limit = 1_000_000
    done = run_program(
        *("--out", str(tmp_path), "--date", "2025-12-16", *form),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == ExitCode.INTERNAL
    assert done.stderr.startswith(f"error: cannot write a sample day to {tmp_path}: ")
    assert done.stderr.count("\n") == 1
    assert files_under(tmp_path) == set()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot write a sample day to .*file"):
        make(tmp_path / "file")


@pytest.mark.parametrize("events", [0, 999, MAX_DEPTH_EVENTS + 1])
def test_a_size_out_of_range_names_the_range(tmp_path: Path, events: int) -> None:
    with pytest.raises(ConfigurationError, match=f"depth_events is {events}; allowed is 1000 to"):
        make(tmp_path, events)


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="seed is -1"):
        make(tmp_path, seed=-1)


# The command line


def test_progress_counts_up_to_the_size(tmp_path: Path) -> None:
    seen: list[int] = []
    make(tmp_path, 3_000, progress=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == 3_000


def test_the_program_says_what_it_wrote(tmp_path: Path) -> None:
    done = run_program("--out", str(tmp_path), "--date", "2025-12-16", "--events", "2_000")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrote 2,000 MBP-10 records (")
    assert str(tmp_path / "MBP-10" / "glbx-mdp3-20251216.mbp-10.dbn.zst") in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("size", "events"), [("368KB", 1_000), ("0.5mb", 1_358)])
def test_a_size_counts_uncompressed_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str, events: int
) -> None:
    assert main(["--out", str(tmp_path), "--date", "2025-12-16", "--size", size, "--plain"]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {events:,} MBP-10 records")


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--size", "big", "is not a size like"),
        ("--size", "GB", "is not a size like"),
        ("--size", "nanGB", "is not a size like"),
        ("--events", "many", "is not a number like"),
        ("--date", "16.12.2025", "is not a date like"),
    ],
)
def test_a_wrong_value_is_named_with_an_example(
    capsys: pytest.CaptureFixture[str], flag: str, value: str, said: str
) -> None:
    with pytest.raises(SystemExit, match=str(int(ExitCode.CONFIGURATION))):
        main(["--out", os.devnull, "--date", "2025-12-16", flag, value])
    assert f"{value!r} {said}" in capsys.readouterr().err


def test_a_refusal_is_one_sentence_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--out", str(tmp_path), "--date", "2025-12-16", "--events", "10"])
    assert code == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == ("error: depth_events is 10; allowed is 1000 to 100000000\n")
    assert files_under(tmp_path) == set()
