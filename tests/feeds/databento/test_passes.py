from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.passes import Batch, FilePass
from ingestor.feeds.databento.progress import Progress, Remarks
from ingestor.feeds.databento.reader import MIN_BLOCK_BYTES, DbnReader
from ingestor.feeds.databento.symbology import NS_PER_DAY, SymbolTables, names_in_metadata
from ingestor.feeds.streams import open_stream
from ingestor.feeds.windows import EVERYTHING, Window
from ingestor.records import Records
from ingestor.symbols import SymbolTable
from ingestor.units import NS_PER_S, UNDEF_PRICE, UNDEF_TIMESTAMP
from tests.dbn_files import DAY, DAY_NS, INSTRUMENT, other_record, trades, write_dbn
from tests.feeds.databento.oracle import makes_sense

NEXT = DAY.replace(day=3)
AFTER = DAY.replace(day=4)
ROLL = {
    "ES.c.0": [(DAY, NEXT, "1"), (NEXT, AFTER, "2")],
    "NQ.c.0": [(DAY, AFTER, "3")],
}


class Passed:
    """What came through one pass over a file."""

    def __init__(
        self,
        path: Path,
        windows: Sequence[Window] = (EVERYTHING,),
        symbols: frozenset[str] = frozenset(),
        block_bytes: int = MIN_BLOCK_BYTES,
    ) -> None:
        self.progress = Progress()
        self.blocks: list[tuple[Records, SymbolTable]] = []
        remarks = Remarks(path)
        with open_stream(path) as stream:
            reader = DbnReader(stream, path, DbnSchema.TRADES, block_bytes)
            tables = SymbolTables(names_in_metadata(reader.header))
            one_pass = FilePass(reader, tables, remarks, self.progress)
            for records, table in one_pass.batches(windows, symbols):
                self.blocks.append((records.copy(), table))
        remarks.log()

    @property
    def sequences(self) -> list[int]:
        return [number for records, _ in self.blocks for number in records["sequence"].tolist()]

    @property
    def named(self) -> list[str]:
        return [
            table[number]
            for records, table in self.blocks
            for number in records["instrument_id"].tolist()
        ]


def write(tmp_path: Path, records: Records | bytes, **kind: Any) -> Path:
    return write_dbn(tmp_path / "file.dbn", records, schema="trades", zstd=False, **kind)


def test_nonsense_is_skipped_counted_and_logged_once_a_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = trades(100)
    records["price_e9"][[30, 70]] = UNDEF_PRICE
    records["ts_event_ns"][[50, 70]] = UNDEF_TIMESTAMP
    path = write(tmp_path, records)
    passed = Passed(path)
    assert passed.sequences == np.delete(records["sequence"], [30, 50, 70]).tolist()
    assert passed.progress.skipped == {
        "trade without a price": 1,
        "ts_event undefined or out of range": 2,
    }
    assert caplog.messages == [
        f"{path}: records skipped: 1, the first is number 30 (from 0): trade without a price",
        f"{path}: records skipped: 2, the first is number 50 (from 0): "
        "ts_event undefined or out of range",
    ]


def test_records_of_other_types_are_skipped_by_rtype(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = trades(60).tobytes() + other_record(0x17, 320) + trades(1).tobytes()
    passed = Passed(write(tmp_path, body + other_record(0x17, 320)))
    assert passed.progress.skipped == {"rtype 0x17": 2}
    assert "records skipped: 2, the first is number 60 (from 0): rtype 0x17" in caplog.text


def test_a_sensible_file_is_not_worth_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert len(Passed(write(tmp_path, trades(100))).sequences) == 100
    assert not caplog.messages


def test_a_window_is_half_open_on_event_time(tmp_path: Path) -> None:
    window = Window(DAY_NS + 20 * NS_PER_S, DAY_NS + 70 * NS_PER_S)
    passed = Passed(write(tmp_path, trades(100)), [window])
    assert passed.sequences == list(range(6020, 6070))
    assert passed.progress.filtered == 50


def test_records_inside_a_window_are_found_behind_its_end(tmp_path: Path) -> None:
    records = trades(200)
    records["ts_event_ns"][190] = DAY_NS
    passed = Passed(write(tmp_path, records), [Window(DAY_NS, DAY_NS + NS_PER_S)])
    assert passed.sequences == [6000, 6190]


def test_a_block_is_cut_where_the_date_and_with_it_the_table_changes(tmp_path: Path) -> None:
    records = trades(10, start_ns=DAY_NS + NS_PER_DAY - 4 * NS_PER_S)
    records["instrument_id"] = [1, 1, 3, 1, 2, 2, 3, 2, 2, 1]
    passed = Passed(write(tmp_path, records, mappings=ROLL))
    assert [len(block) for block, _ in passed.blocks] == [4, 6]
    assert passed.named == ["ES.c.0"] * 2 + ["NQ.c.0"] + ["ES.c.0"] * 3 + ["NQ.c.0"] + [
        "ES.c.0",
        "ES.c.0",
        "1",
    ]


def test_the_date_is_that_of_ts_recv(tmp_path: Path) -> None:
    records = trades(1, start_ns=DAY_NS + NS_PER_DAY - 1)
    records["instrument_id"] = 2
    assert Passed(write(tmp_path, records, mappings=ROLL)).named == ["ES.c.0"]


def test_only_the_symbols_asked_for_come_through(tmp_path: Path) -> None:
    records = trades(100)
    records["instrument_id"] = np.arange(100) % 4
    path = write(tmp_path, records, mappings=ROLL)
    passed = Passed(path, symbols=frozenset({"NQ.c.0", "2"}))
    assert passed.sequences == [n for n in range(6000, 6100) if n % 4 in (2, 3)]
    assert set(passed.named) == {"NQ.c.0", "2"}
    assert passed.progress.filtered == 50


def test_chunks_that_hold_nothing_asked_for_are_signs_of_life_without_records(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, trades(100))
    blocks = Passed(path, symbols=frozenset({"CL.c.0"})).blocks
    assert len(blocks) > 1
    assert sum(len(records) for records, _ in blocks) == 0


def test_steps_back_in_time_are_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = trades(100)
    records["ts_event_ns"][[40, 41, 80]] = DAY_NS
    path = write(tmp_path, records)
    passed = Passed(path)
    assert passed.progress.late == 3
    assert passed.sequences == list(range(6000, 6100))
    assert caplog.messages == [
        f"{path}: records that step back in time: 3, the first is number 40 (from 0); "
        "they keep their place"
    ]


def test_order_is_judged_among_the_records_that_come_through(tmp_path: Path) -> None:
    records = trades(100)
    records["ts_event_ns"][40] = DAY_NS
    records["instrument_id"][40] = 5
    passed = Passed(write(tmp_path, records), symbols=frozenset({"ES.c.0"}))
    assert (passed.progress.late, len(passed.sequences)) == (0, 99)


def test_a_smaller_sequence_at_the_same_time_is_not_late(tmp_path: Path) -> None:
    records = trades(100, step_ns=0)
    records["sequence"] = records["sequence"][::-1].copy()
    records["ts_event_ns"][90:] = DAY_NS + 1
    records["ts_event_ns"][95] = DAY_NS
    passed = Passed(write(tmp_path, records))
    assert passed.progress.late == 1


TIMES = st.sampled_from([DAY_NS, DAY_NS + NS_PER_DAY - 1, DAY_NS + NS_PER_DAY, UNDEF_TIMESTAMP])


@given(st.lists(st.tuples(TIMES, TIMES, st.integers(1, 4), st.booleans()), max_size=60), st.data())
def test_every_record_is_passed_filtered_or_skipped_as_a_plain_loop_does(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int, int, bool]],
    data: st.DataObject,
) -> None:
    records = trades(len(rows))
    for place, (event, recv, instrument, priced) in enumerate(rows):
        records["ts_event_ns"][place], records["ts_recv_ns"][place] = event, recv
        records["instrument_id"][place] = instrument
        records["price_e9"][place] = 1 if priced else UNDEF_PRICE
    windows = data.draw(st.sampled_from([[EVERYTHING], [Window(DAY_NS, DAY_NS + NS_PER_DAY)]]))
    symbols = data.draw(st.sampled_from([frozenset[str](), frozenset({"ES.c.0", "4"})]))
    path = write(tmp_path_factory.mktemp("x"), records, mappings=ROLL)
    passed = Passed(path, windows, symbols)

    def symbol(record: Any) -> str:
        second_day = record["ts_recv_ns"] >= DAY_NS + NS_PER_DAY
        es = 2 if second_day else 1
        names = {es: "ES.c.0", 3: "NQ.c.0"}
        number = int(record["instrument_id"])
        return names.get(number, str(number))

    sensible = [record for record in records if makes_sense(record.tobytes())]
    expected = [
        record
        for record in sensible
        if any(w.start_ns <= record["ts_event_ns"] < w.end_ns for w in windows)
        and (not symbols or symbol(record) in symbols)
    ]
    assert passed.sequences == [record["sequence"] for record in expected]
    assert passed.named == [symbol(record) for record in expected]
    progress = passed.progress
    assert sum(progress.skipped.values()) == len(records) - len(sensible)
    assert (progress.records, progress.filtered) == (
        len(expected),
        len(sensible) - len(expected),
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_runs_of_one_date_are_cut_at_every_change(days: list[int]) -> None:
    records = trades(len(days))
    records["ts_recv_ns"] = np.array(days, np.uint64) * np.uint64(NS_PER_DAY) + np.uint64(5)
    parts = list(Batch(records, np.arange(len(days))).by_day())
    assert [day for day, part in parts for _ in part.numbers] == days
    assert [n for _, part in parts for n in part.numbers.tolist()] == list(range(len(days)))
    assert all(before[0] != after[0] for before, after in pairwise(parts))


def test_instruments_of_no_mapping_go_by_their_number(tmp_path: Path) -> None:
    passed = Passed(write(tmp_path, trades(3), mappings={}))
    assert passed.named == [str(INSTRUMENT)] * 3
