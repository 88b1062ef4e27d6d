from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.databento.framing import MAX_RECORD_BYTES, Framed, Layout, frame
from ingestor.model.records import FUTURES_TRADE, MBP10, Records
from tests.dbn_files import depth, other_record, trades, with_ts_out
from tests.feeds.databento.oracle import read_plainly

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
