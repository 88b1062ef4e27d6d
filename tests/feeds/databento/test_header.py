from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.errors import BadDataError
from ingestor.feeds.databento import header as header_module
from ingestor.feeds.databento.buffer import ReadBuffer
from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.header import MAX_HEADER_BYTES, read_header
from tests.dbn_files import DAY, header_bytes
from tests.feeds.databento.test_buffer import Trickle

PATH = Path("/data/some.dbn")
HEADER = header_bytes("trades")


def read(content: bytes, schema: DbnSchema = DbnSchema.TRADES) -> tuple[object, ReadBuffer]:
    pieces = [content[at : at + 100] for at in range(0, len(content), 100)]
    buffer = ReadBuffer(Trickle(pieces), 1000)
    return read_header(buffer, PATH, schema), buffer


def complaint(content: bytes, schema: DbnSchema = DbnSchema.TRADES) -> str:
    with pytest.raises(BadDataError) as caught:
        read(content, schema)
    return str(caught.value)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_all_versions_are_read_to_their_end(version: int) -> None:
    encoded = header_bytes("mbp-10", version=version, ts_out=True)
    assert encoded[3] == version
    metadata, buffer = read(encoded + b"records", DbnSchema.MBP10)
    assert metadata.ts_out  # type: ignore[attr-defined]
    assert list(metadata.mappings) == ["ES.c.0"]  # type: ignore[attr-defined]
    assert bytes(buffer.view(100)) == b"records"
    assert buffer.offset == len(encoded)


def test_a_header_without_a_schema_is_taken_at_the_names_word() -> None:
    metadata, _ = read(header_bytes(None), DbnSchema.MBP10)
    assert metadata.schema is None  # type: ignore[attr-defined]


def test_a_header_larger_than_the_buffer_is_read_too() -> None:
    mappings = {f"ES{n}": [(DAY, DAY, str(n))] for n in range(500)}
    metadata, _ = read(header_bytes("trades", mappings=mappings))
    assert len(metadata.mappings) == 500  # type: ignore[attr-defined]


def test_an_empty_file_is_said_to_be_empty() -> None:
    assert complaint(b"") == "/data/some.dbn is empty: it holds no DBN header"


def test_another_kind_of_file_is_named_by_how_it_opens() -> None:
    assert complaint(b"PK\x03\x04 and so on, a zip file") == (
        "/data/some.dbn is not a DBN file: "
        "it opens with b'PK\\x03\\x04 and' where b'DBN' should stand"
    )


def test_the_wrong_schema_is_named_with_the_right_one() -> None:
    assert complaint(HEADER, DbnSchema.MBP10) == (
        "/data/some.dbn holds schema trades, not mbp-10 as its name says"
    )


@given(st.integers(3, len(HEADER) - 1))
def test_a_file_that_ends_inside_its_header_is_said_to(kept: int) -> None:
    assert complaint(HEADER[:kept]) == (
        f"/data/some.dbn ends inside its DBN header: it has {kept} bytes of it"
    )


def test_a_header_claiming_more_than_the_bound_is_refused_unread() -> None:
    length = MAX_HEADER_BYTES + 1
    assert complaint(b"DBN\x03" + length.to_bytes(4, "little") + bytes(50)) == (
        f"/data/some.dbn claims a DBN header of {length} bytes; "
        f"more than {MAX_HEADER_BYTES} is broken"
    )


def test_a_header_at_the_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "MAX_HEADER_BYTES", len(HEADER) - 8)
    _, buffer = read(HEADER)
    assert buffer.offset == len(HEADER)


def test_a_newer_version_is_refused_with_the_librarys_reason() -> None:
    found = complaint(b"DBN\x09" + HEADER[4:])
    assert found.startswith("/data/some.dbn has a DBN header that cannot be read: ")
    assert "newer version" in found


@given(st.data())
def test_a_damaged_header_is_read_or_refused_but_never_crashes(data: st.DataObject) -> None:
    damaged = bytearray(HEADER)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(8, len(HEADER) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadDataError):
        _, buffer = read(bytes(damaged))
        assert buffer.offset == len(HEADER)
