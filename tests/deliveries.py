"""Files as Databento delivers them: headers with a span, symbols and a dataset; and their rows."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from databento_dbn import Metadata, Schema, SType

from ingestor.model.records import Records
from ingestor.model.units import NS_PER_S
from tests.dbn_files import DAY, DAY_NS, INSTRUMENT, compressed, trades

ONE: Final = dt.timedelta(days=1)
DAY_LONG_NS: Final = 86_400 * NS_PER_S
HOUR_NS: Final = 3_600 * NS_PER_S
_RAW: Any = SType.RAW_SYMBOL
_ID: Any = SType.INSTRUMENT_ID
_SCHEMAS: dict[str, Any] = {
    "trades": Schema.TRADES,
    "mbp-10": Schema.MBP_10,
    "ohlcv-1m": Schema.OHLCV_1M,
}

Row = tuple[int, int, int, bool]
"""ts_event, ts_recv, sequence, and whether it is depth, which comes after trades where all tie."""


def deliver(
    path: Path,
    records: Records,
    schema: str,
    *,
    days: tuple[dt.date, dt.date] = (DAY, DAY),
    symbols: dict[str, int] | None = None,
    dataset: str = "GLBX.MDP3",
) -> Path:
    """Write a file with a header as a download has it: its span, its symbols, its dataset."""
    first, end = days[0], days[1] + ONE
    symbols = {"ES.c.0": INSTRUMENT} if symbols is None else symbols
    mappings: Any = [
        SimpleNamespace(
            raw_symbol=symbol,
            intervals=[SimpleNamespace(start_date=first, end_date=end, symbol=str(number))],
        )
        for symbol, number in symbols.items()
    ]
    header = Metadata(
        dataset=dataset,
        start=DAY_NS + (first - DAY).days * DAY_LONG_NS,
        end=DAY_NS + (end - DAY).days * DAY_LONG_NS,
        stype_in=_RAW,
        stype_out=_ID,
        schema=_SCHEMAS[schema],
        symbols=list(symbols),
        mappings=mappings,
        version=3,
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    body = records.tobytes()
    path.write_bytes(compressed(header, body) if path.suffix == ".zst" else header + body)
    return path


def job(folder: Path) -> Path:
    """Put beside a job's files what the vendor puts there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("manifest", "metadata", "condition", "symbology"):
        (folder / f"{name}.json").write_text('{"result": {}}' if name == "symbology" else "{}")
    return folder


def at(records: Records, *, instrument: int = INSTRUMENT, sequence: int = 6_000) -> Records:
    """Give records another instrument and sequence, so that each row is told from all others."""
    records["instrument_id"] = instrument
    records["sequence"] = sequence + np.arange(len(records))
    return records


def rows(records: Records) -> list[Row]:
    is_depth = records.itemsize > 48
    columns = (records[name].tolist() for name in ("ts_event_ns", "ts_recv_ns", "sequence"))
    return [(*one, is_depth) for one in zip(*columns, strict=True)]


def merged(*files: Records) -> list[Row]:
    """The contract's order, for files that never step back in time."""
    return sorted(row for records in files for row in rows(records))


def hourly(count: int, day: int = 0, sequence: int = 6_000) -> Records:
    """Return trades an hour apart, from midnight of a day on."""
    start_ns = DAY_NS + day * DAY_LONG_NS
    return at(trades(count, start_ns=start_ns, step_ns=HOUR_NS), sequence=sequence)


def by_symbol(folder: Path, count: int, size: int) -> list[Records]:
    """Write a delivery of one day that is split by symbol, and return what each file holds."""
    found = []
    for number in range(count):
        records = at(
            trades(size, start_ns=DAY_NS + number * 1_000, step_ns=NS_PER_S + 977 * number),
            instrument=100 + number,
            sequence=number * size,
        )
        symbol = f"S{number:03d}"
        path = folder / f"glbx-mdp3-20240102.trades.{symbol}.dbn.zst"
        deliver(path, records, "trades", symbols={symbol: 100 + number})
        found.append(records)
    return found
