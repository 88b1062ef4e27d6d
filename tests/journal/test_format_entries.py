from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.journal.format import (
    HEAD,
    MARK,
    MAX_PAYLOAD_BYTES,
    Damage,
    Entry,
    EntryReader,
    Searching,
    entry_head,
)
from tests.journal.tapes import packed

SEED = 0xC0FFEE
OFFSET = 44
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([MARK, MARK[:2], b"[]", b"\xab"]), max_size=6).map(b"".join),
    # What would be an entry, did it not lie in another.
    st.binary(max_size=9).map(lambda data: packed(Entry(data, 1, 2, 3), SEED + 1)),
)
ENTRIES = st.lists(
    st.builds(Entry, PAYLOADS, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1),
              st.integers(0, 2**64 - 1)),
    max_size=6,
)  # fmt: skip


def bytes_of(entries: list[Entry]) -> bytes:
    return b"".join(packed(entry, SEED) for entry in entries)


def ends_of(entries: list[Entry]) -> list[int]:
    """Where entries end, the start of the first included."""
    ends = [0]
    for entry in entries:
        ends.append(ends[-1] + HEAD.size + len(entry.payload))
    return ends


def read(
    data: bytes, cuts: list[int] | None = None
) -> tuple[list[Entry | Damage | Searching], int | None]:
    """What a reader gives of bytes that come cut at these places, and from where they are torn."""
    reader = EntryReader(SEED, OFFSET)
    found: list[Entry | Damage | Searching] = []
    edges = [0, *sorted(cuts or []), len(data)]
    for start, stop in pairwise(edges):
        reader.put(data[start:stop])
        found += iter(reader.take, None)
    reader.end()
    found += iter(reader.take, None)
    return found, reader.torn_from


@given(ENTRIES, st.data())
def test_entries_come_back_however_the_bytes_are_cut_up(
    entries: list[Entry], data: st.DataObject
) -> None:
    content = bytes_of(entries)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=20))
    assert read(content, cuts) == (entries, None)


@given(ENTRIES, st.data())
def test_a_cut_anywhere_gives_exactly_the_whole_entries_before_it(
    entries: list[Entry], data: st.DataObject
) -> None:
    content, ends = bytes_of(entries), ends_of(entries)
    cut = data.draw(st.integers(0, len(content)))
    whole = sum(end <= cut for end in ends) - 1
    torn = None if cut in ends else OFFSET + ends[whole]
    assert read(content[:cut], data.draw(st.lists(st.integers(0, cut)))) == (entries[:whole], torn)


@given(ENTRIES.filter(bool), st.data())
def test_one_wrong_byte_costs_exactly_the_entry_it_is_in(
    entries: list[Entry], data: st.DataObject
) -> None:
    content, ends = bytearray(bytes_of(entries)), ends_of(entries)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    hit = sum(end <= at for end in ends) - 1
    start, stop = OFFSET + ends[hit], OFFSET + ends[hit + 1]
    last = hit == len(entries) - 1
    expected = [
        *entries[:hit],
        *([] if last else [Damage(start, stop)]),
        *entries[hit + 1 :],
    ]
    found = read(bytes(content), data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    assert found == (expected, start if last else None)


@given(ENTRIES, st.binary(max_size=200), st.data())
def test_rubbish_between_entries_is_passed_over(
    entries: list[Entry], rubbish: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(entries)))
    content = bytes_of(entries[:place]) + rubbish + bytes_of(entries[place:])
    found, _ = read(content)
    assert [one for one in found if isinstance(one, Entry)] == entries


def test_an_entry_of_another_file_is_none_of_this() -> None:
    own, other = Entry(b"own", 1, 1, 0), Entry(b"other", 1, 1, 1)
    found, torn = read(packed(own, SEED) + packed(other, SEED + 1) + packed(own, SEED))
    assert found == [own, Damage(OFFSET + 35, OFFSET + 72), own]
    assert torn is None


def test_a_length_that_was_damaged_hides_nothing_behind_it() -> None:
    entries = [Entry(b"x" * 10, 1, 1, number) for number in range(50)]
    content = bytearray(bytes_of(entries))
    content[8:12] = MAX_PAYLOAD_BYTES.to_bytes(4, "little")
    found, torn = read(bytes(content), list(range(0, len(content), 7)))
    assert found == [Damage(OFFSET, OFFSET + 42), *entries[1:]]
    assert torn is None


@pytest.mark.parametrize(
    ("size", "is_read"), [(MAX_PAYLOAD_BYTES, True), (MAX_PAYLOAD_BYTES + 1, False)]
)
def test_a_frame_has_a_longest_length(size: int, *, is_read: bool) -> None:
    entry = Entry(bytes(size), 1, 1, 0)
    found, torn = read(entry_head(entry, SEED) + entry.payload)
    assert (found == [entry]) is is_read
    assert (torn is None) is is_read


def test_a_reader_holds_no_more_than_one_entry_and_one_piece() -> None:
    reader = EntryReader(SEED)
    content = packed(Entry(bytes(1000), 1, 1, 0), SEED) * 10
    for start in range(0, 100 * len(content), 700):
        reader.put((content * 2)[start % len(content) :][:700])
        list(iter(reader.take, None))
        assert len(reader._held) <= 1032 + 700


def test_bytes_made_of_marks_that_each_claim_megabytes_are_searched_in_bounded_time() -> None:
    """4 MiB that claim a megabyte at every 32nd byte would take 130 GB of checksums."""
    claim = HEAD.pack(MARK, 0, 1 << 20, 1, 1, 1)
    sound = Entry(b"[]", 1, 1, 1)
    reader = EntryReader(SEED, OFFSET)
    began = time.process_time()
    for _ in range(16):
        reader.put(claim * (256 * 1024 // len(claim)))
        while isinstance(reader.take(), Searching):
            pass
    reader.put(packed(sound, SEED))
    reader.end()
    found = [one for one in iter(reader.take, None) if not isinstance(one, Searching)]
    assert found == [Damage(OFFSET, OFFSET + (4 << 20)), sound]
    assert time.process_time() - began < 5


def test_a_long_search_gives_a_sign_of_life() -> None:
    reader = EntryReader(SEED)
    reader.put(MARK * 100_000)
    reader.end()
    signs = list(iter(reader.take, None))
    assert len(signs) > 20
    assert set(signs) == {Searching.SEARCHING}
