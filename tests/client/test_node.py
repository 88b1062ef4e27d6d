"""A consumer in another language: NATS' own client for Node, and integers beyond 2**53."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import ingestor
from tests.client.streams import as_json, trades
from tests.client.test_subscription import store
from tests.encode import examples
from tests.nats_servers import NatsServer

READER = Path(__file__).with_name("reader.js")
INTERFACES = Path(ingestor.__file__).with_name("INTERFACES.md")


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node")
    asking = subprocess.run([found, "-e", "require('nats')"], capture_output=True, check=False)
    if asking.returncode:
        pytest.skip("node finds no package nats: npm install nats, and NODE_PATH")
    return found


def test_interfaces_shows_what_is_tried_here() -> None:
    shown = READER.read_text().partition("const INTEGERS")[2].partition("\nasync")[0].rstrip()
    assert f"```js\nconst INTEGERS{shown}\n```" in INTERFACES.read_text()


def test_node_reads_every_nanosecond(nats_server: NatsServer) -> None:
    program = node()
    rows = trades(3)
    rows["ts_event_ns"] += 864
    dollar = examples.CONTRACT[0].payload.replace(b'"SPY"', b'"\\"ts_event_ns\\":7"')
    store(nats_server, [*as_json(rows), (examples.CONTRACT[0].subject, dollar)])
    command = [program, str(READER), nats_server.url, "4"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = [line.split() for line in out.splitlines()]
    expected = [*rows["ts_event_ns"].tolist(), 1_765_895_400_001_000_000]
    assert [int(event_ns) for event_ns, *_ in found] == expected
    assert [int(seq) for _, _, seq, _ in found] == [0, 1, 2, 2]
    # What happens without it.
    assert [int(rounded) for *_, rounded in found] != expected


def test_jq_reads_every_nanosecond_once_they_are_quoted() -> None:
    jq = shutil.which("jq")
    if jq is None:
        pytest.skip("no jq")
    (command,) = [line for line in INTERFACES.read_text().splitlines() if "| jq -c" in line]
    _, _, words = command.partition("| ")
    event = examples.CONTRACT[3].payload
    out = subprocess.run(["/bin/sh", "-c", words], input=event, capture_output=True, check=True)
    assert out.stdout == b'["1765895400017150864","1"]\n'
