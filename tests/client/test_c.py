"""A consumer in C with nothing but its standard library, and integers beyond 2**53."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import ingestor
from ingestor.model.units import UINT64_MAX
from tests.client.streams import as_json, trades
from tests.encode import examples

READER = Path(__file__).with_name("reader.c")
INTERFACES = Path(ingestor.__file__).with_name("INTERFACES.md")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    program = tmp_path_factory.mktemp("reader") / "reader"
    subprocess.run([compiler, "-Wall", "-Werror", "-o", program, READER], check=True)
    return program


def printed(reader: Path, messages: list[bytes]) -> list[list[int]]:
    lines = b"".join(message + b"\n" for message in messages)
    done = subprocess.run([reader], input=lines, capture_output=True, timeout=30, check=True)
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


def test_interfaces_shows_what_is_tried_here() -> None:
    code = READER.read_text()
    shown = code[code.index("static unsigned") : code.index("\nint main")].rstrip()
    assert f"```c\n{shown}\n```" in INTERFACES.read_text()


def test_c_reads_every_nanosecond(reader: Path) -> None:
    rows = trades(100)
    rows["ts_event_ns"] += 864
    found = printed(reader, [payload for _, payload in as_json(rows)])
    assert [event_ns for event_ns, *_ in found] == rows["ts_event_ns"].tolist()
    assert [recv_ns for _, recv_ns, *_ in found] == rows["ts_recv_ns"].tolist()
    assert [seq for _, _, seq, _ in found] == rows["sequence"].tolist()
    # What a double makes of it.
    assert [rounded for *_, rounded in found] != rows["ts_event_ns"].tolist()


def test_c_reads_the_largest_sequence_and_is_not_misled_by_a_symbol(reader: Path) -> None:
    payload = examples.CONTRACT[0].payload.replace(b'"seq":2', b'"seq":%d' % (UINT64_MAX - 1))
    misleading = payload.replace(b'"SPY"', b'"\\"seq\\":7"')
    unknown = payload.replace(b"%d" % (UINT64_MAX - 1), b"null")
    found = printed(reader, [payload, misleading, unknown])
    assert [seq for _, _, seq, _ in found] == [UINT64_MAX - 1, UINT64_MAX - 1, 0]
