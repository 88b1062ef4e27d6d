"""Targets of what a consumer reads: messages of both encodings, statuses, the server's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import numpy as np

from ingestor.client.payloads import Batch, Message, batches_of, decode
from ingestor.encode.packed import PackedEncoder
from ingestor.encode.reference import payloads
from ingestor.model.errors import BadDataError
from ingestor.model.feed_status import FeedStatus, What, decode_status, encode_status
from ingestor.model.records import EVENT_TYPES
from ingestor.model.units import PRICE_SCALE, UNDEF_PRICE
from ingestor.nats.answers import Splitter
from tests.encode.examples import (
    FUTURES_TRADE,
    MBP10,
    OPTION_TRADE,
    REPLY,
    STOCK_QUOTE,
    STOCK_TRADE,
    runs_with,
)
from tests.fuzz.target import Target

SEQ: Final = 7
_ROWS: Final = (STOCK_TRADE, STOCK_QUOTE, OPTION_TRADE, FUTURES_TRADE, MBP10)
_PRICES: Final = {"price": "price_e9", "bid_px": "bid_px_e9", "opt_ask": "opt_ask_e9"}


def packed(_folder: Path) -> Target:
    """Packed messages of every type, as events and as arrays."""
    samples = []
    for rows in _ROWS:
        frames = PackedEncoder().encode(runs_with(np.repeat(rows, 2)), REPLY, 1, 1)
        samples.append(frames.data.partition(b"\r\n")[2].removesuffix(b"\r\n"))
    subjects = {int(kind.rtype): kind.subject for kind in EVENT_TYPES}

    def run(data: bytes) -> None:
        _read_both_ways(subjects.get(data[5] if len(data) > 5 else 0, "market.flow"), data)

    return Target(samples=samples, run=run)


def json_events(_folder: Path) -> Target:
    """Messages in JSON behind their subjects; both ways of reading agree on prices."""
    samples = [
        subject.encode() + b"\n" + payload
        for rows in _ROWS
        for subject, payload in payloads(runs_with(rows))
    ]

    def run(data: bytes) -> None:
        subject, _, payload = data.partition(b"\n")
        _read_both_ways(subject.decode("utf-8", "replace"), payload)

    return Target(samples=samples, run=run, text=True)


def statuses(_folder: Path) -> Target:
    """What feeds tell about themselves."""
    sample = FeedStatus(feed="stocks", what=What.GAP, at_ns=5, text="lost", from_event_ns=1)
    return Target(
        samples=[encode_status(sample)], run=lambda data: _discard(decode_status(data)), text=True
    )


def wire(_folder: Path) -> Target:
    """The bytes of a server, in two pieces."""
    samples = [
        b"MSG market.x 1 $JS.ACK.S.C.1.5.1.9.0 5\r\nhello\r\nPING\r\n+OK\r\n",
        b"HMSG _INBOX.a 1 30 30\r\nNATS/1.0 408 Request Timeout\r\n\r\n\r\nMSG a.b 2 2\r\nhi\r\n",
        b'INFO {"max_payload":1048576}\r\nHMSG s 1 reply 12 17\r\nNATS/1.0\r\n\r\nhello\r\n',
    ]

    def run(data: bytes) -> None:
        splitter = Splitter({b"1"})
        middle = len(data) // 2
        for piece in (data[:middle], data[middle:]):
            if piece:
                splitter.feed(piece)

    def finish(rng: Random, data: bytes) -> bytes:
        return data * rng.choice((1, 1, 1, 3))

    return Target(samples=samples, run=run, finish=finish)


def _discard(_value: object) -> None:
    """Nothing is asked of it."""


def _read_both_ways(subject: str, payload: bytes) -> None:
    try:
        events: Any = decode(Message(subject, SEQ, payload))
    except BadDataError:
        events = None
    batches = _arrays(subject, payload)
    assert events is not None, "an array is read of what is no event"
    for batch in batches:
        assert len(batch) == len(events), "events and arrays differ in number"
        names = [name for name in _PRICES if name in events[0].__struct_fields__]
        for name in names:
            for event, units in zip(events, batch.records[_PRICES[name]].tolist(), strict=True):
                _check_price(getattr(event, name), units)


def _arrays(subject: str, payload: bytes) -> Sequence[Batch]:
    """Return the arrays of a message. Raises `BadDataError`, whether it came raised or returned."""
    found: Any = batches_of([(subject.encode("utf-8", "surrogateescape"), b"", payload)], [SEQ])
    batches, bad = found if isinstance(found, tuple) else (found, [])
    for error in bad:
        raise error
    return cast("Sequence[Batch]", batches)


def _check_price(price: float | None, units: int) -> None:
    """A price beyond nine decimals is rounded in an array, and one of 2**53 in an event."""
    if price is None or units == UNDEF_PRICE:
        assert price is None, f"a price is unknown in an array alone: {price}"
        assert units == UNDEF_PRICE, f"a price is unknown in an event alone: {units}"
    else:
        error = abs(price * PRICE_SCALE - units)
        assert error <= 1 + abs(units) / 2**51, f"prices differ: {price} and {units} e-9"
