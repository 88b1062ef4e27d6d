"""``ingestor-bench consume``: what an event costs a consumer, without a server.

A sample day is read from its file, by the vendor's own decoder with every field of every record
read, and by `DBNIngestor`; and it is read from messages as a replay publishes them, as event
objects and as arrays. Best of some rounds, in CPU microseconds an event, by turns.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import databento_dbn
import zstandard

from ingestor.bench.day import blocks, make_day, merged
from ingestor.client.payloads import batches_of, events_by_seq
from ingestor.client.subscription import BATCH_MESSAGES
from ingestor.encode import make_encoder
from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.feeds.databento.selection import find_files
from ingestor.model.blocks import Reply
from ingestor.model.events import read_json
from ingestor.nats.answers import Frame

CHUNK: Final = 64
"""Messages that are taken together, about as many packed ones as one read of a socket brings."""

TOGETHER: Final = BATCH_MESSAGES // CHUNK
"""Chunks that arrays are made of at once."""

_FIELDS: Final = (
    *("ts_event", "ts_recv", "price", "size", "action", "side", "flags", "depth"),
    *("ts_in_delta", "sequence", "publisher_id", "instrument_id"),
)
_LEVEL_FIELDS: Final = ("bid_px", "ask_px", "bid_sz", "ask_sz", "bid_ct", "ask_ct")


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(prog="ingestor-bench consume", description=__doc__)
    parser.add_argument("--events", type=int, default=40_000, metavar="N", help="depth events")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ingestor-bench-") as name:
        figures = measure(make_day(Path(name), given.events), given.rounds)
    if given.json:
        print(json.dumps(figures))
    else:
        for what, us in figures.items():
            print(f"{us:8.2f} us  {what}")
    return 0


def measure(day: Path, rounds: int) -> dict[str, float]:
    """Return CPU microseconds an event by what was done, the best of the rounds."""
    messages = {encoding: _messages(day, encoding) for encoding in ("json", "packed")}
    ways: dict[str, Callable[[], int]] = {
        "depth file, vendor's iterator, every field read": _vendor(day),
        "depth file, read_mbp10()": lambda: _count(DBNIngestor(data_dir=day).read_mbp10()),
        "trades file, read_trades()": lambda: _count(DBNIngestor(data_dir=day).read_trades()),
        "JSON messages, events": lambda: _json_events(messages["json"]),
        "packed messages, events": lambda: _packed_events(messages["packed"]),
        "JSON messages, batches": lambda: _rows(messages["json"]),
        "packed messages, batches": lambda: _rows(messages["packed"]),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for what, way in ways.items():
            began_s = time.process_time()
            count = way()
            best[what] = min(best[what], (time.process_time() - began_s) / count * 1e6)
            print(f"{best[what]:8.2f} us  {what}", file=sys.stderr)
    return best


def _count(events: Iterator[Any]) -> int:
    return sum(1 for _ in events)


def _vendor(day: Path) -> Callable[[], int]:
    (file,) = find_files(day, DbnSchema.MBP10, ())
    packed = file.path.suffix == ".zst"
    with zstandard.open(file.path) if packed else file.path.open("rb") as stream:
        data = stream.read()

    def read() -> int:
        return sum(_touch(record) for record in _vendor_records(io.BytesIO(data)))

    return read


def _vendor_records(data: io.BytesIO) -> Iterator[Any]:
    decoder = databento_dbn.DBNDecoder()
    while piece := data.read(1 << 20):
        decoder.write(piece)
        yield from decoder.decode()


def _touch(record: Any) -> int:
    """Read every field, as whoever uses a record would; the metadata counts as none."""
    if not hasattr(record, "levels"):
        return 0
    for name in _FIELDS:
        getattr(record, name)
    for level in record.levels:
        for name in _LEVEL_FIELDS:
            getattr(level, name)
    return 1


def _messages(day: Path, encoding: str) -> list[list[Frame]]:
    """Messages of the merged day as a replay publishes them, in chunks."""
    encoder = make_encoder(encoding)
    frames: list[Frame] = []
    for runs in merged(blocks(day, (DbnSchema.TRADES, DbnSchema.MBP10))):
        frames += _frames(encoder.encode(runs, Reply(b"r", b""), 1, len(runs)).data)
    taken = iter(frames)
    return list(iter(lambda: list(islice(taken, CHUNK)), []))


def _frames(data: bytes) -> Iterator[Frame]:
    at = 0
    while at < len(data):
        start = data.index(b"\r\n", at) + 2
        _, subject, reply, size = data[at : start - 2].split(b" ")
        at = start + int(size) + 2
        yield subject, reply, data[start : at - 2]


def _json_events(chunks: list[list[Frame]]) -> int:
    count = 0
    for chunk in chunks:
        for subject, _, payload in chunk:
            read_json(subject, payload)
            count += 1
    return count


def _packed_events(chunks: list[list[Frame]]) -> int:
    found = (events_by_seq(chunk, range(len(chunk)))[0] for chunk in chunks)
    return sum(len(list(events)) for by_seq in found for events in by_seq.values())


def _rows(chunks: list[list[Frame]]) -> int:
    rows = 0
    for at in range(0, len(chunks), TOGETHER):
        frames = [frame for chunk in chunks[at : at + TOGETHER] for frame in chunk]
        rows += sum(map(len, batches_of(frames, range(len(frames)))[0]))
    return rows
