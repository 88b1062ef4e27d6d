r"""The reference JSON encoder: says, in plain Python on msgspec, what the bytes are.

The compiled encoder must equal this one byte for byte, and this one serves where there is no
compiler. A frame is ``PUB <subject> <reply> <length>\r\n<payload>\r\n``, or, with a header,
``HPUB <subject> <reply> <header length> <length of both>\r\n<header><payload>\r\n``. Sequence and
length are zero padded, so that the head of a frame has one width per subject and can be written
before its payload is known; the server reads both padded (it takes up to nine digits of length).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import numpy as np

from ingestor.model.blocks import SEQUENCE_DIGITS, Frames, Reply, Runs
from ingestor.model.bounds import MAX_PAYLOAD_BYTES
from ingestor.model.errors import BadDataError
from ingestor.model.events import AGGRESSOR_OF_SIDE, AGGRESSORS, DBN_ACTIONS, DBN_SIDES, Aggressor
from ingestor.model.records import (
    FLAG_SNAPSHOT,
    UNDEF_EXCHANGE,
    UNDEF_SEQUENCE,
    RType,
    split_by_rtype,
)
from ingestor.model.symbols import PUBLISHER_EXCHANGE, SymbolTable, parse_option_ticker, symbol_of
from ingestor.model.units import UNDEF_PRICE, price_text

LENGTH_DIGITS: Final = 8
"""Zero-padded width of the payload length; a server's largest payload, 64 MiB, has as many."""

CRLF: Final = b"\r\n"

MAX_SEQUENCE: Final = 10**SEQUENCE_DIGITS - 1

Row = dict[str, Any]
"""One record as plain Python values by field name."""

TEXTS_HELD: Final = 262_144
"""Texts that are kept, some 100 bytes each: of two feeds with all the symbols one may have."""

TABLES_HELD: Final = 16
"""Tables whose texts are kept. A live feed has one; files of many days have one each."""

_NULL: Final = msgspec.Raw(b"null")
_ENCODER: Final = msgspec.json.Encoder()


class JsonEncoder:
    """One JSON object per message, one message per row. Implements `Encoder`."""

    def __init__(self) -> None:
        self.max_payload_bytes = MAX_PAYLOAD_BYTES

    def encode(self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int) -> Frames:
        """Encode rows from the front of `runs` into at most `max_messages` messages.

        Raises `BadDataError` for an unknown rtype, for a symbol that is no option ticker or no
        text, and for a message that is too long; `ValueError` when the sequence runs out of digits.
        """
        rows, _ = runs.split(max_messages)
        check_sequences(first_sequence, len(rows))
        parts: list[bytes] = []
        for sequence, (subject, payload) in enumerate(payloads(rows), first_sequence):
            check_payload(len(payload), self.max_payload_bytes)
            parts += frame_head(subject, reply, sequence, len(payload)), payload, CRLF
        stops = np.arange(1, len(rows) + 1, dtype=np.int64)
        return Frames([b"".join(parts)], stops, rows.counts_by_rtype())


def check_sequences(first: int, count: int) -> None:
    """Raise `ValueError` unless `count` sequences from `first` on have `SEQUENCE_DIGITS` digits."""
    if not 0 <= first <= MAX_SEQUENCE + 1 - count:
        raise ValueError(f"{count} sequences from {first} on do not fit {SEQUENCE_DIGITS} digits")


def check_payload(payload_bytes: int, max_payload_bytes: int) -> None:
    """Raise `BadDataError` for a message that is longer than the server takes."""
    if payload_bytes > max_payload_bytes:
        raise BadDataError(
            f"a message has {payload_bytes} bytes, and the server takes {max_payload_bytes}"
        )


def frame_head(subject: str, reply: Reply, sequence: int, payload_bytes: int) -> bytes:
    """Return a ``PUB`` or ``HPUB`` command up to its payload."""
    reply_to = b"%b%0*d%b" % (reply.prefix, SEQUENCE_DIGITS, sequence, reply.suffix)
    if reply.fence is not None and (header := reply.fence.header(sequence)):
        lengths = b"%d %0*d" % (len(header), LENGTH_DIGITS, len(header) + payload_bytes)
        return b"HPUB %b %b %b\r\n%b" % (subject.encode(), reply_to, lengths, header)
    return b"PUB %b %b %0*d\r\n" % (subject.encode(), reply_to, LENGTH_DIGITS, payload_bytes)


def payloads(runs: Runs) -> Iterator[tuple[str, bytes]]:
    """Yield (subject, JSON) of every row, in order. Raises `BadDataError`."""
    for block, records in runs.pieces():
        for kind, typed in split_by_rtype(records):
            fields_of = _FIELDS[kind.rtype]
            names = typed.dtype.names or ()
            for values in zip(*(typed[name].tolist() for name in names), strict=True):
                row = dict(zip(names, values, strict=True))
                symbol = symbol_of(block.symbols, row["instrument_id"])
                # The order of the keys is part of the contract: the envelope comes first.
                fields = {
                    "ts_event_ns": row["ts_event_ns"],
                    "ts_recv_ns": row["ts_recv_ns"],
                    "source": block.source.value,
                } | fields_of(row, symbol)
                yield kind.subject, _json(fields)


def symbol_json(symbol: str) -> bytes:
    """Return ``"symbol":"..."`` as it stands in an event. Raises `BadDataError`."""
    return _json({"symbol": symbol})[1:-1]


def option_json(symbol: str) -> bytes:
    """Return the keys that an option's ticker tells, ``"underlying"`` to ``"right"``.

    Raises `BadDataError` when it is no option ticker.
    """
    return _json(_option_fields(symbol))[1:-1]


def _json(fields: Row) -> bytes:
    try:
        return _ENCODER.encode(fields)
    except UnicodeEncodeError as error:
        raise BadDataError(f"a symbol cannot be written as UTF-8: {error}") from error


def _price(price_e9: int) -> msgspec.Raw:
    # Digits and not a double, which is inexact from 2**53 units on (9,007,199.25).
    return msgspec.Raw(price_text(price_e9).encode())


def _price_or_null(price_e9: int) -> msgspec.Raw:
    return _NULL if price_e9 == UNDEF_PRICE else _price(price_e9)


def _exchange(value: int) -> int | None:
    return None if value == UNDEF_EXCHANGE else value


def _seq(row: Row) -> int | None:
    return None if row["sequence"] == UNDEF_SEQUENCE else row["sequence"]


def _aggressor(row: Row) -> int:
    return row["aggressor"] if row["aggressor"] in AGGRESSORS else Aggressor.MID


def _conditions(row: Row) -> list[int]:
    conditions: list[int] = row["conditions"]
    return conditions[: row["n_conditions"]]


def _code(value: int, allowed: frozenset[int]) -> str | None:
    return chr(value) if value in allowed else None


def _option_fields(symbol: str) -> Row:
    ticker = parse_option_ticker(symbol)
    return {
        "underlying": ticker.underlying,
        "option_symbol": symbol,
        "exp_date": ticker.expiry.isoformat(),
        "strike": _price(ticker.strike_e9),
        "right": ticker.right,
    }


def _stock_trade(row: Row, symbol: str) -> Row:
    return {
        "symbol": symbol,
        "price": _price(row["price_e9"]),
        "size": row["size"],
        "exchange": _exchange(row["exchange"]),
        "conditions": _conditions(row),
        "seq": _seq(row),
        "aggressor": _aggressor(row),
    }


def _stock_quote(row: Row, symbol: str) -> Row:
    return {
        "symbol": symbol,
        "bid_px": _price_or_null(row["bid_px_e9"]),
        "ask_px": _price_or_null(row["ask_px_e9"]),
        "bid_sz": row["bid_sz"],
        "ask_sz": row["ask_sz"],
        "bid_exch": _exchange(row["bid_exch"]),
        "ask_exch": _exchange(row["ask_exch"]),
        "seq": _seq(row),
    }


def _option_trade(row: Row, symbol: str) -> Row:
    return {
        **_option_fields(symbol),
        "price": _price(row["price_e9"]),
        "size": row["size"],
        "opt_bid": _price_or_null(row["opt_bid_e9"]),
        "opt_ask": _price_or_null(row["opt_ask_e9"]),
        "aggressor": _aggressor(row),
        "conditions": _conditions(row),
        "seq": _seq(row),
    }


def _futures_trade(row: Row, symbol: str) -> Row:
    return {
        "symbol": symbol,
        "price": _price(row["price_e9"]),
        "size": row["size"],
        "aggressor": AGGRESSOR_OF_SIDE.get(row["side"], Aggressor.MID),
        "exchange": PUBLISHER_EXCHANGE.get(row["publisher_id"]),
        "conditions": None,
        "seq": row["sequence"],
    }


def _level(level: tuple[int, ...]) -> Row:
    # An empty side may come with a size: the contract says 0.
    bid_px_e9, ask_px_e9, bid_sz, ask_sz, *_ = level
    return {
        "bid_px": _price_or_null(bid_px_e9),
        "bid_sz": 0 if bid_px_e9 == UNDEF_PRICE else bid_sz,
        "ask_px": _price_or_null(ask_px_e9),
        "ask_sz": 0 if ask_px_e9 == UNDEF_PRICE else ask_sz,
    }


def _mbp10(row: Row, symbol: str) -> Row:
    return {
        "symbol": symbol,
        "levels": [_level(level) for level in row["levels"]],
        "is_snapshot": bool(row["flags"] & FLAG_SNAPSHOT),
        "seq": row["sequence"],
        "action": _code(row["action"], DBN_ACTIONS),
        "side": _code(row["side"], DBN_SIDES),
        "action_price": _price_or_null(row["price_e9"]),
        "action_size": row["size"],
    }


_FIELDS: Final[dict[RType, Callable[[Row, str], Row]]] = {
    RType.STOCK_TRADE: _stock_trade,
    RType.STOCK_QUOTE: _stock_quote,
    RType.OPTION_TRADE: _option_trade,
    RType.FUTURES_TRADE: _futures_trade,
    RType.MBP10: _mbp10,
}
"""What follows the envelope, per event type, in the contract's order."""


class TableTexts:
    """Per table what was made of its symbols, under keys of whoever made it.

    In one table an id keeps its symbol (`SymbolTable`), so what was made of it holds as long as the
    table is the same object. An id that a table does not list stands for itself until the table may
    list it: what is made of such a one is not for here.
    """

    def __init__(self, texts: int = TEXTS_HELD, tables: int = TABLES_HELD) -> None:
        self._most_texts = texts
        self._most_tables = tables
        self._kept: dict[int, tuple[SymbolTable, dict[int, bytes]]] = {}

    def __len__(self) -> int:
        """Number of texts that are kept."""
        return sum(len(texts) for _, texts in self._kept.values())

    def of(self, table: SymbolTable) -> dict[int, bytes]:
        """Return what was made of a table's symbols so far, to be added to.

        It is forgotten from time to time, so ask before each use; what was returned stays as it is.
        """
        # A table that is kept beside its texts cannot lose its identity to another one.
        known = self._kept.get(id(table))
        full = len(self) >= self._most_texts or len(self._kept) >= self._most_tables + bool(known)
        if known is None or full:
            if full:
                self._kept.clear()
            known = self._kept[id(table)] = (table, {})
        return known[1]
