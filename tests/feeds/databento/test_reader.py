from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.framing import MAX_RECORD_BYTES
from ingestor.feeds.databento.reader import MIN_BLOCK_BYTES, DbnReader
from ingestor.files.streams import open_stream
from ingestor.model.errors import BadDataError
from tests.dbn_files import (
    compressed,
    depth,
    header_bytes,
    other_record,
    records_of,
    trades,
    write_dbn,
)
from tests.feeds.databento.oracle import read_plainly

HEADER = header_bytes("trades")


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
    block_bytes=st.integers(MIN_BLOCK_BYTES, 20_000),
)
def test_every_file_comes_back_as_it_was_written(
    scratch: Path, schema: str, count: int, block_bytes: int, **kind: int
) -> None:
    records = records_of(schema, count)
    write_dbn(scratch, records, schema=schema, **kind)  # type: ignore[arg-type]
    chunks, failure = read(scratch, schema, block_bytes)
    assert b"".join(chunks) == records.tobytes()
    assert failure is None


@given(st.integers(0, 50 * 48 - 1), st.booleans(), st.integers(MIN_BLOCK_BYTES, 4000))
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
        chunks, failure = read(path, schema, MIN_BLOCK_BYTES)
        assert b"".join(chunks) == b"".join(read_plainly(body, schema).records)
        assert failure is None


def test_the_longest_record_there_can_be_fits_the_smallest_block(tmp_path: Path) -> None:
    body = trades(1).tobytes() + other_record(0x01, MAX_RECORD_BYTES) + trades(1).tobytes()
    path = write_dbn(tmp_path / "x", body, schema=None, zstd=False)
    chunks, failure = read(path, block_bytes=MIN_BLOCK_BYTES)
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
