from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestor.feeds.polygon import frames as module
from ingestor.feeds.polygon.frames import PIECE_BYTES, elements, parts, pieces
from tests.feeds.polygon.wire import frame, trade

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


def small_pieces(data: bytes, limit: int) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_BYTES", limit)
        return list(pieces(data))


@settings(max_examples=100)
@given(st.lists(ANY_JSON), st.booleans(), st.sampled_from((None, 1)), st.integers(8, 200))
@example([None, [], []], False, None, 9)
def test_the_pieces_of_a_frame_hold_its_elements_in_order(
    frame_: list[Any], ascii_only: bool, indent: int | None, limit: int
) -> None:
    texts = [json.dumps(each, ensure_ascii=ascii_only, indent=indent) for each in frame_]
    data = f" [ {' , '.join(texts)} ] ".encode()
    if all(text.count("[") + text.count("{") <= module.DEPTH for text in texts) and all(
        len(text.encode()) + 5 <= limit for text in texts
    ):
        cut = small_pieces(data, limit)
        assert [each for piece in cut for each in json.loads(piece)] == frame_
        assert all(len(piece) <= limit for piece in cut)


@given(st.binary(max_size=300), st.integers(1, 40))
def test_no_bytes_raise_and_none_but_the_seams_are_lost(data: bytes, limit: int) -> None:
    cut = small_pieces(data, limit)
    assert sum(map(len, cut)) >= len(data.strip(b" \t\r\n\x0b\x0c[],")) - len(cut)
    assert elements(data) is not None


def test_a_short_frame_is_one_piece_as_it_is() -> None:
    assert list(pieces(b"[1,2")) == [b"[1,2"]


@pytest.mark.parametrize(
    "element", [b"1", b"{}", b"[]", b'""', b'{"a":"},{"}', b'{"a":[{"b":[1]}]}']
)
def test_a_long_frame_is_cut_between_its_elements(element: bytes) -> None:
    count = 3 * PIECE_BYTES // (len(element) + 1)
    cut = list(pieces(b"[" + b",".join([element] * count) + b"]"))
    assert len(cut) in (3, 4)
    assert all(len(piece) <= PIECE_BYTES for piece in cut)
    assert sum(len(json.loads(piece)) for piece in cut) == count


def test_behind_an_element_that_cannot_be_cut_the_seams_are() -> None:
    good = frame(trade())[1:-1]
    deep = b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    long = b'{"a":"' + b"x" * 3 * PIECE_BYTES + b'"}'
    for odd in (deep, long):
        data = b"[" + b",".join([good] * 3_000 + [odd] + [good] * 3_000) + b"]"
        cut = list(pieces(data))
        assert b"".join(cut).count(good) == 6_000
        assert max(map(len, cut)) <= max(len(odd) + 2, PIECE_BYTES + 1)


def test_a_frame_that_is_one_element_is_one_piece() -> None:
    data = b'{"a":"' + b"x" * 2 * PIECE_BYTES + b'"}'
    assert list(pieces(data)) == [b"[" + data + b"]"]


def test_elements_of_what_is_no_json_are_found_exactly_as_far_as_it_goes() -> None:
    nested = b'{"a":[{"b":1},{"c":2}]}'
    assert elements(b"[" + nested + b', {"d":NaN},3,' + nested + b"]") == [
        nested,
        b' {"d":NaN}',
        b"3",
        nested,
    ]
    assert elements(b'[{"a":1},{"b":') == [b'{"a":1}', b'{"b":']


def test_parts_are_cut_at_every_seam() -> None:
    assert parts(b'{"a":1} , {"b":2},{') == [b'{"a":1}', b'{"b":2}', b"{"]
