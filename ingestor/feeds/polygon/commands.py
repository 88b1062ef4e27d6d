"""What a session asks its driver to do, and the few texts that are ever sent to the vendor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

import msgspec

MAX_NAMES_PER_MESSAGE: Final = 100
"""Of one subscribe message, some 2 KB; the vendor publishes no limit."""

CLOSE_NORMAL: Final = 1000
SHOWN_NAMES: Final = 20


class ReportKind(StrEnum):
    """What is reported; all but the first two deserve an alarm and a counter."""

    INFO = "info"
    SETTINGS = "settings"
    NOT_GRANTED = "not_granted"
    NOT_ACKNOWLEDGED = "not_acknowledged"
    EVICTED = "evicted"
    HANDSHAKE = "handshake"
    NOT_FOLLOWED = "not_followed"
    UNKNOWN_STATUS = "unknown_status"


@dataclass(frozen=True, slots=True)
class Send:
    """Send `text` as one text message. The text may hold the key and is never shown.

    `names` are those that it asks for.
    """

    text: str = field(repr=False)
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket with this code; `Session.on_close` is still to be called."""

    code: int = CLOSE_NORMAL


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Open another socket at `at_ns`."""

    at_ns: int
    cause: str


@dataclass(frozen=True, slots=True)
class Report:
    """One sentence for the log."""

    kind: ReportKind
    text: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The vendor refuses for good: to be raised as `VendorRefusedError`."""

    text: str


Command = Send | Close | Reconnect | Report | Fail


def auth(api_key: str) -> Send:
    """Return the message that authenticates a socket."""
    return _control("auth", api_key)


def subscription(
    action: Literal["subscribe", "unsubscribe"], names: Sequence[str]
) -> tuple[Send, ...]:
    """Return the messages for these names, `MAX_NAMES_PER_MESSAGE` in each; none for none."""
    chunks = (
        names[first : first + MAX_NAMES_PER_MESSAGE]
        for first in range(0, len(names), MAX_NAMES_PER_MESSAGE)
    )
    asked = action == "subscribe"
    return tuple(
        _control(action, ",".join(chunk), tuple(chunk) if asked else ()) for chunk in chunks
    )


def channel_names(channels: Iterable[str], symbols: Iterable[str]) -> tuple[str, ...]:
    """Return every channel of every symbol, symbol by symbol.

    >>> channel_names(("T", "Q"), ("SPY",))
    ('T.SPY', 'Q.SPY')
    """
    kinds = tuple(channels)
    return tuple(f"{kind}.{symbol}" for symbol in symbols for kind in kinds)


def shown(names: Sequence[str]) -> str:
    """Return names for a sentence, the first `SHOWN_NAMES` of them."""
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _control(action: str, params: str, names: tuple[str, ...] = ()) -> Send:
    # A single object, unlike what comes back; names with commas and no blanks between.
    return Send(msgspec.json.encode({"action": action, "params": params}).decode(), names)
