from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.units import INT64_MAX, price_text


@pytest.mark.parametrize(
    ("price_e9", "expected"),
    [
        (6_012_000_000_000, "6012.0"),
        (6_012_250_000_000, "6012.25"),
        (0, "0.0"),
        (1, "0.000000001"),
        (-250_000_000, "-0.25"),
        (-(2**63), "-9223372036.854775808"),
        (INT64_MAX - 1, "9223372036.854775806"),
    ],
)
def test_a_price_is_written_exactly_and_with_a_decimal_point(price_e9: int, expected: str) -> None:
    assert price_text(price_e9) == expected


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_price_reads_back_as_itself_in_the_shortest_form(price_e9: int) -> None:
    text = price_text(price_e9)
    assert Decimal(text) * 10**9 == price_e9
    whole, point, fraction = text.partition(".")
    assert point
    assert fraction == "0" or not fraction.endswith("0")
    assert whole.lstrip("-") == str(abs(int(whole)))
