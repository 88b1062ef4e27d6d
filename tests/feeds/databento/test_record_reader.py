from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.record_reader import (
    MAX_RECORD_BYTES,
    DbnReader,
    Framed,
    Layout,
    frame,
)
from ingestor.files.streams import open_stream
from ingestor.model.errors import BadDataError
from ingestor.model.records import FUTURES_TRADE, MBP10, Records
from tests.dbn_files import (
    compressed,
    depth,
    header_bytes,
    other_record,
    records_of,
    trades,
    with_ts_out,
    write_dbn,
)
from tests.feeds.databento.oracle import read_plainly
from tests.files.test_streams_buffer import Trickle

HEADER = header_bytes("trades")
TRADES = Layout(FUTURES_TRADE, 0x00, 48)
DEPTH = Layout(MBP10, 0x0A, 368)
DEPTH_WITH_TS_OUT = Layout(MBP10, 0x0A, 376)


def framed(content: bytes, layout: Layout = TRADES) -> Framed:
    return frame(memoryview(content), layout)


def one_by_one(records: Records) -> list[bytes]:
    return [record.tobytes() for record in records]


RECORDS = st.sampled_from(
    [
        *one_by_one(trades(20)),
        *one_by_one(depth(5)),
        *one_by_one(with_ts_out(trades(3))),
        *one_by_one(with_ts_out(depth(3))),
        other_record(0x17, 16),
        other_record(0x16, 176),
        other_record(0x0A, 52),
        other_record(0x00, MAX_RECORD_BYTES),
    ]
)


@given(
    st.lists(RECORDS, max_size=30),
    st.integers(0, 400),
    st.sampled_from([("trades", False), ("mbp-10", False), ("trades", True), ("mbp-10", True)]),
)
def test_any_mix_is_framed_as_a_plain_reader_reads_it(
    parts: list[bytes], missing: int, kind: tuple[str, bool]
) -> None:
    schema, ts_out = kind
    content = b"".join(parts)[: max(0, sum(map(len, parts)) - missing)]
    base = TRADES if schema == "trades" else DEPTH
    layout = Layout(base.dtype, base.rtype, base.stride + 8 * ts_out)
    expected = read_plainly(content, schema, ts_out=ts_out)
    records: list[bytes] = []
    numbers: list[int] = []
    found = 0
    while (result := framed(content, layout)).found:
        records += one_by_one(result.records)
        numbers += (result.numbers + found).tolist()
        others = [place for places in result.others.values() for place in places.tolist()]
        others += [place for place, _ in result.control]
        assert sorted(result.numbers.tolist() + others) == list(range(result.found))
        found += result.found
        content = content[result.consumed :]
    assert (records, numbers, found) == (expected.records, expected.numbers, expected.found)
    assert (content == b"") == expected.whole
    assert not result.broken


def test_records_of_one_kind_are_the_bytes_themselves() -> None:
    content = trades(4).tobytes()
    result = framed(content)
    assert np.shares_memory(result.records, np.frombuffer(content, np.uint8))
    assert (result.found, result.consumed, result.others) == (4, 192, {})


def test_the_part_of_a_record_at_the_end_is_left() -> None:
    result = framed(trades(3).tobytes()[:-1])
    assert (result.found, result.consumed, result.broken) == (2, 96, False)


def test_send_times_are_cut_off_and_the_length_corrected() -> None:
    records = depth(6)
    result = framed(with_ts_out(records).tobytes(), DEPTH_WITH_TS_OUT)
    assert result.records.tobytes() == records.tobytes()
    assert result.consumed == 6 * 376


def test_other_records_are_told_by_rtype_with_their_places() -> None:
    first, second = one_by_one(trades(2))
    content = other_record(0x13, 40) + first + other_record(0x00, 52) + second
    result = framed(content + other_record(0x13, 16))
    assert result.numbers.tolist() == [1, 3]
    assert {cause: places.tolist() for cause, places in result.others.items()} == {
        "rtype 0x13": [0, 4],
        "unexpected record length": [2],
    }
    assert result.control == []


@pytest.mark.parametrize("rtype", [0x15, 0x16, 0x17])
def test_what_a_gateway_says_is_handed_on_as_it_is(rtype: int) -> None:
    first, second = one_by_one(trades(2))
    spoken, short = other_record(rtype, 176), other_record(rtype, 16)
    result = framed(first + spoken + second + short)
    assert result.control == [(1, spoken), (3, short)]
    assert (result.numbers.tolist(), result.others) == ([0, 2], {})


@pytest.mark.parametrize("words", [0, 1, 3])
def test_a_length_no_record_can_have_breaks_the_file_after_the_good_ones(words: int) -> None:
    content = trades(2).tobytes() + bytes([words]) + bytes(60)
    result = framed(content)
    assert (result.found, result.consumed, result.broken) == (2, 96, True)


def test_nothing_holds_nothing() -> None:
    result = framed(b"")
    assert (result.found, result.consumed, result.broken) == (0, 0, False)


def test_less_than_one_record_holds_nothing() -> None:
    result = framed(trades(1).tobytes()[:20])
    assert (result.found, result.consumed, result.broken) == (0, 0, False)
    assert result.records.dtype == FUTURES_TRADE


def read(
    path: Path, schema: str = "trades", block_bytes: int = 4096
) -> tuple[list[bytes], str | None]:
    """Return the records of each chunk as bytes, and the sentence it ended with."""
    chunks: list[bytes] = []
    with open_stream(path) as stream:
        reader = DbnReader(stream, path, DbnSchema(schema), block_bytes)
        try:
            assert not list(reader.open())
            for chunk in reader.chunks():
                assert chunk.records.nbytes <= block_bytes
                chunks.append(chunk.records.tobytes())
        except BadDataError as error:
            return chunks, str(error)
    return chunks, None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "file"


@given(
    schema=st.sampled_from(["trades", "mbp-10"]),
    count=st.integers(0, 200),
    version=st.integers(1, 3),
    zstd=st.booleans(),
    frames=st.integers(1, 5),
    ts_out=st.booleans(),
    block_bytes=st.integers(MAX_RECORD_BYTES, 20_000),
)
def test_every_file_comes_back_as_it_was_written(
    scratch: Path, schema: str, count: int, block_bytes: int, **kind: int
) -> None:
    records = records_of(schema, count)
    write_dbn(scratch, records, schema=schema, **kind)  # type: ignore[arg-type]
    chunks, failure = read(scratch, schema, block_bytes)
    assert b"".join(chunks) == records.tobytes()
    assert failure is None


@given(st.integers(0, 50 * 48 - 1), st.booleans(), st.integers(MAX_RECORD_BYTES, 4000))
def test_a_file_cut_anywhere_yields_all_whole_records_before_it(
    scratch: Path, kept: int, zstd: bool, block_bytes: int
) -> None:
    body = trades(50).tobytes()[:kept]
    scratch.write_bytes(compressed(HEADER, body) if zstd else HEADER + body)
    chunks, failure = read(scratch, block_bytes=block_bytes)
    expected = read_plainly(body, "trades")
    assert chunks == [] or b"".join(chunks) == b"".join(expected.records)
    assert sum(map(len, chunks)) == 48 * expected.found
    if expected.whole:
        assert failure is None
    else:
        assert failure == (
            f"{scratch} ends inside a record ({kept % 48} of 48 bytes); "
            f"{expected.found} whole records were read before, "
            f"up to byte {len(HEADER) + 48 * expected.found} of its decompressed content"
        )


@given(st.data())
def test_a_compressed_file_cut_anywhere_yields_what_its_blocks_still_hold(
    scratch: Path, data: st.DataObject
) -> None:
    body = trades(4000).tobytes()
    content = compressed(HEADER, body, 3)
    in_header = len(zstandard.compress(HEADER))
    kept = data.draw(st.integers(in_header, len(content) - 1))
    scratch.write_bytes(content[:kept])
    chunks, failure = read(scratch)
    found = b"".join(chunks)
    assert found == body[: len(found)]
    if failure is not None and "inside a record" not in failure:
        assert f"inside a zstd frame at byte {kept} of the file" in failure
    second = len(compressed(HEADER, body[: len(body) // 2]))
    assert len(found) >= (len(body) // 2 // 48 * 48 if kept >= second else 0)


def test_a_cut_zstd_frame_is_named_with_place_and_count(tmp_path: Path) -> None:
    content = compressed(HEADER, trades(8000).tobytes())
    path = tmp_path / "x"
    path.write_bytes(content[:-3])
    chunks, failure = read(path)
    count = sum(map(len, chunks)) // 48
    assert count == 2 * 131_072 // 48
    assert failure == (
        f"{path} ends inside a zstd frame at byte {len(content) - 3} of the file; "
        f"{count} whole records were read before, "
        f"up to byte {len(HEADER) + count * 48} of its decompressed content"
    )


def test_corrupt_zstd_data_yields_what_came_before(tmp_path: Path) -> None:
    good = compressed(HEADER, trades(100).tobytes())
    path = tmp_path / "x"
    path.write_bytes(good + zstandard.compress(b"")[:6] + b"\x07\x00\x00")
    chunks, failure = read(path)
    assert b"".join(chunks) == trades(100).tobytes()
    assert failure is not None
    assert f"corrupt zstd data at byte {len(good) + 6} of the file" in failure
    assert "; 100 whole records were read before" in failure


def test_garbage_behind_the_last_frame_is_no_frame(tmp_path: Path) -> None:
    good = compressed(HEADER, trades(3).tobytes())
    path = tmp_path / "x"
    path.write_bytes(good + b"garbage")
    chunks, failure = read(path)
    assert b"".join(chunks) == trades(3).tobytes()
    assert failure is not None
    assert f"holds no zstd frame at byte {len(good)} of the file; 3 whole records" in failure


def test_a_record_of_length_zero_breaks_the_file_after_the_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(HEADER + trades(3).tobytes() + bytes(500))
    chunks, failure = read(path)
    assert b"".join(chunks) == trades(3).tobytes()
    assert failure == (
        f"{path} holds a record of impossible length (0 bytes); 3 whole records were read before, "
        f"up to byte {len(HEADER) + 144} of its decompressed content"
    )


def test_a_live_capture_gives_the_records_of_the_schema_its_name_says(tmp_path: Path) -> None:
    body = b"".join(
        [
            other_record(0x16, 176),
            trades(200).tobytes(),
            depth(30).tobytes(),
            other_record(0x17, 320),
            trades(5).tobytes(),
        ]
    )
    path = write_dbn(tmp_path / "x", body, schema=None, zstd=False)
    for schema in ("trades", "mbp-10"):
        chunks, failure = read(path, schema, MAX_RECORD_BYTES)
        assert b"".join(chunks) == b"".join(read_plainly(body, schema).records)
        assert failure is None


def test_the_longest_record_there_can_be_fits_the_smallest_block(tmp_path: Path) -> None:
    body = trades(1).tobytes() + other_record(0x01, MAX_RECORD_BYTES) + trades(1).tobytes()
    path = write_dbn(tmp_path / "x", body, schema=None, zstd=False)
    chunks, failure = read(path, block_bytes=MAX_RECORD_BYTES)
    assert b"".join(chunks) == trades(1).tobytes() * 2
    assert failure is None


def test_a_file_without_records_is_fine(tmp_path: Path) -> None:
    assert read(write_dbn(tmp_path / "x", b"", schema="trades")) == ([], None)


def test_the_position_reaches_the_end_of_the_file(tmp_path: Path) -> None:
    path = write_dbn(tmp_path / "x", trades(9000), schema="trades")
    with open_stream(path) as stream:
        reader = DbnReader(stream, path, DbnSchema.TRADES, 4096)
        assert not list(reader.open())
        positions = [reader.position for _ in reader.chunks()]
        assert positions == sorted(positions)
        assert reader.position == path.stat().st_size
        assert reader.found == 9000


def opened(stream: Trickle) -> DbnReader:
    reader = DbnReader(stream, Path("/data/some.dbn"), DbnSchema.TRADES, MAX_RECORD_BYTES)
    assert not list(reader.open())
    return reader


def in_pieces(content: bytes) -> list[bytes]:
    return [content[at : at + 100] for at in range(0, len(content), 100)]


def test_a_header_larger_than_the_buffer_is_read_too() -> None:
    day = dt.date(2024, 1, 2)
    mappings = {f"ES{number}": [(day, day, str(number))] for number in range(100)}
    content = header_bytes("trades", mappings=mappings)
    assert len(content) > 8 * MAX_RECORD_BYTES
    reader = opened(Trickle(in_pieces(content + trades(3).tobytes())))
    assert reader.header.size_bytes == len(content)
    assert list(reader.header.mappings.symbols_in) == list(mappings)
    assert b"".join(chunk.records.tobytes() for chunk in reader.chunks()) == trades(3).tobytes()


@pytest.mark.parametrize("kept", [0, 5, 8, 100])
def test_a_stream_that_fails_inside_the_header_is_the_cause_that_is_told(kept: int) -> None:
    class Failing(Trickle):
        def read_some(self, room: memoryview) -> int | None:
            count = super().read_some(room)
            if not count:
                self.failure = "ends inside a zstd frame at byte 9 of the file"
            return count

    with pytest.raises(BadDataError, match=r"some\.dbn ends inside a zstd frame at byte 9"):
        opened(Failing([HEADER[:kept]]))
