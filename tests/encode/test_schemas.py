from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given

from ingestor import events
from ingestor.blocks import Block, whole_block
from ingestor.encode.reference import payloads
from ingestor.encode.schemas import Schema, by_subject, json_schema
from ingestor.records import EVENT_TYPES, EventType
from tests import strategies
from tests.encode import examples

BY_SUBJECT = {kind.subject: kind for kind in EVENT_TYPES}
SCHEMAS = {kind.subject: json_schema(kind) for kind in EVENT_TYPES}

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def faults(value: Any, schema: Schema, at: str = "$") -> list[str]:
    """Every way in which a value breaks a schema, for the words that our schemas use."""
    named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_is(value, name) for name in named):
        return [f"{at}: {value!r} is no {named}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if isinstance(value, dict):
        found += [f"{at}: no {key}" for key in schema["required"] if key not in value]
        for key in schema["properties"].keys() & value.keys():
            found += faults(value[key], schema["properties"][key], f"{at}.{key}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema["maxItems"]:
            found.append(f"{at}: {len(value)} items")
        for item in value:
            found += faults(item, schema["items"], f"{at}[]")
    bounded = "maximum" in schema and value is not None
    if bounded and not schema["minimum"] <= value <= schema["maximum"]:
        found.append(f"{at}: {value} is out of range")
    return found


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


@given(block=strategies.blocks())
def test_every_message_keeps_the_schema_of_its_subject(block: Block) -> None:
    for subject, payload in payloads(whole_block(block)):
        assert faults(json.loads(payload), SCHEMAS[subject]) == []


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

        assert faults(message, SCHEMAS[example.subject]) == [f"$: no {key}"]


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
    ],
)
def test_a_value_that_the_contract_does_not_allow_breaks_the_schema(
    subject: str, key: str, value: Any
) -> None:
    (payload,) = (example.payload for example in examples.CONTRACT if example.subject == subject)

    assert len(faults(json.loads(payload) | {key: value}, SCHEMAS[subject])) == 1


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


def test_the_program_prints_the_schemas_of_the_subjects_asked_for() -> None:
    command = [sys.executable, "-m", "ingestor.encode.schemas", "market.futures.trades"]
    printed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert list(printed) == ["market.futures.trades"]
    assert printed["market.futures.trades"]["$id"].endswith("futures.trades.v1")
    assert len(by_subject()) == len(EVENT_TYPES)
