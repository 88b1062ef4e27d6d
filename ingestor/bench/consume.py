"""One consumer of the stream, as a process of its own: how fast does it read what is stored?

Run by the benchmark, which has a replay fill the stream before. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Final

import uvloop

from ingestor.client import EVERYTHING, connect

HOWS: Final = ("events", "batches")


async def consume(url: str, how: str) -> dict[str, float]:
    """Read the whole stream as typed events or as arrays; return rows, seconds, CPU seconds."""
    async with connect(url) as client:
        subscription = client.subscribe(EVERYTHING, follow=False)
        began, used_s = time.perf_counter(), time.process_time()
        rows = 0
        if how == "events":
            async for _ in subscription.events():
                rows += 1
        else:
            async for batch in subscription.batches():
                rows += len(batch.records)
        return {
            "published": rows,
            "elapsed_s": time.perf_counter() - began,
            "cpu_s": time.process_time() - used_s,
        }


def main() -> None:
    """Read once as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m ingestor.bench.consume", description=__doc__)
    parser.add_argument("--nats", required=True)
    parser.add_argument("--how", choices=HOWS, default="events")
    given = parser.parse_args()
    print(json.dumps(uvloop.run(consume(given.nats, given.how))))


if __name__ == "__main__":
    main()
