"""Small records for tests: only what the order of events depends on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ingestor.model.blocks import Block, Runs, Source
from ingestor.model.records import FUTURES_TRADE, Records

Key = tuple[int, int, int]


def rows(keys: Iterable[Key], *, first_size: int = 0) -> Records:
    """Futures trades with these (ts_event, ts_recv, sequence); sizes number them."""
    keys = list(keys)
    records = np.zeros(len(keys), FUTURES_TRADE)
    records["length"] = FUTURES_TRADE.itemsize // 4
    for index, (event, recv, sequence) in enumerate(keys):
        records[index]["ts_event_ns"] = event
        records[index]["ts_recv_ns"] = recv
        records[index]["sequence"] = sequence
        records[index]["size"] = first_size + index
    return records


def block(keys: Iterable[Key], *, feed: int = 0, first_size: int = 0) -> Block:
    return Block(feed, rows(keys, first_size=first_size), {0: "ES.c.0"}, Source.REPLAY)


def published(runs: Runs) -> list[tuple[int, int]]:
    """(feed, size) of every row in the order of the runs."""
    return [(piece.feed, int(size)) for piece, records in runs.pieces() for size in records["size"]]
