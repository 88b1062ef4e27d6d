from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.sim.polygon.phrases import (
    Choice,
    Hole,
    Ints,
    Layout,
    Number,
    Price,
    interleave,
    squeeze,
    words_of,
)


def ints(values: list[int]) -> Ints:
    return np.array(values, np.int64)


def filled(hole: Hole, values: list[int]) -> list[str]:
    rows = Layout(("it", hole), "\n").rows({"it": ints(values)})
    return squeeze(rows).decode().splitlines()


@given(st.lists(st.integers(0, 10**13 - 1), min_size=1))
def test_a_number_is_written_as_python_writes_it(values: list[int]) -> None:
    assert filled(Number(13), values) == [str(value) for value in values]


@given(st.integers(0, 4), st.integers(-2, 2))
def test_numbers_around_the_powers_of_ten_thousand_keep_their_inner_zeros(
    power: int, offset: int
) -> None:
    value = max(0, 10_000**power + offset)
    assert filled(Number(20), [value]) == [str(value)]


@given(st.lists(st.integers(0, 10**8 * 1_000 - 1), min_size=1))
def test_a_price_is_the_exact_and_shortest_decimal(mills: list[int]) -> None:
    for text, value in zip(filled(Price(), mills), mills, strict=True):
        assert Decimal(text) == Decimal(value) / 1_000
        assert "." not in text or text[-1] not in "0."


def test_prices_look_as_the_vendor_writes_them() -> None:
    assert filled(Price(), [686_000, 686_100, 686_010, 686_015, 10, 0]) == [
        *("686", "686.1", "686.01", "686.015", "0.01", "0"),
    ]


def test_a_choice_writes_the_chosen_text_whatever_its_length() -> None:
    texts = ["", "a", "four", '"c":[14,37,41]']
    assert filled(Choice(texts), [3, 0, 2, 1]) == [texts[i] for i in (3, 0, 2, 1)]


def test_a_layout_fills_every_hole_of_every_row() -> None:
    layout = Layout('{"q":', ("q", Number(8)), ',"p":', ("p", Price()), "},")
    rows = layout.rows({"q": ints([7, 12345678]), "p": ints([1_500, 2_000])})
    assert squeeze(rows) == b'{"q":7,"p":1.5},{"q":12345678,"p":2},'


def test_a_layout_without_rows_is_empty() -> None:
    assert squeeze(Layout("x", ("q", Number(4))).rows({"q": ints([])})) == b""


@given(st.lists(st.booleans()))
def test_interleaving_puts_rows_of_different_width_where_they_belong(is_long: list[bool]) -> None:
    wide = np.array(is_long, np.bool_)
    long = words_of(["a long text,"])[0]
    short = words_of(["short,"])[0]
    longs, shorts = np.nonzero(wide)[0], np.nonzero(~wide)[0]
    parts = [
        (longs, np.tile(long, (len(longs), 1))),
        (shorts, np.tile(short, (len(shorts), 1))),
    ]
    expected = "".join("a long text," if flag else "short," for flag in is_long)
    assert squeeze(interleave(len(is_long), parts)) == expected.encode()


def test_text_outside_ascii_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        words_of(["é"])


def test_what_is_written_is_json() -> None:
    layout = Layout('{"s":', ("s", Choice(['1,"ds":"1.0"'])), ',"t":', ("t", Number(13)), "}")
    rows = layout.rows({"s": ints([0]), "t": ints([1_790_000_000_000])})
    assert json.loads(squeeze(rows)) == {"s": 1, "ds": "1.0", "t": 1_790_000_000_000}
