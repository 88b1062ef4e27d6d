"""The JSON Schema of every event: ``python -m ingestor.encode.schemas [--exact] [SUBJECT...]``.

A schema is exact about what a version promises: every key is required, in the contract's order,
with its type, nullability and values. Further keys stay allowed, since adding an optional one keeps
the version, but for those by which consumers tell the types apart.

That a price has at most nine decimals stands only in the schemas that `--exact` prints. They are
for validators that read numbers as decimals: one that divides doubles refuses four of ten prices
of a cent by ``multipleOf: 1e-9``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

from ingestor.model.blocks import Source
from ingestor.model.bounds import MAX_SYMBOL_BYTES, MAX_TIME_NS
from ingestor.model.events import DBN_ACTIONS, DBN_SIDES, Aggressor
from ingestor.model.records import EVENT_TYPES, LEVELS, MAX_CONDITIONS, EventType
from ingestor.model.units import UINT32_MAX, UINT64_MAX

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


PRICE_STEP: Final = 1e-9
TELLING_KEYS: Final = frozenset(("symbol", "underlying", "levels", "bid_px"))
"""Consumers tell the types apart by which of these a message has."""


def json_schema(event_type: EventType, *, exact: bool = False) -> Schema:
    """Return the JSON Schema of an event; ``$id`` is the schema's name and version.

    `exact` bounds the decimals of prices, for validators that read numbers as decimals.
    """
    schema = {
        "$schema": DIALECT,
        "$id": event_type.schema,
        "title": event_type.name,
        "description": f"One message on {event_type.subject}.",
        **_object(_ENVELOPE | _PROPERTIES[event_type.name]),
    }
    absent = sorted(TELLING_KEYS - schema["properties"].keys())
    # False forbids a key, so that no message is valid as two types.
    schema["properties"] |= dict.fromkeys(absent, False)
    return _with_steps(schema) if exact else schema


def _with_steps(schema: Any) -> Any:
    """Return a schema in which every price is a multiple of `PRICE_STEP`."""
    if isinstance(schema, dict):
        # Only for decimals: as a double, 0.1 is no multiple of 1e-9.
        step = {"multipleOf": PRICE_STEP} if "number" in schema.get("type", ()) else {}
        return {key: _with_steps(value) for key, value in schema.items()} | step
    return [_with_steps(item) for item in schema] if isinstance(schema, list) else schema


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _empty_side(price: str, size: str) -> Schema:
    """Where there is no price there is no size."""
    return {
        "if": {"properties": {price: {"type": "null"}}},
        "then": {"properties": {size: {"const": 0}}},
    }


def _integer(most: int, meaning: str) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": most, "description": meaning}


def _nullable(schema: Schema) -> Schema:
    # An enum must list null as well: the type alone does not allow it.
    both = schema | {"type": [schema["type"], "null"]}
    return both | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})


def _letters(codes: frozenset[int], meaning: str) -> Schema:
    letters = sorted(map(chr, codes))
    return _nullable({"type": "string", "enum": letters, "description": meaning})


_TIME: Final = _integer(MAX_TIME_NS, "Unix time in nanoseconds, UTC")
_SIZE: Final = _integer(UINT32_MAX, "whole shares or contracts")
_SEQ: Final = _nullable(
    _integer(UINT64_MAX, "the vendor's sequence number; proves neither order nor loss")
)
_EXCHANGE_ID: Final = _nullable(
    {"type": "integer", "minimum": -(2**15), "maximum": 2**15 - 1, "description": "vendor's id"}
)
_PRICE: Final = {"type": "number", "description": "exact decimal, at most nine places"}
_PRICE_OR_NULL: Final = _nullable(_PRICE)
_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": MAX_SYMBOL_BYTES}
_TICKER: Final = _TEXT | {"pattern": r"^O:[0-9A-Z.]{1,6}[0-9]{6}[CP][0-9]{8}$"}
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
    "items": {
        **_object(
            {"bid_px": _PRICE_OR_NULL, "bid_sz": _SIZE, "ask_px": _PRICE_OR_NULL, "ask_sz": _SIZE}
        ),
        "allOf": [_empty_side("bid_px", "bid_sz"), _empty_side("ask_px", "ask_sz")],
    },
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
        "option_symbol": _TICKER,
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


def by_subject(subjects: Sequence[str] = (), *, exact: bool = False) -> dict[str, Schema]:
    """Return the schemas of some subjects, of all when none are given; for `exact` see above."""
    return {
        kind.subject: json_schema(kind, exact=exact)
        for kind in EVENT_TYPES
        if not subjects or kind.subject in subjects
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the schemas that the command line asks for, as one JSON object by subject."""
    made = parser()
    given = made.parse_args(arguments)
    known = [kind.subject for kind in EVENT_TYPES]
    for subject in given.subjects:
        if subject not in known:
            made.error(f"no event has the subject {subject!r}: there are {', '.join(known)}")
    print(json.dumps(by_subject(given.subjects, exact=given.exact), indent=2))


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor schema``."""
    known = [kind.subject for kind in EVENT_TYPES]
    made = argparse.ArgumentParser(
        prog="python -m ingestor.encode.schemas",
        description="Prints the JSON Schema of every event type, or of some.",
    )
    made.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"one of {', '.join(known)}; none means all"
    )
    made.add_argument(
        "--exact",
        action="store_true",
        help="bound the decimals of prices too, for validators that read numbers as decimals",
    )
    return made


if __name__ == "__main__":
    main()
