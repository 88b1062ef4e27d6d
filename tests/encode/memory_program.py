"""Run as a program under AddressSanitizer: the extensions on the worst they can be given.

argv[1] is the encoders', argv[2] the parser's and argv[3] that of keys. Every output is compared
with that of plain Python, so that the run also shows that the sanitized build is the same.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from ingestor.encode.json_records import read_rows, symbol_read
from ingestor.encode.packed import PackedEncoder
from ingestor.encode.reference import JsonEncoder, payloads
from ingestor.model.blocks import Block, Encoder, Reply, Runs, Source, whole_block
from ingestor.model.errors import BadDataError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, EVENT_TYPES, EventType, rises_by_columns
from ingestor.model.units import UNDEF_PRICE

ALL = 10**6
LONG_TICKER = "O:ABCDEF991231P99999999"


def load(name: str, path: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(kind: EventType, byte: int, count: int) -> np.ndarray[Any, Any]:
    """Rows in memory of exactly their size, all bytes alike; prices longest where byte is 0x80."""
    rows = np.full(count * kind.dtype.itemsize, byte, np.uint8).view(kind.dtype)
    rows["rtype"], rows["instrument_id"] = kind.rtype, np.arange(count) % 3
    return np.frombuffer(rows.tobytes(), kind.dtype)


def longest(kind: EventType) -> np.ndarray[Any, Any]:
    """Rows whose every integer has all its digits."""
    rows = rows_of(kind, 0xFF, 50).copy()
    for fields in (rows, rows["levels"]) if kind.name == "MBP10" else (rows,):
        for name in fields.dtype.names or ():
            if name.endswith("_e9"):
                fields[name] = -UNDEF_PRICE - 1
    return rows


def all_runs() -> Iterator[Runs]:
    for kind in EVENT_TYPES:
        for symbol in ("", "é" * 40, '"' * 5000):
            text = LONG_TICKER if kind.name == "OptionTrade" else symbol
            table = dict.fromkeys(range(3), text)
            for byte in (0x00, 0x7F, 0x80, 0xFF):
                for count in (1, 2, 50):
                    yield whole_block(Block(0, rows_of(kind, byte, count), table, Source.SIM))
            yield whole_block(Block(0, longest(kind), table, Source.POLYGON_WS))


def books() -> Iterator[Runs]:
    """Depth of which one level changes at a time, its text as long as can be or as short."""
    for level in range(10):
        for price in (-UNDEF_PRICE - 1, UNDEF_PRICE, 0):
            rows = rows_of(EVENT_TYPE_BY_RTYPE[0x0A], 0x7F, 40).copy()
            rows["levels"]["bid_px_e9"][20:, level] = price
            yield whole_block(Block(0, np.frombuffer(rows.tobytes(), rows.dtype), {}, Source.SIM))


def refused() -> Iterator[Runs]:
    for kind in EVENT_TYPES:
        one = whole_block(Block(0, rows_of(kind, 0, 2), {}, Source.SIM))
        for start, stop in ((0, 3), (-1, 1), (2**62, 2**62 + 1)):
            at, end = np.array([start]), np.array([stop])
            yield Runs(one.blocks, np.zeros(1, np.int64), at, end, one.key_ts_ns)
        wrong = rows_of(kind, 0, 1).copy()
        wrong["rtype"] = 0x0A if kind.name != "MBP10" else 0x00
        yield whole_block(Block(0, wrong, {}, Source.SIM))


def messages_of_all_sizes() -> Iterator[Runs]:
    """Packed messages at their bounds, copied and viewed, with symbols as long as can be."""
    for kind in EVENT_TYPES:
        rows = rows_of(kind, 0xFF, 2100)
        one = np.frombuffer(rows.tobytes(), np.uint8).copy().view(kind.dtype)
        one["instrument_id"] = 0
        for block in (rows, np.frombuffer(one.tobytes(), kind.dtype)):
            whole = whole_block(Block(0, block, dict.fromkeys(range(3), "s" * 255), Source.SIM))
            yield whole
            yield from (whole.part(len(whole) - count, len(whole)) for count in (1, 44, 45, 341))


def same(fast: Encoder, reference: Encoder, runs: Runs) -> bool:
    """Whether both give the same bytes; False where both refuse."""
    reply = Reply(b"r" * 120, b"s" * 40)
    try:
        expected = reference.encode(runs, reply, 10**12 - 3000, ALL).data
    except BadDataError:
        assert stops(fast, runs)
        return False
    assert fast.encode(runs, reply, 10**12 - 3000, ALL).data == expected
    return True


def stops(fast: Encoder, runs: Runs) -> bool:
    """Whether the encoder refuses."""
    try:
        fast.encode(runs, Reply(b"r", b"s"), 1, ALL)
    except (IndexError, BadDataError):
        return True
    return False


def main() -> int:
    module = load("ingestor.encode._fast", sys.argv[1])
    for name, fast, reference in (
        ("json", module.FastJsonEncoder(), JsonEncoder()),
        ("packed", module.FastPackedEncoder(), PackedEncoder()),
    ):
        good = list(chain(all_runs(), books(), messages_of_all_sizes()))
        compared = sum(same(fast, reference, runs) for runs in good)
        stopped = sum(stops(fast, runs) for runs in refused())
        print(f"{name}: {compared} of {len(good)} compared, {stopped} refused")
    parse = load("ingestor.encode._parse", sys.argv[2])
    print("messages: {} read, {} compared".format(*same_messages(parse)))
    print(f"keys: {same_keys(load('ingestor.model._keys', sys.argv[3]))} compared")
    return 0


def same_messages(parse: Any) -> tuple[int, int]:
    """How many messages the parser read of those that are whole, and how many were compared.

    Each is cut at every byte, and gets every byte that means something at every place, in memory
    of exactly its size.
    """
    parser = parse.Parser(symbol_read, {"CME": 1})
    whole, changed = [], []
    for kind in EVENT_TYPES:
        table = dict.fromkeys(range(3), LONG_TICKER if kind.name == "OptionTrade" else '"' * 71)
        for byte in (0x00, 0x01, 0x7F):
            block = Block(0, rows_of(kind, byte, 1), table, Source.SIM)
            ((_, payload),) = payloads(whole_block(block))
            whole.append((kind.subject.encode(), b"", payload))
    for subject, _, payload in whole:
        for at in range(len(payload)):
            other = [payload[:at] + bytes([byte]) + payload[at + 1 :] for byte in b'9-"\\\0']
            changed += [(subject, b"", one) for one in (payload[:at], *other)]
    # Prices of 0x7F bytes have ten digits before the point, and are left to the other reader.
    _, left = parser.parse(whole)
    for frames in (whole, changed):
        found, expected = read_rows(frames, parser), read_rows(frames, parser=None)
        assert [str(bad) for bad in found.bad] == [str(bad) for bad in expected.bad]
        assert sum(len(rows.records) for rows in found.rows) == sum(
            len(rows.records) for rows in expected.rows
        )
    return len(whole) - len(left), len(changed)


def same_keys(keys: Any) -> int:
    """How many arrays were compared."""
    compared = 0
    for kind in EVENT_TYPES:
        for byte in (0x00, 0xFF):
            for count in (1, 2, 50):
                rows = rows_of(kind, byte, count)
                for records in (rows, rows[:: max(1, count - 1)]):
                    assert keys.rises(records) == rises_by_columns(records)
                    compared += 1
    return compared


if __name__ == "__main__":
    sys.exit(main())
