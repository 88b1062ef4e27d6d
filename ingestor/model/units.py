"""Units: integers of nanoseconds and of 1e-9 of price, and their exact decimal text.

A price is an integer count of 1e-9 from the vendor's bytes to the encoder (the unit of DBN).
Its text is the shortest exact decimal that still has a decimal point: ``6012.0``, ``0.01``.
"""

from __future__ import annotations

from typing import Final

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
NS_PER_DAY: Final = 86_400 * NS_PER_S

PRICE_SCALE: Final = 1_000_000_000
PRICE_DIGITS: Final = 9

INT64_MAX: Final = 2**63 - 1
UINT64_MAX: Final = 2**64 - 1
UINT32_MAX: Final = 2**32 - 1

UNDEF_PRICE: Final = INT64_MAX
"""DBN's undefined price; stands for "unknown" in every price field of ours too."""

UNDEF_TIMESTAMP: Final = UINT64_MAX
"""DBN's undefined timestamp."""


def price_text(price_e9: int) -> str:
    """Return the exact decimal of an integer price of 1e-9, always with a decimal point.

    >>> price_text(6_012_000_000_000), price_text(-10_000_000)
    ('6012.0', '-0.01')
    """
    sign = "-" if price_e9 < 0 else ""
    whole, fraction = divmod(abs(price_e9), PRICE_SCALE)
    digits = f"{fraction:0{PRICE_DIGITS}d}".rstrip("0") or "0"
    return f"{sign}{whole}.{digits}"
