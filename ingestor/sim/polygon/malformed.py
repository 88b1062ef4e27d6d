"""Things that a feed must never send, and sometimes does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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
