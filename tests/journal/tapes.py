"""Journals for tests: segments as bytes, and days of frames."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ingestor.encode.reference import payloads
from ingestor.feeds.polygon.decode import LATE_AFTER_NS, OptionDecoder, StockDecoder
from ingestor.journal.format import (
    Entry,
    EntryReader,
    Header,
    Market,
    entry_head,
    pack_header,
    read_header,
    seed_of,
)
from ingestor.journal.recorder import JournalRecorder
from ingestor.journal.segment_writer import Compressor
from ingestor.journal.segments import Segment, open_segment
from ingestor.model.blocks import Block, Source, whole_block
from ingestor.model.errors import BadDataError
from ingestor.model.units import NS_PER_MS, new_york_ns
from tests.feeds.polygon.wire import (
    CONTRACT,
    frame,
    option_quote,
    option_trade,
    quote,
    trade,
)

DAY = dt.date(2025, 12, 16)
OPEN_NS = new_york_ns(DAY, dt.time(9, 30))
PATIENCE_S = 20
STATUS = {"ev": "status", "status": "success", "message": "subscribed to: T.SPY"}

HEADER = Header(
    market=Market.STOCKS,
    run_ns=OPEN_NS,
    late_after_ns=1_000_000_000,
    date=DAY,
    part=1,
    connection=1,
)

Received = tuple[bytes, int, int]
"""A frame, when it was received, over which connection."""


def header(**changes: Any) -> Header:
    return replace(HEADER, **changes)


def packed(entry: Entry, seed: int) -> bytes:
    return entry_head(entry, seed) + entry.payload


def segment(entries: Sequence[Entry], head: Header = HEADER) -> bytes:
    """The bytes of a segment."""
    first = pack_header(head)
    return first + b"".join(packed(entry, seed_of(first)) for entry in entries)


def content_of(one: Segment) -> bytes:
    """All bytes of a segment, uncompressed."""
    data = bytearray()
    with open_segment(one) as stream:
        room = memoryview(bytearray(stream.slack + 4096))
        while count := stream.read_some(room):
            data += room[:count]
        assert stream.failure is None
    return bytes(data)


def unpacked(data: bytes) -> tuple[Header | None, list[Entry], int | None]:
    """A segment's header, its entries, which must lack nothing in between, and its torn tail."""
    found = read_header(data)
    if found is None:
        return None, [], 0
    reader = EntryReader(seed_of(data[: found[1]]), found[1])
    reader.put(data[found[1] :])
    reader.end()
    held = [entry for entry in iter(reader.take, None) if isinstance(entry, Entry)]
    assert (
        b"".join(packed(one, seed_of(data[: found[1]])) for one in held)
        == (data[found[1] : reader.torn_from])
    )
    return found[0], held, reader.torn_from


def unpacked_as_far_as_whole(data: bytes) -> list[Entry]:
    """A segment's entries, whatever lies between them; none where it has no header."""
    try:
        found = read_header(data)
    except BadDataError:
        return []
    if found is None:
        return []
    reader = EntryReader(seed_of(data[: found[1]]), found[1])
    reader.put(data[found[1] :])
    reader.end()
    return [entry for entry in iter(reader.take, None) if isinstance(entry, Entry)]


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread or process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def entries(frames: Sequence[Received]) -> list[Entry]:
    return [Entry(*received, number) for number, received in enumerate(frames)]


def stock_frames(count: int, *, start_ns: int = OPEN_NS, seed: int = 1) -> list[Received]:
    """Frames of trades and quotes of two symbols over three connections, some 10 ms apart.

    Only a third of the elements are quotes, so what is held from before decides aggressors.
    """
    return list(_frames(random.Random(seed), count, start_ns, _stock_element))


def option_frames(count: int, *, start_ns: int = OPEN_NS, seed: int = 1) -> list[Received]:
    return list(_frames(random.Random(seed), count, start_ns, _option_element))


def _frames(draw: random.Random, count: int, start_ns: int, element: Any) -> Iterator[Received]:
    for number in range(count):
        recv_ns = start_ns + number * 10_000_000 + draw.randrange(9_000_000)
        ms = recv_ns // NS_PER_MS - draw.randrange(5)
        elements = [element(draw, ms, number) for _ in range(draw.randrange(1, 5))]
        if number % 20 == 0:
            elements.insert(draw.randrange(len(elements)), STATUS)
        yield frame(*elements), recv_ns, 1 + 3 * number // count


def _stock_element(draw: random.Random, ms: int, number: int) -> dict[str, Any]:
    price = 686 + draw.randrange(8) / 100
    symbol = draw.choice(("SPY", "QQQ"))
    if draw.random() < 0.3:
        return quote(sym=symbol, bp=price - 0.01, ap=price + 0.01, t=ms, q=number)
    pt = draw.choice((..., ms - 1, ms - 5_000))
    return trade(sym=symbol, p=price, t=ms, q=number, c=[14, 41], pt=pt)


def _option_element(draw: random.Random, ms: int, number: int) -> dict[str, Any]:
    price = 1 + draw.randrange(8) / 100
    symbol = draw.choice((CONTRACT, "O:SPY260814P00680000", "O:QQQ260814C00500000"))
    if draw.random() < 0.3:
        return option_quote(sym=symbol, bp=price - 0.01, ap=price + 0.01, t=ms, q=number)
    return option_trade(sym=symbol, p=price, t=ms, q=number)


def record(
    directory: Path,
    feed_name: str,
    frames: Sequence[Received],
    late_after_ns: int = LATE_AFTER_NS,
    **settings: Any,
) -> None:
    """Record frames as one run of the live feed would, to its end.

    Nothing is compressed: how far that comes meanwhile is up to the machine.
    """
    with patch.object(Compressor, "add"):
        writer = JournalRecorder(directory, feed_name, late_after_ns=late_after_ns, **settings)
        for received in frames:
            writer.append(*received)
        writer.close()
    assert writer.failure is None
    assert writer.counts.lost == 0


Message = tuple[str, bytes]
"""Subject and payload."""


def live_messages(
    feed_name: str, runs: Sequence[Sequence[Received]], roots: Sequence[str] = ("SPY", "QQQ")
) -> list[Message]:
    """What a live feed publishes of these runs, told in the plainest way; ``source`` is replay's.

    Each run has a new decoder, which forgets its quotes where a socket is lost.
    """
    messages: list[Message] = []
    for frames in runs:
        decoder = StockDecoder() if feed_name == "stocks" else OptionDecoder(roots)
        last = None
        for data, recv_ns, connection in frames:
            if last not in (None, connection):
                decoder.instruments.forget_quotes()
            last = connection
            decoded = decoder.decode(data, recv_ns)
            block = Block(0, decoded.records, decoder.instruments.table, Source.REPLAY)
            messages += payloads(whole_block(block))
    return messages


def messages_of(blocks: Iterable[Block]) -> list[Message]:
    """What is published of these blocks."""
    return [message for block in blocks for message in payloads(whole_block(block))]
