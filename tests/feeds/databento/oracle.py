"""A plain reader of DBN content, record by record: what the fast one must equal."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

HEAD = struct.Struct("<BBHIQ")
BODY = struct.Struct("<qIBBBBQiI")
LEVEL = struct.Struct("<qqIIII")
NO_PRICE = 2**63 - 1
RTYPES = {"trades": 0x00, "mbp-10": 0x0A}
SIZES = {"trades": 48, "mbp-10": 368}


@dataclass
class Plain:
    """What is in the content of a file."""

    records: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    found: int = 0
    whole: bool = True


def read_plainly(content: bytes, schema: str, *, ts_out: bool = False) -> Plain:
    """Read all the whole records of a schema in the content behind a header."""
    plain = Plain()
    size = SIZES[schema] + (8 if ts_out else 0)
    at = 0
    while at < len(content):
        words = content[at]
        if words * 4 < HEAD.size or at + words * 4 > len(content):
            plain.whole = False
            break
        record = content[at : at + words * 4]
        at += words * 4
        if record[1] == RTYPES[schema] and len(record) == size:
            plain.records.append(bytes([SIZES[schema] // 4]) + record[1 : SIZES[schema]])
            plain.numbers.append(plain.found)
        plain.found += 1
    return plain


def makes_sense(record: bytes) -> bool:
    """Tell whether a record can be placed in time and, if it is a trade, has a price."""
    _, rtype, _, _, ts_event = HEAD.unpack_from(record)
    price, *_, ts_recv, _, _ = BODY.unpack_from(record, HEAD.size)
    return (
        ts_event < 2**63
        and ts_recv < 2**63
        and not (rtype == RTYPES["trades"] and price == NO_PRICE)
    )
