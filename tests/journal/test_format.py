from __future__ import annotations

import datetime as dt
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.journal.format import (
    HEAD,
    MAX_HEADER_BYTES,
    MAX_ROOTS_BYTES,
    Entry,
    Header,
    Market,
    entry_head,
    pack_header,
    read_header,
    seed_of,
)
from ingestor.model.errors import BadDataError
from tests.journal.tapes import header

UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    Header,
    market=st.sampled_from(Market),
    run_ns=UINT64,
    late_after_ns=UINT64,
    date=st.dates(dt.date(1970, 1, 1)),
    part=UINT32,
    connection=UINT32,
    roots=st.lists(st.text("ABC1", min_size=1, max_size=6), max_size=9).map(tuple),
)


def test_a_header_has_the_bytes_of_the_table() -> None:
    data = pack_header(
        header(
            market=Market.OPTIONS,
            run_ns=7,
            late_after_ns=8,
            date=dt.date(2025, 12, 16),
            part=3,
            connection=9,
            roots=("SPX", "SPY"),
        )
    )
    assert data[:8] == b"\xabJNL" + bytes([1, 2]) + (40 + 7 + 4).to_bytes(2, "little")
    assert data[8:24] == (7).to_bytes(8, "little") + (8).to_bytes(8, "little")
    assert data[24:36] == b"".join(n.to_bytes(4, "little") for n in (20251216, 3, 9))
    assert data[36:47] == b"\x07\x00\x00\x00SPX,SPY"
    assert data[47:] == zlib.crc32(data[:47]).to_bytes(4, "little")


def test_an_entry_has_the_bytes_of_the_table() -> None:
    head = entry_head(Entry(b"[]", 5, 6, 7), seed=8)
    covered = b"".join(
        number.to_bytes(size, "little") for number, size in ((2, 4), (6, 4), (5, 8), (7, 8))
    )
    assert len(head) == HEAD.size == 32
    assert head[:4] == b"\xabFRM"
    assert head[4:8] == zlib.crc32(covered + b"[]", 8).to_bytes(4, "little")
    assert head[8:] == covered


@given(HEADERS, st.binary(max_size=50))
def test_a_header_is_read_as_it_was_written_whatever_follows(head: Header, rest: bytes) -> None:
    data = pack_header(head)
    assert len(data) <= MAX_HEADER_BYTES
    assert read_header(data + rest) == (head, len(data))


@given(HEADERS, st.data())
def test_a_header_that_is_cut_needs_more(head: Header, data: st.DataObject) -> None:
    whole = pack_header(head)
    assert read_header(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@given(HEADERS, st.data())
def test_a_header_with_one_wrong_byte_is_refused_or_incomplete(
    head: Header, data: st.DataObject
) -> None:
    wrong = bytearray(pack_header(head))
    wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadDataError):
        read_header(bytes(wrong) + bytes(MAX_HEADER_BYTES))


def resealed(data: bytes) -> bytes:
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, b"{", "is no journal"),
        (4, b"\x02", "version 2 of the journal's format, not 1"),
        (5, b"\x09", "makes no sense: 9 is not a valid Market"),
        (6, b"\xff", "its lengths disagree"),
        (24, bytes(4), "makes no sense: year 0"),
    ],
)
def test_a_header_says_what_is_wrong_with_it(at: int, value: bytes, words: str) -> None:
    whole = pack_header(header())
    with pytest.raises(BadDataError, match=words):
        read_header(resealed(whole[:at] + value + whole[at + len(value) :]))


def test_roots_that_are_too_many_are_refused() -> None:
    roots: Any = ("ABCDEF",) * (MAX_ROOTS_BYTES // 7 + 1)
    with pytest.raises(ValueError, match="more than 4096 bytes"):
        pack_header(header(roots=roots))


def test_an_entry_is_bound_to_its_file() -> None:
    entry = Entry(b"[]", 1, 1, 0)
    seeds = [seed_of(pack_header(header(part=part))) for part in (1, 2)]
    heads = {entry_head(entry, seed) for seed in seeds}
    assert len(heads) == 2
