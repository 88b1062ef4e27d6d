"""What the control channel takes: one JSON object a line, told apart by ``do``.

The docstrings are what ``--help`` shows. The malformed elements and frames are things that a feed
must never send, and sometimes does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from ingestor.sim.polygon.server_session import Market

ELEMENTS: Final[Mapping[str, bytes]] = {
    "no_price": b'{"ev":"T","sym":"SPY","i":"x1","x":4,"s":100,"t":1790000000000,"q":1}',
    "types": b'{"ev":"T","sym":"SPY","i":7,"x":"4","p":"686.0","s":"100","t":"now","q":null}',
    "float_time": b'{"ev":"T","sym":"SPY","i":"x2","x":4,"p":686.0,"s":1,"t":1.79e12,"q":1.5}',
    "seconds": b'{"ev":"T","sym":"SPY","i":"x3","x":4,"p":686.0,"s":100,"t":1790000000,"q":1}',
    "negative": b'{"ev":"T","sym":"SPY","i":"x4","x":4,"p":-1,"s":-5,"t":1790000000000,"q":1}',
    "ticker": b'{"ev":"T","sym":"O:SPY","x":302,"p":1.5,"s":1,"t":1790000000000,"q":1}',
    "unknown_ev": b'{"ev":"ZZ","sym":"SPY","t":1790000000000}',
    "no_ev": b'{"sym":"SPY","p":686.0,"s":100,"t":1790000000000}',
    "number": b"42",
    "null": b"null",
    "array": b"[]",
}
"""Bad elements: they ride in a frame of good events, which must survive."""

FRAMES: Final[Mapping[str, bytes]] = {
    "json": b"this is not JSON",
    "truncated": b'[{"ev":"T","sym":"SPY","i":"x5","x":4,"p":686.0,"s":10',
    "object": b'{"ev":"T","sym":"SPY","i":"x6","x":4,"p":686.0,"s":1,"t":1790000000000,"q":1}',
    "empty_array": b"[]",
    "empty": b"",
    "utf8": b'[{"ev":"T","sym":"\xff\xfe"}]',
}
"""Bad text frames, sent as frames of their own; ``utf8`` breaks the WebSocket rules as well."""

BINARY: Final = "binary"
"""A good array in a binary frame."""
BINARY_FRAME: Final = b'[{"ev":"status","status":"success","message":"in binary"}]'

KINDS: Final = (*ELEMENTS, *FRAMES, BINARY)


MAX_RATE: Final = 1_000_000

NonNegative = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Rate = Annotated[int, msgspec.Meta(ge=0, le=MAX_RATE)]


class Command(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="do", forbid_unknown_fields=True
):
    """A command to the simulator as a whole."""


class Aimed(Command, frozen=True, kw_only=True):
    """A command about the connections of one market, or of both, which is the default."""

    market: Market | None = None


class Drop(Aimed, frozen=True, kw_only=True, tag="drop"):
    """Cut the connections: no close frame, unsent bytes are lost."""


class CloseConnections(Aimed, frozen=True, kw_only=True, tag="close"):
    """Close the connections with a close frame."""

    code: int = 1001
    reason: str = ""


class HalfOpen(Aimed, frozen=True, kw_only=True, tag="half_open"):
    """Fall silent: nothing sent, no ping answered, TCP stays up."""


class Slow(Aimed, frozen=True, kw_only=True, tag="slow"):
    """Let bytes trickle at this rate, cutting frames anywhere; 0 lifts it."""

    bytes_per_s: NonNegative


class Refuse(Command, frozen=True, kw_only=True, tag="refuse"):
    """Take no new connections for a while: ``port`` stops listening, ``http`` answers 503."""

    for_s: Annotated[float, msgspec.Meta(ge=0)]
    how: Literal["port", "http"] = "port"


class Evict(Aimed, frozen=True, kw_only=True, tag="evict"):
    """Say max_connections, then close with 1008."""


class Duplicate(Aimed, frozen=True, kw_only=True, tag="duplicate"):
    """Send each of the next n events twice."""

    n: Positive = 1


class Malformed(Aimed, frozen=True, kw_only=True, tag="malformed"):
    """Send something broken; kinds: see `malformed`."""

    kind: str


class Delayed(Command, frozen=True, kw_only=True, tag="delayed"):
    """Make the next n stock trades late prints, reported ms after they happened."""

    ms: Positive
    n: Positive = 1


class ClockJump(Command, frozen=True, kw_only=True, tag="clock_jump"):
    """Set the vendor's clock (every t from now on) forward by ms, or back."""

    ms: int


class SetRate(Aimed, frozen=True, kw_only=True, tag="rate"):
    """Change the event rate; 0 is a quiet market that still answers pings."""

    events_per_s: Rate
    market: Market | None = Market.STOCKS


class SetPrice(Command, frozen=True, kw_only=True, tag="price"):
    """Let SPY go to a price: at once, or in a straight line over some seconds."""

    value: Annotated[float, msgspec.Meta(ge=1)]
    over_s: Annotated[float, msgspec.Meta(ge=0)] = 0


class SendFrame(Aimed, frozen=True, kw_only=True, tag="send"):
    """Send an exact frame: ``frame`` is JSON, sent byte for byte; ``text`` is any text."""

    frame: msgspec.Raw = msgspec.Raw()
    text: str = ""
    market: Market | None = Market.STOCKS


class Stats(Aimed, frozen=True, kw_only=True, tag="stats"):
    """Report counts, connections, subscriptions and what every client has said."""


class Quit(Command, frozen=True, kw_only=True, tag="quit"):
    """Stop the simulator."""


AnyCommand = (
    Drop | CloseConnections | HalfOpen | Slow | Refuse | Evict | Duplicate | Malformed | Delayed
    | ClockJump | SetRate | SetPrice | SendFrame | Stats | Quit
)  # fmt: skip

COMMANDS: Final[tuple[type[Command], ...]] = AnyCommand.__args__
DECODER: Final = msgspec.json.Decoder(AnyCommand)
