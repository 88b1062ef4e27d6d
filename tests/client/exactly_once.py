"""A consumer that is exactly once: what an event led to and where to go on, in one transaction.

``python -m tests.client.exactly_once URL FILE`` reads all there is and goes on with what is new;
it may be killed at any moment and started again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from typing import Any

from ingestor.client import AtSequence, From, Start, connect


async def main(url: str, path: str) -> None:
    """Keep the vendor's sequence of every event, until killed."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = OFF")  # a kill is survived; a power cut need not be
    database.execute("CREATE TABLE IF NOT EXISTS events (number INTEGER)")
    database.execute("CREATE TABLE IF NOT EXISTS place (id INTEGER PRIMARY KEY, seq, row)")
    place = database.execute("SELECT seq, row FROM place").fetchone()
    start: Start = AtSequence(*place) if place else From.BEGINNING
    async with connect(url) as client:
        subscription = client.subscribe(start=start)
        events: Any = subscription.events()
        async for event in events:
            database.execute("BEGIN")
            database.execute("INSERT INTO events VALUES (?)", (event.seq,))
            position = subscription.position
            assert position is not None
            values = (position.seq, position.row)
            database.execute("INSERT OR REPLACE INTO place VALUES (1, ?, ?)", values)
            database.execute("COMMIT")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
