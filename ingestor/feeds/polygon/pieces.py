"""Cutting the bytes of a frame into its elements without building a single object.

A JSON array of a few bytes an element (``[1,1,1,...]``) holds a hundred times its size as objects.
So a long frame is cut into pieces first, each an array of its own, and one is read after the other:
what a frame costs at a time is bounded, whatever is in it.

An element is described by a regular expression: strings, scalars, and brackets to `DEPTH` levels,
every part of it possessive, so that no byte is looked at more often than there are levels. What is
no JSON, or nested deeper, or longer than a piece, cannot be cut exactly; from there on a frame is
cut where one object seems to end and the next to begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

PIECE_BYTES: Final = 256 * 1024
"""A frame of more bytes is read in pieces of at most so many, some 1,600 trades."""

DEPTH: Final = 4
"""Brackets within brackets that an element may have; the vendor's have two."""

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'


def _nested(depth: int) -> bytes:
    """Return the expression of brackets with what is in them."""
    deeper = b"|" + _nested(depth - 1) if depth > 1 else b""
    return rb'[\[{](?:[^"\[\]{}]++|%b%b)*+[\]}]' % (_STRING, deeper)


_ELEMENT: Final = rb'(?:[^"\[\]{},]++|%b|%b)' % (_STRING, _nested(DEPTH))
_ELEMENTS: Final = re.compile(rb"(?:%b*+,)++" % _ELEMENT, re.DOTALL)
_ONE: Final = re.compile(rb"(%b++)(?:,|\Z)" % _ELEMENT, re.DOTALL)
_SEAM: Final = re.compile(rb"(?<=\})\s*,\s*(?=\{)")
_OPENING: Final = re.compile(rb"\s*\[")
_CLOSING: Final = re.compile(rb"\]\s*\Z")
_LAST_BYTES: Final = 64
"""Where a frame's last bracket is looked for."""


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield a frame in arrays of at most `PIECE_BYTES`; one only that cannot be cut is longer."""
    if len(data) <= PIECE_BYTES:
        yield data
        return
    at, stop = _inside(data)
    room = PIECE_BYTES - len(b"[]")
    exact = True
    while stop - at > room:
        # A comma ends what is found, and is left out.
        found = _ELEMENTS.match(data, at, at + room + 1) if exact else None
        exact = found is not None
        end = _seam(data, at, stop, room) if found is None else found.end()
        yield b"[%b]" % data[at : end - 1]
        at = end
    if at < stop:
        yield b"[%b]" % data[at:stop]


def elements(data: bytes) -> list[bytes]:
    """Cut a frame that is no JSON into elements: exactly as far as possible, then at its seams."""
    at, stop = _inside(data)
    found = []
    while at < stop and (one := _ONE.match(data, at, stop)) is not None:
        found.append(one[1])
        at = one.end()
    return found if at >= stop and found else found + parts(data[at:stop])


def parts(data: bytes) -> list[bytes]:
    """Cut bytes wherever one object seems to end and the next to begin."""
    return _SEAM.split(data)


def _inside(data: bytes) -> tuple[int, int]:
    """Return where the elements begin and end; a lone object is one."""
    opening = _OPENING.match(data)
    closing = _CLOSING.search(data, max(len(data) - _LAST_BYTES, 0)) if opening else None
    return opening.end() if opening else 0, closing.start() if closing else len(data)


def _seam(data: bytes, at: int, stop: int, room: int) -> int:
    """Return where the bytes behind the last comma begin that is within `room`, or the next."""
    last = data.rfind(b"},{", at, at + room + 2)
    if last < 0:
        last = data.find(b"},{", at, stop)
    return last + 2 if last >= 0 else stop + 1
