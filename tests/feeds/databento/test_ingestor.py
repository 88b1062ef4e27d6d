from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from ingestor.encode.packed import MAX_ROW_BYTES
from ingestor.feeds.databento import BLOCK_BYTES, DBNIngestor, DbnSchema
from ingestor.feeds.databento.candidates import contents_of
from ingestor.feeds.databento.files import DbnFile
from ingestor.feeds.databento.record_reader import MAX_RECORD_BYTES
from ingestor.feeds.databento.selection import find_files
from ingestor.files.streams import MAX_BLOCK_BYTES, READ_BYTES
from ingestor.model import records
from ingestor.model.blocks import Source
from ingestor.model.errors import BadDataError, ConfigurationError, NoDataError
from ingestor.model.events import MBP10, Aggressor, FuturesTrade
from ingestor.model.units import NS_PER_DAY, NS_PER_S
from ingestor.ring.block_ring import DEFAULT_RING_BYTES
from tests.dbn_files import (
    DAY,
    DAY_NS,
    INSTRUMENT,
    dbn_path,
    depth,
    mapping_record,
    records_of,
    trades,
    write_dbn,
)

ONE_DAY = dt.timedelta(days=1)
HOUR_NS = 3600 * NS_PER_S


def put(data_dir: Path, schema: str, number: int = 0, count: int = 100, **kind: Any) -> Path:
    """Write the file of a day, `number` days after `DAY`."""
    date = DAY + number * ONE_DAY
    records = records_of(schema, count)
    for name in ("ts_event_ns", "ts_recv_ns"):
        records[name] += np.uint64(number * NS_PER_DAY)
    mappings = {"ES.c.0": [(DAY, DAY + 30 * ONE_DAY, str(INSTRUMENT))]}
    path = dbn_path(data_dir, schema, date, zstd=kind.get("zstd", True))
    return write_dbn(path, records, schema=schema, mappings=mappings, **kind)


def rows(ingestor: DBNIngestor) -> int:
    return sum(len(block.records) for block in ingestor.blocks())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("schema", list(DbnSchema))
def test_several_days_come_in_order_as_they_are_in_their_files(
    tmp_path: Path, schema: DbnSchema
) -> None:
    for number in (2, 0, 1):
        put(tmp_path, schema, number)
    ingestor = DBNIngestor(
        data_dir=tmp_path, schema=schema, dates=[DAY + ONE_DAY, DAY, DAY], feed=3
    )
    blocks = [(block, block.records.tobytes()) for block in ingestor.blocks()]
    times = np.concatenate(
        [np.frombuffer(data, block.records.dtype)["ts_event_ns"] for block, data in blocks]
    )
    assert times.tolist() == [
        DAY_NS + day * NS_PER_DAY + second * NS_PER_S for day in (0, 1) for second in range(100)
    ]
    assert {block.feed for block, _ in blocks} == {3}
    assert {block.source for block, _ in blocks} == {Source.REPLAY}
    assert all(block.symbols == {INSTRUMENT: "ES.c.0"} for block, _ in blocks)


def test_no_dates_means_every_day_there_is(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, "trades", number)
    assert rows(DBNIngestor(data_dir=tmp_path)) == 300


@pytest.mark.parametrize("block_bytes", [MAX_RECORD_BYTES, 5000, BLOCK_BYTES])
def test_no_block_is_larger_than_asked_for(tmp_path: Path, block_bytes: int) -> None:
    put(tmp_path, "mbp-10", count=4000)
    ingestor = DBNIngestor(data_dir=tmp_path, schema=DbnSchema.MBP10, block_bytes=block_bytes)
    sizes = [block.records.nbytes for block in ingestor.blocks()]
    assert sum(sizes) == 4000 * 368
    assert max(sizes) == block_bytes // 368 * 368


def test_a_ring_holds_several_default_blocks() -> None:
    assert 64 * 1024 <= BLOCK_BYTES <= DEFAULT_RING_BYTES // 4


@pytest.mark.parametrize("dtype", [records.FUTURES_TRADE, records.MBP10])
def test_a_default_block_leaves_no_few_rows_for_a_last_packed_message(dtype: np.dtype[Any]) -> None:
    in_message = MAX_ROW_BYTES // dtype.itemsize
    assert BLOCK_BYTES // dtype.itemsize % in_message > in_message // 2


def test_a_block_too_small_for_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DBNIngestor(data_dir=tmp_path, block_bytes=MAX_RECORD_BYTES - 1)
    assert str(caught.value) == (
        "block_bytes is 1019; it must be at least 1020, the longest record that DBN allows"
    )


def test_a_missing_file_is_said_before_anything_is_read(tmp_path: Path) -> None:
    put(tmp_path, "trades")
    with pytest.raises(NoDataError, match="no trades file for 2024-01-03"):
        DBNIngestor(data_dir=tmp_path, dates=[DAY, DAY + ONE_DAY]).blocks()
    with pytest.raises(NoDataError, match="no mbp-10 file: looked in"):
        DBNIngestor(data_dir=tmp_path).read_mbp10()


def test_a_broken_file_ends_the_run_after_all_that_was_whole(tmp_path: Path) -> None:
    put(tmp_path, "trades")
    path = put(tmp_path, "trades", 1, zstd=False)
    path.write_bytes(path.read_bytes()[:-1])
    put(tmp_path, "trades", 2)
    ingestor = DBNIngestor(data_dir=tmp_path)
    trades_read = ingestor.read_trades()
    assert len(list(islice(trades_read, 199))) == 199
    with pytest.raises(BadDataError, match=r"ends inside a record \(47 of 48 bytes\); 99 whole"):
        next(trades_read)
    assert (ingestor.progress.files_done, ingestor.progress.path) == (1, path)


def test_a_trades_file_under_the_name_of_a_depth_file_is_refused(tmp_path: Path) -> None:
    path = write_dbn(dbn_path(tmp_path, "mbp-10"), trades(5), schema="trades")
    with pytest.raises(BadDataError) as caught:
        list(DBNIngestor(data_dir=tmp_path, schema=DbnSchema.MBP10).blocks())
    assert str(caught.value) == f"{path} holds schema trades, not mbp-10 as its name says"


def test_progress_is_told_block_by_block(tmp_path: Path) -> None:
    paths = [put(tmp_path, "trades", number, count=30_000) for number in range(2)]
    sizes = [path.stat().st_size for path in paths]
    ingestor = DBNIngestor(data_dir=tmp_path)
    seen = []
    blocks = ingestor.blocks()
    assert ingestor.progress.bytes_total == sum(sizes)
    for _ in blocks:
        progress = ingestor.progress
        seen.append((progress.bytes_read, progress.records, progress.files_done, progress.path))
    assert seen == sorted(seen)
    assert seen[0][0] < sizes[0] < seen[-1][0] <= sum(sizes)
    assert {(done, path) for _, _, done, path in seen} == {(0, paths[0]), (1, paths[1])}
    progress = ingestor.progress
    assert (progress.files_done, progress.files_total) == (2, 2)
    assert (progress.bytes_read, progress.records) == (sum(sizes), 60_000)


def test_a_file_without_records_counts_as_read(tmp_path: Path) -> None:
    path = put(tmp_path, "trades", count=0)
    ingestor = DBNIngestor(data_dir=tmp_path)
    assert list(ingestor.blocks()) == []
    assert (ingestor.progress.files_done, ingestor.progress.bytes_read) == (1, path.stat().st_size)


def test_every_run_has_progress_of_its_own(tmp_path: Path) -> None:
    put(tmp_path, "trades")
    ingestor = DBNIngestor(data_dir=tmp_path)
    assert rows(ingestor) == rows(ingestor) == ingestor.progress.records == 100


def test_a_session_is_new_york_time_on_the_files_date(tmp_path: Path) -> None:
    path = dbn_path(tmp_path, "trades")
    write_dbn(path, trades(24 * 4, step_ns=HOUR_NS // 4), schema="trades")
    ingestor = DBNIngestor(data_dir=tmp_path, start=dt.time(9, 30), end=dt.time(16))
    times = [trade.ts_event_ns for trade in ingestor.read_trades()]
    assert (times[0], times[-1]) == (
        DAY_NS + 14 * HOUR_NS + HOUR_NS // 2,
        DAY_NS + 21 * HOUR_NS - HOUR_NS // 4,
    )


def test_an_evening_session_runs_on_into_the_file_of_the_next_date(tmp_path: Path) -> None:
    for number in range(2):
        start_ns = DAY_NS + number * NS_PER_DAY
        path = dbn_path(tmp_path, "trades", DAY + number * ONE_DAY)
        write_dbn(path, trades(24, start_ns=start_ns, step_ns=HOUR_NS), schema="trades")
    night = {"data_dir": tmp_path, "start": dt.time(18), "end": dt.time(9)}
    both = DBNIngestor(**night)  # type: ignore[arg-type]
    hours = [(trade.ts_event_ns - DAY_NS) // HOUR_NS for trade in both.read_trades()]
    assert hours == [*range(23, 38), 47]
    second = DBNIngestor(**night, dates=[DAY + ONE_DAY])  # type: ignore[arg-type]
    hours = [(trade.ts_event_ns - DAY_NS) // HOUR_NS for trade in second.read_trades()]
    assert hours == [47]


def test_a_session_holds_on_each_day_of_a_file_of_several(tmp_path: Path) -> None:
    path = dbn_path(tmp_path, "trades")
    write_dbn(path, trades(48, step_ns=HOUR_NS), schema="trades")
    file = DbnFile(path, DAY, path.stat().st_size, last=DAY + ONE_DAY)
    ingestor = DBNIngestor(data_dir=tmp_path, files=[file], start=dt.time(10), end=dt.time(12))
    hours = [(trade.ts_event_ns - DAY_NS) // HOUR_NS for trade in ingestor.read_trades()]
    assert hours == [15, 16, 39, 40]


def test_absolute_times_narrow_what_is_read(tmp_path: Path) -> None:
    put(tmp_path, "trades")
    ingestor = DBNIngestor(
        data_dir=tmp_path, start_ns=DAY_NS + 10 * NS_PER_S, end_ns=DAY_NS + 12 * NS_PER_S
    )
    assert [trade.seq for trade in ingestor.read_trades()] == [6010, 6011]
    assert ingestor.progress.filtered == 98


def test_where_events_begin_and_end_is_what_headers_and_windows_leave(tmp_path: Path) -> None:
    put(tmp_path, "trades", 0, end_ns=DAY_NS + NS_PER_DAY)
    put(tmp_path, "trades", 1, end_ns=DAY_NS + 2 * NS_PER_DAY)
    files = find_files(tmp_path, DbnSchema.TRADES)
    end_ns = DAY_NS + 2 * NS_PER_DAY
    assert DBNIngestor(data_dir=tmp_path, files=files).span_ns() == (DAY_NS, end_ns)
    # The header of the second file begins with the first day: its name knows better.
    second = DBNIngestor(data_dir=tmp_path, files=files[1:])
    assert second.span_ns() == (DAY_NS + NS_PER_DAY, end_ns)
    # New York is five hours behind.
    session = DBNIngestor(data_dir=tmp_path, files=files, start=dt.time(9, 30), end=dt.time(16, 0))
    assert session.span_ns() == (DAY_NS + 29 * HOUR_NS // 2, DAY_NS + NS_PER_DAY + 21 * HOUR_NS)


def test_a_header_that_leaves_its_end_open_tells_no_span(tmp_path: Path) -> None:
    put(tmp_path, "trades")
    files = find_files(tmp_path, DbnSchema.TRADES)
    assert DBNIngestor(data_dir=tmp_path, files=files).span_ns() is None
    files[0].path.write_bytes(b"no DBN")
    contents_of.cache_clear()
    assert DBNIngestor(data_dir=tmp_path, files=files).span_ns() is None


@pytest.mark.parametrize("symbol", ["ES.c.0", "ES", str(INSTRUMENT)])
def test_symbols_are_chosen_by_any_name_and_published_renamed(tmp_path: Path, symbol: str) -> None:
    put(tmp_path, "trades")
    ingestor = DBNIngestor(
        data_dir=tmp_path,
        symbols=frozenset({symbol}),
        rename={"ES.c.0": "ES", str(INSTRUMENT): "ES"},
    )
    assert [trade.symbol for trade in ingestor.read_trades()] == ["ES"] * 100


def test_a_symbol_that_no_file_bears_is_an_error_that_says_which_there_are(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path, "trades", number)
    ingestor = DBNIngestor(data_dir=tmp_path, symbols=frozenset({"ESZ9", "ES.c.0"}))
    found = ingestor.read_trades()
    assert len(list(islice(found, 200))) == 200
    with pytest.raises(NoDataError, match=r"^no file bears the symbol ESZ9; there are ES\.c\.0$"):
        next(found)


def test_a_symbol_that_a_header_lists_is_borne_though_nothing_of_it_traded(tmp_path: Path) -> None:
    mappings = {"ES.c.0": [(DAY, DAY + ONE_DAY, "17077")], "NQ.c.0": [(DAY, DAY + ONE_DAY, "5")]}
    write_dbn(dbn_path(tmp_path, "trades"), trades(3), schema="trades", mappings=mappings)
    assert rows(DBNIngestor(data_dir=tmp_path, symbols=frozenset({"NQ.c.0"}))) == 0


def test_a_symbol_that_another_feed_bears_is_not_missed(tmp_path: Path) -> None:
    put(tmp_path, "trades")
    symbols = frozenset({"SPY"})
    assert rows(DBNIngestor(data_dir=tmp_path, symbols=symbols, elsewhere=symbols)) == 0


def test_a_symbol_of_symbology_json_is_borne(tmp_path: Path) -> None:
    path = put(tmp_path, "trades")
    (path.parent / "symbology.json").write_text(
        '{"result": {"ESH4": [{"d0": "2024-01-02", "d1": "2024-01-03", "s": "17077"}], '
        '"CLG4": [{"d0": "2024-01-02", "d1": "2024-01-03", "s": "5"}]}}'
    )
    ingestor = DBNIngestor(data_dir=tmp_path, symbols=frozenset({"ESH4", "CLG4"}))
    assert {trade.symbol for trade in ingestor.read_trades()} == {"ESH4"}


@pytest.mark.parametrize("first", ["ES.c.0", "ESH4"])
def test_of_two_names_the_headers_first_is_published_in_every_process(
    tmp_path: Path, first: str
) -> None:
    both = {name: [(DAY, DAY + ONE_DAY, "17077")] for name in ("ESH4", "ES.c.0")}
    symbols = [first, *(both.keys() - {first})]
    path = dbn_path(tmp_path, "trades")
    write_dbn(path, trades(2), schema="trades", mappings=both, symbols=symbols)
    code = (
        "import sys, pathlib; from ingestor.feeds.databento import DBNIngestor;"
        "found = DBNIngestor(data_dir=pathlib.Path(sys.argv[1])).read_trades();"
        "print({trade.symbol for trade in found})"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout == f"{{{first!r}}}\n"


BROKEN_HEADERS = {
    "a length that the vendor's decoder panics at": (53, (65_535).to_bytes(2, "little")),
    "a width of nothing": (53, bytes(2)),
    "four billion symbols": (112, b"\xff\xff\xff\xff"),
    "a year 0": (270, (101).to_bytes(4, "little")),
    "another version": (3, b"\x07"),
    "no text": (116, b"\xff"),
}


@pytest.mark.parametrize(("at", "bad"), BROKEN_HEADERS.values(), ids=BROKEN_HEADERS)
@pytest.mark.parametrize("zstd", [False, True])
def test_a_broken_header_does_not_keep_the_day_before_from_being_read(
    tmp_path: Path, at: int, bad: bytes, *, zstd: bool
) -> None:
    put(tmp_path, "trades")
    path = put(tmp_path, "trades", 1, zstd=False)
    content = path.read_bytes()
    path.unlink()
    content = content[:at] + bad + content[at + len(bad) :]
    path = dbn_path(tmp_path, "trades", DAY + ONE_DAY, zstd=zstd)
    path.write_bytes(zstandard.compress(content) if zstd else content)
    found = DBNIngestor(data_dir=tmp_path).read_trades()
    assert len(list(islice(found, 100))) == 100
    with pytest.raises(BadDataError, match=f"^{path} "):
        next(found)


def test_much_before_a_header_that_holds_nothing_is_read_with_signs_of_life(tmp_path: Path) -> None:
    path = put(tmp_path, "trades")
    path.write_bytes(b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * 20_000 + path.read_bytes())
    sizes = [len(block.records) for block in DBNIngestor(data_dir=tmp_path).blocks()]
    assert sum(sizes) == 100
    assert sizes.count(0) >= 4


def test_records_that_go_to_and_fro_across_midnight_come_in_whole_blocks(tmp_path: Path) -> None:
    records = trades(100_000, step_ns=0)
    records["ts_recv_ns"][::2] += np.uint64(NS_PER_DAY)
    mappings = {"ES.c.0": [(DAY, DAY + 2 * ONE_DAY, str(INSTRUMENT))]}
    write_dbn(dbn_path(tmp_path, "trades"), records, schema="trades", mappings=mappings)
    blocks = [len(block.records) for block in DBNIngestor(data_dir=tmp_path).blocks()]
    assert sum(blocks) == 100_000
    assert len(blocks) <= 100_000 * 48 // BLOCK_BYTES + 2


def test_each_feed_takes_its_own_out_of_a_capture_of_both(tmp_path: Path) -> None:
    body = mapping_record(INSTRUMENT, "ESH4") + trades(5).tobytes() + depth(7).tobytes()
    for schema, count in (("trades", 5), ("mbp-10", 7)):
        write_dbn(dbn_path(tmp_path, schema), body, schema=None, mappings={})
        ingestor = DBNIngestor(data_dir=tmp_path, schema=DbnSchema(schema))
        blocks = [(len(block.records), dict(block.symbols)) for block in ingestor.blocks()]
        assert blocks == [(count, {INSTRUMENT: "ESH4"})]
        assert ingestor.progress.skipped == {}


def test_memory_follows_the_size_of_the_header(tmp_path: Path) -> None:
    mappings = {f"S{n:06}": [(DAY, DAY + ONE_DAY, str(n))] for n in range(30_000)}
    path = dbn_path(tmp_path, "trades", zstd=False)
    records = trades(10)
    records["instrument_id"] = 29_999
    write_dbn(path, records, schema="trades", mappings=mappings, zstd=False)
    ingestor = DBNIngestor(data_dir=tmp_path)
    tracemalloc.start()
    assert {trade.symbol for trade in ingestor.read_trades()} == {"S029999"}
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2.5 * path.stat().st_size + BLOCK_BYTES


def test_symbology_json_beside_the_file_serves_when_metadata_is_silent(tmp_path: Path) -> None:
    path = write_dbn(dbn_path(tmp_path, "trades"), trades(2), schema="trades", mappings={})
    (path.parent / "symbology.json").write_text(
        '{"result": {"ES.c.0": [{"d0": "2024-01-02", "d1": "2024-01-03", "s": "17077"}]}}'
    )
    assert {trade.symbol for trade in DBNIngestor(data_dir=tmp_path).read_trades()} == {"ES.c.0"}


def test_an_unknown_instrument_is_logged_once_for_all_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        path = dbn_path(tmp_path, "trades", DAY + number * ONE_DAY)
        write_dbn(path, trades(2), schema="trades", mappings={})
    ingestor = DBNIngestor(data_dir=tmp_path)
    assert {trade.symbol for trade in ingestor.read_trades()} == {"17077"}
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"result": {"A": [{"d0": "0000-01-01"}]}}'])
def test_a_symbology_json_that_is_of_no_use_is_told_once_for_all_files(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        path = dbn_path(tmp_path, "trades", DAY + number * ONE_DAY)
        write_dbn(path, trades(2), schema="trades", mappings={})
    (path.parent / "symbology.json").write_text(text)
    assert rows(DBNIngestor(data_dir=tmp_path)) == 6
    assert sum("is of no use" in message for message in caplog.messages) == 1


def test_trades_and_depth_are_read_as_events_whatever_the_schema(tmp_path: Path) -> None:
    put(tmp_path, "trades", count=3)
    put(tmp_path, "mbp-10", count=3)
    ingestor = DBNIngestor(data_dir=tmp_path)
    first, *_ = ingestor.read_trades()
    assert first == FuturesTrade(
        ts_event_ns=DAY_NS,
        ts_recv_ns=DAY_NS + 105_900,
        source="replay",
        symbol="ES.c.0",
        price=4800.25,
        size=1,
        aggressor=Aggressor.SELL,
        exchange="CME",
        conditions=None,
        seq=6000,
    )
    book = next(ingestor.read_mbp10())
    assert isinstance(book, MBP10)
    assert (book.levels[0].bid_px, book.levels[0].ask_px) == (4800.25, 4800.5)
    assert (book.levels[9].ask_px, book.levels[9].ask_sz) == (None, 0)


def test_reading_events_pairwise_from_two_runs_does_not_mix_them(tmp_path: Path) -> None:
    put(tmp_path, "trades", count=500)
    put(tmp_path, "mbp-10", count=500)
    ingestor = DBNIngestor(data_dir=tmp_path, block_bytes=MAX_RECORD_BYTES)
    pairs = zip(ingestor.read_trades(), ingestor.read_mbp10(), strict=True)
    assert all(trade.seq == book.seq for trade, book in pairs)


def test_closing_releases_the_file_and_ends_the_iteration(tmp_path: Path) -> None:
    put(tmp_path, "trades", count=20_000)
    before = open_files()
    with DBNIngestor(data_dir=tmp_path, block_bytes=4096) as ingestor:
        blocks = ingestor.blocks()
        trade_events = ingestor.read_trades()
        next(blocks)
        next(trade_events)
        assert open_files() == before + 2
    assert open_files() == before
    assert list(blocks) == []


def test_a_run_given_up_midway_still_says_what_was_odd(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = trades(20_000)
    records["ts_recv_ns"][3] = 2**64 - 1
    write_dbn(dbn_path(tmp_path, "trades"), records, schema="trades")
    ingestor = DBNIngestor(data_dir=tmp_path, block_bytes=4096)
    next(ingestor.blocks())
    ingestor.close()
    assert "records skipped: 1" in caplog.text


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        put(tmp_path, "mbp-10", count=count)
        ingestor = DBNIngestor(data_dir=tmp_path, schema=DbnSchema.MBP10)
        tracemalloc.start()
        assert rows(ingestor) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    bound = BLOCK_BYTES + MAX_BLOCK_BYTES + READ_BYTES + 512 * 1024
    assert peak(3_000) < bound
    assert peak(60_000) < bound


def test_depth_of_a_capture_with_send_times_is_read_like_any_other(tmp_path: Path) -> None:
    put(tmp_path, "mbp-10", ts_out=True, version=1)
    ingestor = DBNIngestor(data_dir=tmp_path, schema=DbnSchema.MBP10)
    found = b"".join(block.records.tobytes() for block in ingestor.blocks())
    assert found == depth(100).tobytes()
