from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.record_filter import (
    TEXTS_TOLD,
    FileIssues,
    FileProgress,
    RecordFilter,
    invalid,
)
from ingestor.feeds.databento.record_reader import MAX_RECORD_BYTES, DbnReader
from ingestor.feeds.databento.symbology import HeaderNames, SymbolFilter, SymbolTables
from ingestor.feeds.windows import EVERYTHING, DailyWindows, Window
from ingestor.files.streams import open_stream
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.records import Records
from ingestor.model.symbols import SymbolTable
from ingestor.model.units import INT64_MAX, NS_PER_DAY, NS_PER_S, UNDEF_PRICE, UNDEF_TIMESTAMP
from tests.dbn_files import (
    DAY,
    DAY_NS,
    INSTRUMENT,
    control_record,
    depth,
    header_bytes,
    mapping_record,
    other_record,
    records_of,
    text_record,
    trades,
    with_ts_out,
    write_dbn,
)
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
        windows: Sequence[Window] | DailyWindows = (EVERYTHING,),
        symbols: frozenset[str] = frozenset(),
        block_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self.progress = FileProgress()
        self.blocks: list[tuple[Records, SymbolTable]] = []
        self.in_order: list[bool] = []
        issues = FileIssues(path)
        with open_stream(path) as stream:
            reader = DbnReader(stream, path, DbnSchema.TRADES, block_bytes)
            assert not list(reader.open())
            tables = SymbolTables(HeaderNames(reader.header), symbol_filter=SymbolFilter(symbols))
            for block in RecordFilter(reader, tables, issues, self.progress).blocks(windows):
                self.blocks.append((block.records.copy(), block.symbols))
                self.in_order.append(block.in_order)
        issues.log()

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


def test_invalid_records_are_skipped_counted_and_logged_once_a_cause(
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
    body = trades(60).tobytes() + other_record(0x13, 360) + trades(1).tobytes()
    passed = Passed(write(tmp_path, body + other_record(0x13, 360)))
    assert passed.progress.skipped == {"rtype 0x13": 2}
    assert "records skipped: 2, the first is number 60 (from 0): rtype 0x13" in caplog.text


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


def test_a_block_is_cut_where_an_instrument_gets_another_name(tmp_path: Path) -> None:
    records = trades(10, start_ns=DAY_NS + NS_PER_DAY - 4 * NS_PER_S)
    records["instrument_id"] = [1, 1, 3, 1, 2, 2, 3, 2, 2, 1]
    passed = Passed(write(tmp_path, records, mappings=ROLL))
    assert [len(block) for block, _ in passed.blocks] == [9, 1]
    assert passed.named == ["ES.c.0"] * 2 + ["NQ.c.0"] + ["ES.c.0"] * 3 + ["NQ.c.0"] + [
        "ES.c.0",
        "ES.c.0",
        "1",
    ]


def test_records_that_go_to_and_fro_across_midnight_share_a_block(tmp_path: Path) -> None:
    records = trades(20_000, step_ns=0)
    records["instrument_id"] = 3
    records["ts_recv_ns"][::2] += np.uint64(NS_PER_DAY)
    passed = Passed(write(tmp_path, records, mappings=ROLL), block_bytes=1020 * 1024)
    assert [len(block) for block, _ in passed.blocks] == [20_000]
    assert passed.sequences == records["sequence"].tolist()


def test_where_names_differ_on_the_two_sides_of_midnight_each_record_has_its_own(
    tmp_path: Path,
) -> None:
    records = trades(4_000, step_ns=0)
    records["instrument_id"] = np.arange(4_000) // 2 % 2 + 1
    records["ts_recv_ns"][::2] += np.uint64(NS_PER_DAY)
    passed = Passed(write(tmp_path, records, mappings=ROLL), block_bytes=1020 * 1024)
    assert passed.named == ["1", "ES.c.0", "ES.c.0", "2"] * 1000
    assert passed.sequences == records["sequence"].tolist()


def test_only_the_days_asked_for_come_through(tmp_path: Path) -> None:
    records = trades(50, step_ns=NS_PER_DAY // 10)
    days = {DAY + dt.timedelta(days=number) for number in (1, 3)}
    windows = DailyWindows(lambda day: [EVERYTHING] if day in days else [])
    path = write(tmp_path, records)
    for block_bytes in (MAX_RECORD_BYTES, 1020 * 1024):
        passed = Passed(path, windows, block_bytes=block_bytes)
        assert passed.sequences == [*range(6010, 6020), *range(6030, 6040)]
        assert passed.progress.filtered == 30


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("ts_out", [False, True])
def test_symbol_mapping_records_name_instruments_from_where_they_stand_on(
    tmp_path: Path, version: int, *, ts_out: bool
) -> None:
    def mapping(instrument: int, out: str) -> bytes:
        return mapping_record(instrument, out, "ES.FUT", version=version, ts_out=ts_out)

    def one(instrument: int) -> bytes:
        records = trades(1)
        records["instrument_id"] = instrument
        return (with_ts_out(records) if ts_out else records).tobytes()

    body = [one(1), mapping(1, "ESH4"), mapping(2, "ESM4"), one(1), one(2), one(1)]
    body += [mapping(1, "ESU4"), one(2), one(1), one(3), mapping(3, "ESZ4"), one(3), one(1)]
    header = header_bytes(None, version=version, mappings={}, ts_out=ts_out)
    path = tmp_path / "capture.dbn"
    path.write_bytes(header + b"".join(body))
    expected = ["1", "ESH4", "ESM4", "ESH4", "ESM4", "ESU4", "3", "ESZ4", "ESU4"]
    for block_bytes in (MAX_RECORD_BYTES, 1020 * 1024):
        passed = Passed(path, block_bytes=block_bytes)
        assert passed.named == expected
        assert (passed.progress.control, passed.progress.skipped) == (4, {})


def test_the_metadata_of_a_file_comes_before_its_mapping_records(tmp_path: Path) -> None:
    records = trades(2)
    records["instrument_id"] = [1, 2]
    body = mapping_record(1, "ESH4") + mapping_record(2, "ESM4") + records.tobytes()
    passed = Passed(write(tmp_path, body, mappings=ROLL))
    assert passed.named == ["ES.c.0", "ESM4"]


@pytest.mark.parametrize("symbol", ["ESH4", "ES.FUT", "17077"])
def test_a_capture_is_searched_by_either_symbol_of_a_mapping_record(
    tmp_path: Path, symbol: str
) -> None:
    body = mapping_record(INSTRUMENT, "ESH4", "ES.FUT") + trades(3).tobytes()
    passed = Passed(write(tmp_path, body, mappings={}), symbols=frozenset({symbol}))
    assert passed.named == [symbol] * 3


def test_what_a_gateway_says_is_told_and_counts_as_no_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for version in (1, 3):
        body = text_record(0x17, "Heartbeat", version=version) + trades(1).tobytes()
        body += text_record(0x15, "skipped\nINFO all is well", version=version)
        body += text_record(0x17, "Subscription request 1 acknowledged", version=version)
        path = write(tmp_path, body, version=version)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            progress = Passed(path).progress
        assert (progress.control, progress.skipped, progress.records) == (3, {}, 1)
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            (
                "WARNING",
                f"{path}: record number 2 (from 0) is a message of the gateway: "
                '"skipped\\nINFO all is well"',
            ),
            (
                "INFO",
                f"{path}: record number 3 (from 0) is a message of the gateway: "
                '"Subscription request 1 acknowledged"',
            ),
        ]


def test_a_flood_of_messages_of_a_gateway_makes_few_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, text_record(0x15, "slow") * 1000)
    assert Passed(path).progress.control == 1000
    assert len(caplog.messages) == TEXTS_TOLD + 1
    assert caplog.messages[-1] == (
        f"{path}: more messages of the gateway, which are not shown: {1000 - TEXTS_TOLD}"
    )


def test_a_mapping_record_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    cut = control_record(0x16, bytes(8), instrument=INSTRUMENT)
    no_text = mapping_record(INSTRUMENT, "ESH4").replace(b"ESH4", b"\xff\xfe\xfd\xfc")
    passed = Passed(write(tmp_path, cut + no_text + trades(1).tobytes(), mappings={}))
    assert passed.named == [str(INSTRUMENT)]
    assert passed.progress.skipped == {"symbol mapping that cannot be read": 2}


def test_of_a_capture_that_mixes_schemas_the_other_feeds_records_are_no_loss(
    tmp_path: Path,
) -> None:
    body = trades(2).tobytes() + depth(3).tobytes() + other_record(0x13, 64)
    path = write_dbn(tmp_path / "x.dbn", body, schema=None, zstd=False)
    progress = Passed(path).progress
    assert (progress.records, progress.filtered) == (2, 3)
    assert progress.skipped == {"rtype 0x13": 1}
    with_schema = Passed(write(tmp_path, body)).progress
    assert with_schema.skipped == {"rtype 0x13": 1, "rtype 0x0A": 3}


PARTS = st.one_of(
    st.tuples(st.just("trade"), st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.just("mapping"), st.integers(0, 2), st.integers(0, 2)),
)


@given(st.lists(PARTS, max_size=40), st.sampled_from([MAX_RECORD_BYTES, 1020 * 1024]))
def test_names_are_those_of_a_plain_loop_over_the_records(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, int, int]], block_bytes: int
) -> None:
    body, said, expected = b"", dict[int, str](), list[str]()
    for kind, instrument, number in parts:
        if kind == "mapping":
            said[instrument] = f"N{number}"
            body += mapping_record(instrument, said[instrument])
            continue
        records = trades(1, start_ns=DAY_NS + number * NS_PER_DAY)
        records["instrument_id"] = instrument
        body += records.tobytes()
        by_header = {(1, 0): "ES.c.0", (2, 1): "ES.c.0"}.get((instrument, number))
        expected.append(by_header or said.get(instrument, str(instrument)))
    path = write(tmp_path_factory.mktemp("x"), body, mappings=ROLL)
    passed = Passed(path, block_bytes=block_bytes)
    assert passed.named == expected
    assert passed.progress.control == sum(kind == "mapping" for kind, _, _ in parts)


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


def test_instruments_of_no_mapping_go_by_their_number(tmp_path: Path) -> None:
    passed = Passed(write(tmp_path, trades(3), mappings={}))
    assert passed.named == [str(INSTRUMENT)] * 3


def causes(records: Records) -> dict[str, list[int]]:
    return {cause: mask.nonzero()[0].tolist() for cause, mask in invalid(records)}


def changed(records: Records, row: int, **values: Any) -> Records:
    for name, value in values.items():
        records[name][row] = value
    return records


@pytest.mark.parametrize("schema", ["trades", "mbp-10"])
def test_valid_records_have_no_cause(schema: str) -> None:
    assert causes(records_of(schema, 5)) == {}


@pytest.mark.parametrize("schema", ["trades", "mbp-10"])
@pytest.mark.parametrize("name", ["ts_event", "ts_recv"])
@pytest.mark.parametrize("value", [UNDEF_TIMESTAMP, MAX_TIME_NS + 1])
def test_a_time_beyond_int64_is_invalid(schema: str, name: str, value: int) -> None:
    records = changed(records_of(schema, 5), 3, **{f"{name}_ns": value})
    assert causes(records) == {f"{name} undefined or out of range": [3]}


def test_a_trade_without_a_price_is_invalid() -> None:
    assert causes(changed(trades(5), 2, price_e9=UNDEF_PRICE)) == {"trade without a price": [2]}


def test_a_depth_record_needs_no_price() -> None:
    assert causes(changed(depth(5), 2, price_e9=UNDEF_PRICE)) == {}


@pytest.mark.parametrize("schema", ["trades", "mbp-10"])
@pytest.mark.parametrize("name", ["ts_event_ns", "ts_recv_ns"])
def test_the_last_time_there_is_is_valid(schema: str, name: str) -> None:
    assert MAX_TIME_NS == INT64_MAX
    assert causes(changed(records_of(schema, 5), 3, **{name: MAX_TIME_NS})) == {}


def test_prices_below_zero_and_empty_sizes_are_valid() -> None:
    records = changed(trades(5), 1, price_e9=-37_630_000_000, size=0)
    assert causes(changed(records, 2, ts_event_ns=0, publisher_id=0)) == {}


def test_a_record_can_have_several_causes() -> None:
    records = changed(trades(2), 0, price_e9=UNDEF_PRICE, ts_recv_ns=UNDEF_TIMESTAMP)
    assert list(causes(records).values()) == [[0], [0]]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=120))
def test_a_block_that_says_it_is_in_order_is(
    tmp_path_factory: pytest.TempPathFactory, keys: list[tuple[int, int, int]]
) -> None:
    records = trades(len(keys))
    for row, (event, recv, sequence) in enumerate(keys):
        changed(records, row, ts_event_ns=DAY_NS + event, ts_recv_ns=DAY_NS + recv)
        changed(records, row, sequence=sequence)
    passed = Passed(write(tmp_path_factory.mktemp("x"), records))
    last = (0, 0, 0)
    for (block, _), in_order in zip(passed.blocks, passed.in_order, strict=True):
        found = block[["ts_event_ns", "ts_recv_ns", "sequence"]].tolist()
        # Against the highest key of the file so far, not only of this block.
        assert in_order == (sorted([last, *found]) == [last, *found])
        last = max([last, *found])
