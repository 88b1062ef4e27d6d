"""Frames against a real nats-server: it reads what we write, padded lengths included."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from ingestor.encode import make_encoder
from ingestor.encode.packed import decode_packed
from ingestor.encode.reference import payloads
from ingestor.model.blocks import Encoder, Fence, Reply
from tests.encode import examples
from tests.encode.examples import runs_with

SERVER = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
    "nats-server"
)
REPLY = Reply(b"replies.fail.", b".1.$FI")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    if SERVER is None:
        pytest.skip("there is no nats-server here")
    process = subprocess.Popen(
        [SERVER, "--addr", "127.0.0.1", "--port", "-1"], stderr=subprocess.PIPE, text=True
    )
    try:
        yield _port_of(process)
    finally:
        process.terminate()
        process.communicate()


def _port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"Listening for client connections on .*:(\d+)", line):
            return int(found[1])
    raise AssertionError("nats-server ended before it listened")


def delivered(port: int, frames: bytes) -> list[tuple[str, str, bytes]]:
    """Publish frames on one connection and return (subject, reply, payload) as delivered to it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(
            b'CONNECT {"verbose":false,"headers":true}\r\nSUB market.> 1\r\n' + frames + b"PING\r\n"
        )
        with link.makefile("rb") as stream:
            return list(_read_messages(stream))


def _read_messages(stream: IO[bytes]) -> Iterator[tuple[str, str, bytes]]:
    for line in stream:
        verb, *words = line.decode().split()
        if verb == "PONG":
            return
        assert verb in ("INFO", "MSG", "HMSG"), line
        if verb != "INFO":
            subject, _, reply, *headers, size = words
            header = stream.read(sum(map(int, headers)))
            assert header.startswith(b"NATS/1.0\r\n") == (verb == "HMSG")
            yield subject, reply, stream.read(int(size) - len(header) + 2)[:-2]


@pytest.mark.parametrize("compiled", [False, None], ids=["reference", "best"])
@pytest.mark.parametrize("example", examples.CONTRACT, ids=lambda example: example.subject)
def test_a_server_delivers_each_event_as_the_contract_shows_it(
    port: int, compiled: bool | None, example: examples.Example
) -> None:
    encoder: Encoder = make_encoder("json", compiled=compiled)
    frames = encoder.encode(runs_with(example.record, example.source), REPLY, 41, 10)

    assert delivered(port, frames.data) == [
        (example.subject, "replies.fail.000000000041.1.$FI", example.payload)
    ]


def test_a_server_delivers_a_block_of_frames_in_order(port: int) -> None:
    rows = np.repeat(examples.MBP10, 500)
    rows["sequence"] = np.arange(500)
    runs = runs_with(rows)

    frames = make_encoder("json").encode(runs, REPLY, 1, 1000)
    received = delivered(port, frames.data)

    assert [(subject, payload) for subject, _, payload in received] == list(payloads(runs))
    assert [reply for _, reply, _ in received] == [
        f"replies.fail.{sequence:012d}.1.$FI" for sequence in range(1, 501)
    ]


@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_a_server_delivers_fenced_frames_like_others(port: int, encoding: str) -> None:
    runs = runs_with(np.repeat(examples.MBP10, 5000))
    encoder = make_encoder(encoding)
    plain = encoder.encode(runs, REPLY, 1, 5000)

    fenced = encoder.encode(runs, replace(REPLY, fence=Fence(7, 2)), 1, 5000)

    assert fenced.size_bytes > plain.size_bytes
    assert delivered(port, fenced.data) == delivered(port, plain.data)


def test_a_server_delivers_packed_messages_unchanged(port: int) -> None:
    rows = np.repeat(examples.MBP10, 1000)
    rows["sequence"] = np.arange(1000)

    frames = make_encoder("packed").encode(runs_with(rows), REPLY, 1, 1000)
    received = delivered(port, frames.data)

    assert len(received) == frames.messages == 3
    assert b"".join(decode_packed(payload).records.tobytes() for *_, payload in received) == (
        rows.tobytes()
    )
