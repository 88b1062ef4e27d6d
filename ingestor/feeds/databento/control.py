"""What a live gateway says between the data: symbol mappings, errors, system messages.

A capture holds them as they came. Each has a layout of version 1 and one of versions 2 and 3
(Databento's ``SymbolMappingMsg``, ``ErrorMsg``, ``SystemMsg``,
https://databento.com/docs/standards-and-conventions), told apart by their size:

    symbol mapping   v1  head 16, symbol in 22, symbol out 22, padding 4, start 8, end 8
                     v2  head 16, type 1, symbol in 71, type 1, symbol out 71, start 8, end 8
    error            v1  head 16, text 64
                     v2  head 16, text 302, code 1, is last 1
    system message   v1  head 16, text 64
                     v2  head 16, text 303, code 1

Symbols and texts are C strings. The send time behind each record of a capture with ``ts_out`` is
behind all of this and is not looked at.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ingestor.model.records import HEAD


class ControlRType(IntEnum):
    """rtypes of the records that a gateway puts between the data."""

    ERROR = 0x15
    SYMBOL_MAPPING = 0x16
    SYSTEM = 0x17


HEARTBEAT: Final = "Heartbeat"
"""Text of the system message that only says that the gateway is there."""

_HEAD_BYTES: Final = HEAD.itemsize
_INSTRUMENT_ID: Final = slice(4, 8)
_V1_BYTES: Final = 80
_MAPPING_V2_BYTES: Final = 176
_MAPPING_V1: Final = (slice(38, 60), slice(16, 38))
"""Where the symbol out and the symbol in stand."""
_MAPPING_V2: Final = (slice(89, 160), slice(17, 88))
_TEXT_V1: Final = slice(_HEAD_BYTES, 80)
_TEXT_V2_BYTES: Final = 320
_TEXT_V2: Final = slice(_HEAD_BYTES, 318)
"""Of both kinds: no text of a system message reaches its last byte, which is its final zero."""


def mapping_of(record: bytes) -> tuple[int, tuple[str, str]] | None:
    """Return the instrument id of a symbol mapping, and its symbols: out, then in.

    None when the record is too short or its symbols are no UTF-8.
    """
    if len(record) < _V1_BYTES:
        return None
    out, given = _MAPPING_V2 if len(record) >= _MAPPING_V2_BYTES else _MAPPING_V1
    try:
        names = _c_string(record[out]).decode(), _c_string(record[given]).decode()
    except UnicodeDecodeError:
        return None
    return int.from_bytes(record[_INSTRUMENT_ID], "little"), names


def text_of(record: bytes) -> str:
    """Return the text of an error or a system message; bytes that are no UTF-8 are replaced."""
    where = _TEXT_V2 if len(record) >= _TEXT_V2_BYTES else _TEXT_V1
    return _c_string(record[where]).decode(errors="replace")


def _c_string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
