from __future__ import annotations

from typing import Any

import databento_dbn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.errors import BadDataError
from ingestor.model.records import (
    EVENT_TYPES,
    FUTURES_TRADE,
    HEAD,
    LIVE_HEAD,
    MBP10,
    OPTION_TRADE,
    STOCK_QUOTE,
    STOCK_TRADE,
    RType,
    as_bytes_matrix,
    covers,
    joined,
    overlap,
    rtype_counts,
    split_by_rtype,
)


def offsets(dtype: np.dtype[Any]) -> dict[str, int]:
    assert dtype.fields is not None
    return {name: int(field[1]) for name, field in dtype.fields.items()}


HEAD_OFFSETS = {"length": 0, "rtype": 1, "publisher_id": 2, "instrument_id": 4, "ts_event_ns": 8}
DBN_OFFSETS = HEAD_OFFSETS | {
    "price_e9": 16,
    "size": 24,
    "action": 28,
    "side": 29,
    "flags": 30,
    "depth": 31,
    "ts_recv_ns": 32,
    "ts_in_delta_ns": 40,
    "sequence": 44,
}
LIVE_OFFSETS = HEAD_OFFSETS | {"ts_recv_ns": 16, "sequence": 24}
TAIL = {"n_conditions": 47, "conditions": 48}


@pytest.mark.parametrize(
    ("dtype", "itemsize", "expected"),
    [
        (HEAD, 16, HEAD_OFFSETS),
        (LIVE_HEAD, 32, LIVE_OFFSETS),
        (FUTURES_TRADE, 48, DBN_OFFSETS),
        (MBP10, 368, DBN_OFFSETS | {"levels": 48}),
        (
            STOCK_TRADE,
            64,
            LIVE_OFFSETS | {"price_e9": 32, "size": 40, "exchange": 44, "aggressor": 46} | TAIL,
        ),
        (
            STOCK_QUOTE,
            64,
            LIVE_OFFSETS
            | {"bid_px_e9": 32, "ask_px_e9": 40, "bid_sz": 48, "ask_sz": 52}
            | {"bid_exch": 56, "ask_exch": 58, "reserved": 60},
        ),
        (
            OPTION_TRADE,
            80,
            LIVE_OFFSETS
            | {"price_e9": 32, "opt_bid_e9": 40, "opt_ask_e9": 48, "size": 56, "exchange": 60}
            | {"aggressor": 62, "n_conditions": 63, "conditions": 64},
        ),
    ],
)
def test_layouts_never_move(dtype: np.dtype[Any], itemsize: int, expected: dict[str, int]) -> None:
    assert dtype.itemsize == itemsize
    assert offsets(dtype) == expected


@pytest.mark.parametrize(
    ("ours", "theirs"), [(FUTURES_TRADE, databento_dbn.TradeMsg), (MBP10, databento_dbn.MBP10Msg)]
)
def test_futures_records_are_the_vendors_own_bytes(ours: np.dtype[Any], theirs: Any) -> None:
    vendors = np.dtype(theirs._dtypes)
    assert ours.itemsize == vendors.itemsize
    renamed = {"ts_event": "ts_event_ns", "ts_recv": "ts_recv_ns", "price": "price_e9"}
    renamed["ts_in_delta"] = "ts_in_delta_ns"
    heads = [name for name in vendors.names or () if not name[-1].isdigit()]
    vendor_offsets = {renamed.get(n, n): o for n, o in offsets(vendors).items() if n in heads}
    assert {n: o for n, o in offsets(ours).items() if n != "levels"} == vendor_offsets


def test_the_ten_levels_lie_as_the_vendor_lays_them() -> None:
    vendors = offsets(np.dtype(databento_dbn.MBP10Msg._dtypes))
    level = offsets(MBP10["levels"].base)
    for index in range(10):
        for name, offset in level.items():
            theirs = f"{name.removesuffix('_e9')}_{index:02d}"
            assert vendors[theirs] == 48 + 32 * index + offset


def test_every_event_type_has_its_own_rtype_subject_and_schema() -> None:
    for field in ("name", "rtype", "subject", "schema"):
        assert len({getattr(kind, field) for kind in EVENT_TYPES}) == len(EVENT_TYPES) == 5


def test_a_frame_that_mixes_trades_and_quotes_is_split_in_order() -> None:
    records = np.zeros(4, STOCK_TRADE)
    records["rtype"] = [RType.STOCK_QUOTE, RType.STOCK_QUOTE, RType.STOCK_TRADE, RType.STOCK_QUOTE]
    split = [(kind.rtype, len(part), part.dtype) for kind, part in split_by_rtype(records)]
    assert split == [
        (RType.STOCK_QUOTE, 2, STOCK_QUOTE),
        (RType.STOCK_TRADE, 1, STOCK_TRADE),
        (RType.STOCK_QUOTE, 1, STOCK_QUOTE),
    ]
    assert rtype_counts(records) == {RType.STOCK_TRADE: 1, RType.STOCK_QUOTE: 3}


def test_nothing_is_split_into_nothing() -> None:
    assert list(split_by_rtype(np.zeros(0, MBP10))) == []


@pytest.mark.parametrize("rtype", [0x77, RType.MBP10])
def test_an_rtype_that_does_not_fit_the_records_is_named(rtype: int) -> None:
    records = np.zeros(1, STOCK_TRADE)
    records["rtype"] = rtype
    with pytest.raises(BadDataError, match=f"rtype {rtype:#04x} in 64 bytes"):
        list(split_by_rtype(records))


def test_records_are_seen_as_bytes_without_a_copy() -> None:
    records = np.zeros(3, FUTURES_TRADE)
    as_bytes_matrix(records)[1, 1] = 9
    assert records["rtype"].tolist() == [0, 9, 0]


@pytest.mark.parametrize("dtype", [kind.dtype for kind in EVENT_TYPES])
@pytest.mark.parametrize("lengths", [(3,), (1, 0, 2), (0, 0)])
def test_joined_arrays_are_what_numpy_concatenates(
    dtype: np.dtype[Any], lengths: tuple[int, ...]
) -> None:
    random = np.random.default_rng(1)
    parts = [np.frombuffer(random.bytes(n * dtype.itemsize), dtype) for n in lengths]
    assert joined(parts).dtype == dtype
    assert joined(parts).tobytes() == np.concatenate(parts).tobytes()


def test_a_slice_is_joined_like_any_array() -> None:
    records = np.frombuffer(np.random.default_rng(1).bytes(10 * 64), STOCK_TRADE)
    assert joined([records[2:5], records[7:]])["sequence"].tolist() == [
        *records["sequence"][2:5].tolist(),
        *records["sequence"][7:].tolist(),
    ]


@pytest.mark.parametrize(
    ("pattern", "subject", "answer"),
    [
        (">", "a", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "a.>", True),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.*", "a.b.c", False),
        ("a.b", "a.*", False),
        ("a.b", "a.b", True),
        ("a.b.c", "a.b", False),
    ],
)
def test_what_a_subject_covers(pattern: str, subject: str, answer: bool) -> None:
    assert covers(pattern, subject) is answer


subjects = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)
patterns = st.builds(
    lambda tokens, rest: [*tokens, ">"] if rest else tokens,
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3),
    st.booleans(),
)


def _matches(pattern: list[str], subject: list[str]) -> bool:
    if not pattern:
        return not subject
    if pattern[0] == ">":
        return bool(subject)
    return bool(subject) and pattern[0] in ("*", subject[0]) and _matches(pattern[1:], subject[1:])


@given(patterns, subjects)
def test_a_pattern_covers_exactly_the_subjects_it_matches(
    pattern: list[str], subject: list[str]
) -> None:
    assert covers(".".join(pattern), ".".join(subject)) == _matches(pattern, subject)
    assert overlap(".".join(pattern), ".".join(subject)) == _matches(pattern, subject)


@given(patterns, patterns, subjects)
def test_patterns_overlap_where_a_subject_matches_both(
    one: list[str], other: list[str], subject: list[str]
) -> None:
    in_one, in_other = (_matches(pattern, subject) for pattern in (one, other))
    if in_one and in_other:
        assert overlap(".".join(one), ".".join(other))
    if covers(".".join(one), ".".join(other)) and in_other:
        assert in_one
