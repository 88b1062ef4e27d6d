"""What a straightforward Python program does with the same files, for comparison.

One dict per event, orjson, nats-py on uvloop: either every publish awaited, or many under way
behind a bounded window of acknowledgements. Runs as ``python -m ingestor.bench.plain`` in a
process of its own, and prints one JSON line.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import nats
import orjson
import uvloop
from nats.js import JetStreamContext

from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, FLAG_SNAPSHOT, RType
from ingestor.model.units import PRICE_SCALE, UNDEF_PRICE

WINDOW: Final = 1_000
"""Publishes that may be under way at once."""


def events(
    data_dir: Path, schema: DbnSchema
) -> Iterator[tuple[tuple[int, ...], str, dict[str, Any]]]:
    """Yield (key, subject, event as a dict) of every record of a schema."""
    for block in DBNIngestor(data_dir=data_dir, schema=schema).blocks():
        names = block.records.dtype.names or ()
        symbols = block.symbols
        for values in block.records.tolist():
            row = dict(zip(names, values, strict=True))
            kind = EVENT_TYPE_BY_RTYPE[row["rtype"]]
            symbol = symbols[row["instrument_id"]]
            event = _depth(row, symbol) if kind.rtype == RType.MBP10 else _trade(row, symbol)
            key = (row["ts_event_ns"], row["ts_recv_ns"], row["sequence"])
            yield key, kind.subject, event


async def publish(
    url: str, data_dir: Path, schemas: list[DbnSchema], *, limit: int, awaited: bool
) -> dict[str, Any]:
    """Publish at most `limit` events of the merged files.

    Returns how many were published, seconds, CPU seconds.
    """
    client = await nats.connect(url)
    context = client.jetstream(publish_async_max_pending=WINDOW)
    await context.add_stream(name="MARKET_DATA", subjects=["market.>"])
    merged = heapq.merge(*(events(data_dir, schema) for schema in schemas), key=lambda one: one[0])
    began, used_s = time.perf_counter(), time.process_time()
    send = _awaited if awaited else _windowed
    messages = ((subject, event) for _, subject, event in merged)
    count = await send(context, islice(messages, limit))
    elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - used_s
    await client.close()
    return {"published": count, "elapsed_s": elapsed_s, "cpu_s": cpu_s}


async def _awaited(context: JetStreamContext, merged: Iterator[tuple[str, dict[str, Any]]]) -> int:
    count = 0
    for subject, event in merged:
        await context.publish(subject, orjson.dumps(event))
        count += 1
    return count


async def _windowed(context: JetStreamContext, merged: Iterator[tuple[str, dict[str, Any]]]) -> int:
    count = 0
    for subject, event in merged:
        await context.publish_async(subject, orjson.dumps(event), wait_stall=30)
        count += 1
    await context.publish_async_completed()
    return count


def _price(price_e9: int) -> float | None:
    return None if price_e9 == UNDEF_PRICE else price_e9 / PRICE_SCALE


def _envelope(row: dict[str, Any], symbol: str) -> dict[str, Any]:
    return {
        "ts_event_ns": row["ts_event_ns"],
        "ts_recv_ns": row["ts_recv_ns"],
        "source": "replay",
        "symbol": symbol,
    }


def _trade(row: dict[str, Any], symbol: str) -> dict[str, Any]:
    return {
        **_envelope(row, symbol),
        "price": _price(row["price_e9"]),
        "size": row["size"],
        "aggressor": {66: 1, 65: -1}.get(row["side"], 0),
        "exchange": "CME",
        "conditions": None,
        "seq": row["sequence"],
    }


def _depth(row: dict[str, Any], symbol: str) -> dict[str, Any]:
    return {
        **_envelope(row, symbol),
        "levels": [
            {
                "bid_px": _price(level[0]),
                "bid_sz": level[2],
                "ask_px": _price(level[1]),
                "ask_sz": level[3],
            }
            for level in row["levels"].tolist()
        ],
        "is_snapshot": bool(row["flags"] & FLAG_SNAPSHOT),
        "seq": row["sequence"],
        "action": chr(row["action"]),
        "side": chr(row["side"]),
        "action_price": _price(row["price_e9"]),
        "action_size": row["size"],
    }


def main() -> None:
    """Run one pipeline as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m ingestor.bench.plain", description=__doc__)
    parser.add_argument("--nats", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--schemas", default="trades,mbp-10")
    parser.add_argument("--limit", type=int, required=True, help="stop after this many events")
    parser.add_argument("--awaited", action="store_true", help="await every publish")
    given = parser.parse_args()
    schemas = [DbnSchema(name) for name in given.schemas.split(",")]
    work = publish(given.nats, given.data_dir, schemas, limit=given.limit, awaited=given.awaited)
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
