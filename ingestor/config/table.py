"""What every table of the configuration is, and values that several of them have."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

MAX_SECONDS: Final = 31_536_000.0
"""A year: no run, pause or wait is longer, and its nanoseconds fit int64 by far."""

Seconds = Annotated[
    float, Meta(gt=0, le=MAX_SECONDS, description=f"above 0, at most {MAX_SECONDS:.0f} seconds")
]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""
