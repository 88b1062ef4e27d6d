from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from databento_dbn import Metadata, Schema, SType, VersionUpgradePolicy
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.feeds.databento import header as header_module
from ingestor.feeds.databento.header import MAX_HEADER_BYTES, DbnHeader, header_of
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError
from ingestor.model.units import EPOCH_DATE
from tests.dbn_files import VENDOR_FILES, header_bytes

PATH = Path("/data/some.dbn")
HEADER = header_bytes("trades")
BROKEN = "/data/some.dbn has a broken DBN header: at byte "

# Where in HEADER (version 3) things stand, its first eight bytes included.
START_AT, WIDTH_AT, DEFINITION_AT, SYMBOLS_AT = 26, 53, 108, 112
MAPPINGS_AT = SYMBOLS_AT + 4 + 71 + 4 + 4
INTERVALS_AT = MAPPINGS_AT + 4 + 71
FIRST_DATE_AT = INTERVALS_AT + 4


def complaint(content: bytes) -> str:
    with pytest.raises(BadDataError) as caught:
        header_of(content, PATH)
    return str(caught.value)


def with_number(at: int, value: int, size: int = 4) -> bytes:
    return HEADER[:at] + value.to_bytes(size, "little") + HEADER[at + size :]


def time_or_none(ts_ns: int | None) -> int | None:
    return ts_ns if ts_ns is not None and 0 < ts_ns < 2**63 else None


def mappings_of(header: DbnHeader) -> Iterator[tuple[str, list[tuple[dt.date, dt.date, str]]]]:
    """Each mapping with its intervals, in the header's order."""
    mappings = header.mappings
    columns = (mappings.owners.tolist(), mappings.first.tolist(), mappings.end.tolist())
    intervals = list(zip(*columns, mappings.symbols_out, strict=True))
    for number, key in enumerate(mappings.symbols_in):
        yield (
            key,
            [
                (EPOCH_DATE + dt.timedelta(first), EPOCH_DATE + dt.timedelta(end), symbol)
                for owner, first, end, symbol in intervals
                if owner == number
            ],
        )


def assert_is_what_the_vendor_reads(header: DbnHeader, encoded: bytes) -> None:
    as_is: Any = VersionUpgradePolicy.AS_IS
    metadata = Metadata.decode(encoded, upgrade_policy=as_is)
    assert header.version == metadata.version
    assert header.dataset == metadata.dataset
    assert header.schema == (metadata.schema and str(metadata.schema))
    assert header.start_ns == time_or_none(metadata.start)
    assert header.end_ns == time_or_none(metadata.end)
    assert header.limit == metadata.limit
    assert header.stype_in == (metadata.stype_in and str(metadata.stype_in))
    assert header.stype_out == str(metadata.stype_out)
    assert header.ts_out == metadata.ts_out
    assert list(header.symbols) == metadata.symbols
    assert list(header.partial) == metadata.partial
    assert list(header.not_found) == metadata.not_found
    expected = {
        key: [(span["start_date"], span["end_date"], span["symbol"]) for span in spans]
        for key, spans in metadata.mappings.items()
    }
    assert dict(mappings_of(header)) == expected


@pytest.mark.skipif(not VENDOR_FILES, reason="the vendor's files are not there")
@pytest.mark.parametrize("path", VENDOR_FILES, ids=lambda path: path.name)
def test_the_headers_of_the_vendors_own_files_are_read_as_the_vendor_does(path: Path) -> None:
    with path.open("rb") as file:
        content = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    header = header_of(content, PATH)
    assert header.size_bytes == 8 + int.from_bytes(content[4:8], "little")
    assert_is_what_the_vendor_reads(header, content[: header.size_bytes])


NAMES = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=21)
DATES = st.dates(min_value=dt.date(1, 1, 1))
INTERVALS = st.lists(
    st.builds(SimpleNamespace, start_date=DATES, end_date=DATES, symbol=NAMES), max_size=4
)
SCHEMAS = [None, *(getattr(Schema, name) for name in dir(Schema) if name.isupper())]
STYPES = [getattr(SType, name) for name in dir(SType) if name.isupper()]
METADATA = st.fixed_dictionaries(
    {
        "dataset": st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=15),
        "start": st.integers(0, 2**64 - 1),
        "end": st.none() | st.integers(1, 2**64 - 1),
        "limit": st.none() | st.integers(1, 2**64 - 1),
        "schema": st.sampled_from(SCHEMAS),
        "stype_in": st.none() | st.sampled_from(STYPES),
        "stype_out": st.sampled_from(STYPES),
        "ts_out": st.booleans(),
        "version": st.integers(1, 3),
        "symbols": st.lists(NAMES, max_size=5),
        "partial": st.lists(NAMES, max_size=3),
        "not_found": st.lists(NAMES, max_size=3),
        "mappings": st.lists(
            st.builds(SimpleNamespace, raw_symbol=NAMES, intervals=INTERVALS),
            max_size=5,
            unique_by=lambda mapping: mapping.raw_symbol,
        ),
    }
)


@given(METADATA)
def test_any_header_is_read_as_the_vendor_does(fields: dict[str, Any]) -> None:
    encoded = Metadata(**fields).encode()
    header = header_of(encoded + b"records", PATH)
    assert header.size_bytes == len(encoded)
    assert_is_what_the_vendor_reads(header, encoded)
    assert list(header.mappings.symbols_in) == [
        mapping.raw_symbol for mapping in fields["mappings"]
    ]


def test_a_header_without_a_schema_has_none() -> None:
    assert header_of(header_bytes(None), PATH).schema is None


def test_numbers_without_a_name_are_no_reason_to_refuse_a_file() -> None:
    newer = with_number(8 + 16, 77, 2)
    newer = newer[: 8 + 42] + b"\x55" + newer[8 + 43 :]
    header = header_of(newer, PATH)
    assert (header.schema, header.stype_in) == ("schema 77", "stype 85")


def test_an_empty_file_is_said_to_be_empty() -> None:
    assert complaint(b"") == "/data/some.dbn is empty: it holds no DBN header"


def test_another_kind_of_file_is_named_by_how_it_opens() -> None:
    assert complaint(b"PK\x03\x04 and so on, a zip file") == (
        "/data/some.dbn is not a DBN file: "
        "it opens with b'PK\\x03\\x04 and' where b'DBN' should stand"
    )
    assert "opens with b'PK'" in complaint(b"PK")


@given(st.integers(1, len(HEADER) - 1))
def test_a_file_that_ends_inside_its_header_is_said_to(kept: int) -> None:
    assert complaint(HEADER[:kept]) == (
        f"/data/some.dbn ends inside its DBN header: it has {kept} bytes of it"
    )


@pytest.mark.parametrize("kept", [0, 5, 8, 100])
def test_why_there_is_no_more_of_a_header_is_told(kept: int) -> None:
    why = "ends inside a zstd frame at byte 9 of the file"
    with pytest.raises(BadDataError, match=rf"some\.dbn {why}, before the end of its DBN header"):
        header_of(HEADER[:kept], PATH, why)


@pytest.mark.parametrize(
    ("ts_ns", "read"), [(0, None), (1, 1), (MAX_TIME_NS, MAX_TIME_NS), (MAX_TIME_NS + 1, None)]
)
def test_a_range_that_no_int64_holds_is_open(ts_ns: int, read: int | None) -> None:
    assert header_of(with_number(START_AT, ts_ns, 8), PATH).start_ns == read
    assert header_of(with_number(START_AT + 8, ts_ns, 8), PATH).end_ns == read


def test_a_header_claiming_more_than_the_bound_is_refused_unread() -> None:
    length = MAX_HEADER_BYTES + 1
    assert complaint(b"DBN\x03" + length.to_bytes(4, "little") + bytes(50)) == (
        f"/data/some.dbn claims a DBN header of {length} bytes; "
        f"more than {MAX_HEADER_BYTES} is broken"
    )


def test_a_header_at_the_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "MAX_HEADER_BYTES", len(HEADER) - 8)
    assert header_of(HEADER, PATH).size_bytes == len(HEADER)


@pytest.mark.parametrize("version", [0, 4, 9, 255])
def test_other_versions_are_refused(version: int) -> None:
    assert complaint(b"DBN" + bytes([version]) + HEADER[4:]) == (
        f"/data/some.dbn is of DBN version {version}; versions 1 to 3 can be read"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER[:4] + bytes(4), "8 of its content it has 1 times 104 bytes for its fixed fields"),
        (with_number(WIDTH_AT, 21, 2), "8 of its content it has symbols of 21 bytes"),
        (with_number(DEFINITION_AT, 7), "8 of its content it has a schema definition of 7 bytes"),
        (
            with_number(SYMBOLS_AT, 2**32 - 1),
            "116 of its content it has 4294967295 times 71 bytes for symbols where",
        ),
        (with_number(MAPPINGS_AT, 2**31), " times 75 bytes for mappings where"),
        # The second of two mappings is missed where the first one ends, 7 bytes before the header.
        (
            with_number(MAPPINGS_AT, 2),
            f"{len(HEADER) - 7} of its content it has 1 times 75 bytes for mappings where 7 are",
        ),
        (
            with_number(INTERVALS_AT, 3),
            "3 times 79 bytes for intervals of mapping 0 (from 0) where",
        ),
        (with_number(FIRST_DATE_AT, 102), f"{FIRST_DATE_AT} of its content it has the first date"),
        (with_number(FIRST_DATE_AT, 20240230), "the first date 20240230 (YYYYMMDD)"),
        (with_number(FIRST_DATE_AT + 4, 2**32 - 1), "the last date 4294967295 (YYYYMMDD)"),
        (with_number(FIRST_DATE_AT + 4, 20241301), "the last date 20241301 (YYYYMMDD)"),
        (with_number(FIRST_DATE_AT + 4, 20241200), "the last date 20241200 (YYYYMMDD)"),
        (with_number(8, 0xFF, 1), "a dataset that is no UTF-8: b'\\xffLBX.MDP3"),
        (
            with_number(SYMBOLS_AT + 4, 0x80, 1),
            "number 0 (from 0) of its symbols that is no UTF-8: b'\\x80S.c.0'",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(content: bytes, expected: str) -> None:
    found = complaint(content)
    assert found.startswith(BROKEN)
    assert expected in found


def test_names_that_are_not_ascii_are_read() -> None:
    symbol = "ESü".encode()
    header = header_of(HEADER.replace(b"ES.c.0", symbol.ljust(6, b"\0")), PATH)
    assert list(header.symbols) == ["ESü"]


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_header_is_read_or_refused_but_never_crashes(data: st.DataObject) -> None:
    damaged = bytearray(HEADER)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(8, len(HEADER) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadDataError):
        header = header_of(bytes(damaged), PATH)
        assert header.size_bytes == len(HEADER)
        assert len(dict(mappings_of(header))) <= len(header.mappings.symbols_in)
