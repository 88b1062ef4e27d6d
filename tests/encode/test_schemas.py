from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from ingestor.encode.reference import payloads
from ingestor.encode.schemas import Schema, by_subject, json_schema, main
from ingestor.model import events
from ingestor.model.blocks import Block, whole_block
from ingestor.model.bounds import MAX_SYMBOL_BYTES, MAX_TIME_NS
from ingestor.model.records import EVENT_TYPES, EventType
from tests import strategies
from tests.encode import examples

BY_SUBJECT = {kind.subject: kind for kind in EVENT_TYPES}
SCHEMAS = {kind.subject: json_schema(kind) for kind in EVENT_TYPES}

EXACT = {kind.subject: json_schema(kind, exact=True) for kind in EVENT_TYPES}


def faults(message: Any, schema: Schema) -> list[str]:
    """Every way in which a message breaks a schema, as an independent validator sees it."""
    found = Draft202012Validator(schema).iter_errors(message)
    return [f"{error.json_path}: {error.message}" for error in found]


def exactly(text: str | bytes) -> Any:
    """JSON with its numbers as decimals."""
    return json.loads(text, parse_float=Decimal)


@given(block=strategies.blocks())
def test_every_message_keeps_the_schema_of_its_subject(block: Block) -> None:
    # What comes in is within these bounds; the encoders need not know of them.
    for time in ("ts_event_ns", "ts_recv_ns"):
        block.records[time] &= np.uint64(MAX_TIME_NS)
    symbols = {number: text[:MAX_SYMBOL_BYTES] or "0" for number, text in block.symbols.items()}
    for subject, payload in payloads(whole_block(replace(block, symbols=symbols))):
        assert faults(json.loads(payload), SCHEMAS[subject]) == []
        assert faults(exactly(payload), exactly(json.dumps(EXACT[subject]))) == []


@pytest.mark.parametrize("example", examples.CONTRACT, ids=lambda example: example.subject)
def test_the_keys_of_an_example_are_the_required_ones_in_their_order(
    example: examples.Example,
) -> None:
    assert list(json.loads(example.payload)) == SCHEMAS[example.subject]["required"]


@pytest.mark.parametrize("example", examples.CONTRACT, ids=lambda example: example.subject)
def test_a_message_without_one_of_its_keys_breaks_the_schema(example: examples.Example) -> None:
    for key in SCHEMAS[example.subject]["required"]:
        message = json.loads(example.payload)
        del message[key]

        assert faults(message, SCHEMAS[example.subject]) == [f"$: {key!r} is a required property"]


@pytest.mark.parametrize(
    ("subject", "key", "value"),
    [
        ("market.stocks.trades", "source", "elsewhere"),
        ("market.stocks.trades", "aggressor", 2),
        ("market.stocks.trades", "price", None),
        ("market.stocks.trades", "conditions", None),
        ("market.stocks.quotes", "bid_sz", -1),
        ("market.options.trades", "right", "X"),
        ("market.futures.trades", "conditions", []),
        ("market.futures.mbp10", "levels", []),
        ("market.futures.mbp10", "action", "Z"),
        ("market.futures.mbp10", "is_snapshot", 0),
        ("market.options.trades", "symbol", "SPY"),
        ("market.options.trades", "option_symbol", "SPY"),
        ("market.stocks.trades", "levels", []),
        ("market.stocks.trades", "underlying", None),
        ("market.stocks.quotes", "underlying", "SPY"),
        ("market.futures.trades", "bid_px", 1.0),
        ("market.futures.trades", "size", None),
        ("market.futures.trades", "ts_event_ns", 2**63),
        ("market.futures.trades", "symbol", ""),
        ("market.futures.trades", "symbol", "S" * 72),
    ],
)
def test_a_value_that_the_contract_does_not_allow_breaks_the_schema(
    subject: str, key: str, value: Any
) -> None:
    message = json.loads(example_of(subject)) | {key: value}

    assert len(faults(message, SCHEMAS[subject])) == 1


@pytest.mark.parametrize("side", ["bid", "ask"])
@pytest.mark.parametrize(("price", "size"), [(None, 1), (None, None), (1.0, None)])
def test_a_level_without_a_price_has_size_0_and_none_has_a_null_size(
    side: str, price: float | None, size: int | None
) -> None:
    message = json.loads(example_of("market.futures.mbp10"))
    message["levels"][3] |= {f"{side}_px": price, f"{side}_sz": size}

    assert faults(message, SCHEMAS["market.futures.mbp10"])


def test_only_the_exact_schema_refuses_a_tenth_decimal() -> None:
    subject = "market.futures.trades"
    nine = exactly(example_of(subject)) | {"price": Decimal("0.123456789")}
    ten = nine | {"price": Decimal("0.1234567891")}

    exact = exactly(json.dumps(EXACT[subject]))
    assert [faults(nine, exact), faults(ten, SCHEMAS[subject])] == [[], []]
    assert len(faults(ten, exact)) == 1


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.name)
def test_a_schema_names_its_version_and_is_json(kind: EventType) -> None:
    schema = json_schema(kind)

    assert (schema["$id"], schema["title"]) == (kind.schema, kind.name)
    assert json.loads(msgspec.json.encode(schema)) == schema


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.name)
def test_the_schema_and_the_event_object_have_the_same_fields_in_the_same_order(
    kind: EventType,
) -> None:
    event_class = getattr(events, kind.name)

    assert list(event_class.__struct_fields__) == json_schema(kind)["required"]


def example_of(subject: str) -> bytes:
    """The contract's message on a subject."""
    (payload,) = (one.payload for one in examples.CONTRACT if one.subject == subject)
    return payload


def test_a_subject_that_no_event_has_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["market.futures.trade"])
    assert ended.value.code == 2
    assert "market.futures.trades" in capsys.readouterr().err


def test_the_program_prints_the_schemas_of_the_subjects_asked_for() -> None:
    command = [sys.executable, "-m", "ingestor.encode.schemas", "market.futures.trades"]
    printed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert list(printed) == ["market.futures.trades"]
    assert printed["market.futures.trades"]["$id"].endswith("futures.trades.v1")
    assert len(by_subject()) == len(EVENT_TYPES)
