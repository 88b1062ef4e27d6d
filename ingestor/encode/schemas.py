"""The JSON Schema of every event type: ``python -m ingestor.encode.schemas [SUBJECT...]``.

A schema is exact about what a version promises: every key is required, in the contract's order,
with its type, nullability and values. Further keys stay allowed: adding an optional one keeps
the version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from ingestor.blocks import Source
from ingestor.events import DBN_ACTIONS, DBN_SIDES, Aggressor
from ingestor.records import EVENT_TYPES, LEVELS, MAX_CONDITIONS, EventType
from ingestor.units import UINT32_MAX, UINT64_MAX

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def json_schema(event_type: EventType) -> Schema:
    """Return the JSON Schema of an event; ``$id`` is the schema's name and version."""
    return {
        "$schema": DIALECT,
        "$id": event_type.schema,
        "title": event_type.name,
        "description": f"One message on {event_type.subject}.",
        **_object(_ENVELOPE | _PROPERTIES[event_type.name]),
    }


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _integer(most: int, meaning: str) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": most, "description": meaning}


def _nullable(schema: Schema) -> Schema:
    both = schema | {"type": [schema["type"], "null"]}
    return both | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})


def _letters(codes: frozenset[int], meaning: str) -> Schema:
    letters = sorted(map(chr, codes))
    return _nullable({"type": "string", "enum": letters, "description": meaning})


_TIME: Final = _integer(UINT64_MAX, "Unix time in nanoseconds, UTC")
_SIZE: Final = _integer(UINT32_MAX, "whole shares or contracts")
_SEQ: Final = _nullable(
    _integer(UINT64_MAX, "the vendor's sequence number; proves neither order nor loss")
)
_EXCHANGE_ID: Final = _nullable(
    {"type": "integer", "minimum": -(2**15), "maximum": 2**15 - 1, "description": "vendor's id"}
)
_PRICE: Final = {"type": "number", "description": "exact decimal, at most nine places"}
_PRICE_OR_NULL: Final = _nullable(_PRICE)
_TEXT: Final = {"type": "string"}
_AGGRESSOR: Final = {
    "type": "integer",
    "enum": [int(Aggressor.BUY), int(Aggressor.SELL), int(Aggressor.MID)],
    "description": "1 buyer, -1 seller, 0 unknown",
}
_CONDITIONS: Final = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 2**16 - 1},
    "maxItems": MAX_CONDITIONS,
}
_LEVELS: Final = {
    "type": "array",
    "items": _object(
        {"bid_px": _PRICE_OR_NULL, "bid_sz": _SIZE, "ask_px": _PRICE_OR_NULL, "ask_sz": _SIZE}
    ),
    "minItems": LEVELS,
    "maxItems": LEVELS,
    "description": "best first; an empty level has price null and size 0",
}

_ENVELOPE: Final[dict[str, Schema]] = {
    "ts_event_ns": _TIME,
    "ts_recv_ns": _TIME,
    "source": {"type": "string", "enum": [source.value for source in Source]},
}

_PROPERTIES: Final[dict[str, dict[str, Schema]]] = {
    "StockTrade": {
        "symbol": _TEXT,
        "price": _PRICE,
        "size": _SIZE,
        "exchange": _EXCHANGE_ID,
        "conditions": _CONDITIONS,
        "seq": _SEQ,
        "aggressor": _AGGRESSOR,
    },
    "StockQuote": {
        "symbol": _TEXT,
        "bid_px": _PRICE_OR_NULL,
        "ask_px": _PRICE_OR_NULL,
        "bid_sz": _SIZE,
        "ask_sz": _SIZE,
        "bid_exch": _EXCHANGE_ID,
        "ask_exch": _EXCHANGE_ID,
        "seq": _SEQ,
    },
    "OptionTrade": {
        "underlying": _TEXT,
        "option_symbol": _TEXT,
        "exp_date": {"type": "string", "format": "date"},
        "strike": _PRICE,
        "right": {"type": "string", "enum": ["C", "P"]},
        "price": _PRICE,
        "size": _SIZE,
        "opt_bid": _PRICE_OR_NULL,
        "opt_ask": _PRICE_OR_NULL,
        "aggressor": _AGGRESSOR,
        "conditions": _CONDITIONS,
        "seq": _SEQ,
    },
    "FuturesTrade": {
        "symbol": _TEXT,
        "price": _PRICE,
        "size": _SIZE,
        "aggressor": _AGGRESSOR,
        "exchange": _nullable(_TEXT),
        "conditions": {"type": "null"},
        "seq": _SEQ,
    },
    "MBP10": {
        "symbol": _TEXT,
        "levels": _LEVELS,
        "is_snapshot": {"type": "boolean"},
        "seq": _SEQ,
        "action": _letters(DBN_ACTIONS, "what happened to the book"),
        "side": _letters(DBN_SIDES, "A ask, B bid, N none"),
        "action_price": _PRICE_OR_NULL,
        "action_size": _SIZE,
    },
}


def by_subject(subjects: Sequence[str] = ()) -> dict[str, Schema]:
    """Return the schemas of some subjects, of all when none are given; unknown ones are missing."""
    return {
        kind.subject: json_schema(kind)
        for kind in EVENT_TYPES
        if not subjects or kind.subject in subjects
    }


if __name__ == "__main__":
    print(json.dumps(by_subject(sys.argv[1:]), indent=2))
