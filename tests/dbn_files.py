"""DBN files for tests: headers by `databento_dbn`, records as plain bytes, zstd as asked for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import zstandard
from databento_dbn import Metadata, Schema, SType

from ingestor.model.records import FUTURES_TRADE, MBP10, Records, RType
from ingestor.model.units import NS_PER_S, UNDEF_PRICE

INSTRUMENT: Final = 17077
DAY: Final = dt.date(2024, 1, 2)
DAY_NS: Final = 1_704_153_600 * NS_PER_S
"""Midnight UTC of `DAY`."""

ES: Final = {"ES.c.0": [(DAY, DAY + dt.timedelta(days=1), str(INSTRUMENT))]}
"""A mapping as a download of one day has it: symbol to (first date, end date, instrument id)."""

VENDOR_FILES: Final = sorted(
    (Path(__file__).resolve().parents[2] / "shared" / "data" / "dbn-vendor").glob("*.dbn.zst")
)
"""Genuine files of all versions, which are not in the project: none where they are not there."""

Mappings = Mapping[str, Sequence[tuple[dt.date, dt.date, str]]]

_SCHEMAS: Final[Mapping[str | None, Any]] = {
    None: None,
    "trades": Schema.TRADES,
    "mbp-10": Schema.MBP_10,
}
_FOLDERS: Final = {"trades": "trades", "mbp-10": "MBP-10"}


@dataclass(frozen=True)
class Symbology:
    """What the header says about symbols; by default continuous symbols to instrument ids."""

    mappings: Mappings
    stype_in: Any = SType.CONTINUOUS
    stype_out: Any = SType.INSTRUMENT_ID


def trades(count: int, *, start_ns: int = DAY_NS, step_ns: int = NS_PER_S) -> Records:
    """Return sensible trades of one instrument, rising in time, all different."""
    records: Records = np.zeros(count, FUTURES_TRADE)
    _fill_head(records, RType.FUTURES_TRADE, start_ns, step_ns)
    records["action"] = ord("T")
    records["side"] = np.frombuffer(b"ABN", np.uint8)[np.arange(count) % 3]
    return records


def depth(count: int, *, start_ns: int = DAY_NS, step_ns: int = NS_PER_S) -> Records:
    """Return sensible depth records of one instrument, rising in time, all different."""
    records: Records = np.zeros(count, MBP10)
    _fill_head(records, RType.MBP10, start_ns, step_ns)
    records["action"] = ord("A")
    records["side"] = ord("B")
    level = np.arange(10, dtype=np.int64) * 250_000_000
    records["levels"]["bid_px_e9"] = records["price_e9"][:, None] - level
    records["levels"]["ask_px_e9"] = records["price_e9"][:, None] + 250_000_000 + level
    records["levels"]["bid_sz"] = np.arange(count)[:, None] + 1
    records["levels"]["ask_sz"] = 7
    records["levels"]["ask_px_e9"][:, 9] = UNDEF_PRICE
    return records


def records_of(schema: str, count: int) -> Records:
    """Return `trades` or `depth`."""
    return trades(count) if schema == "trades" else depth(count)


def dbn_path(data_dir: Path, schema: str, date: dt.date = DAY, *, zstd: bool = True) -> Path:
    """Return where the file of a day belongs, and make its folder."""
    folder = data_dir / _FOLDERS[schema]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"glbx-mdp3-{date:%Y%m%d}.{schema}.dbn{'.zst' if zstd else ''}"


def write_dbn(
    path: Path,
    records: Records | bytes,
    *,
    schema: str | None,
    version: int = 3,
    mappings: Mappings | Symbology = ES,
    zstd: bool = True,
    frames: int = 2,
    ts_out: bool = False,
    symbols: Iterable[str] | None = None,
    end_ns: int | None = None,
) -> Path:
    """Write a DBN file and return its path.

    Args:
        path: Where to; the name is taken as it is.
        records: An array of records, or the bytes of records of any types.
        schema: As in the header; None as in a live capture.
        version: DBN version of the header, 1 to 3.
        mappings: Symbol mappings of the header, of `Symbology` for other types of symbols.
        zstd: Whether to compress.
        frames: Number of zstd frames; 1 for all in one, otherwise the header has its own.
        ts_out: Whether to append a send time to each record (which must be an array).
        symbols: List of symbols of the header, if it is not that of the mappings.
        end_ns: End of the header, which begins with `DAY`; None leaves it open.
    """
    header = header_bytes(
        schema, version=version, mappings=mappings, ts_out=ts_out, symbols=symbols, end_ns=end_ns
    )
    if isinstance(records, bytes):
        body = records
    else:
        body = (with_ts_out(records) if ts_out else records).tobytes()
    path.write_bytes(compressed(header, body, frames) if zstd else header + body)
    return path


def write_small_day(folder: Path) -> Path:
    """Write half a minute, 300 trades and 900 depth records, as a data folder; return it."""
    write_dbn(dbn_path(folder, "trades"), trades(300, step_ns=10**8), schema="trades")
    write_dbn(dbn_path(folder, "mbp-10"), depth(900, step_ns=10**8 // 3), schema="mbp-10")
    return folder


def header_bytes(
    schema: str | None,
    *,
    version: int = 3,
    mappings: Mappings | Symbology = ES,
    ts_out: bool = False,
    symbols: Iterable[str] | None = None,
    end_ns: int | None = None,
) -> bytes:
    """Return an encoded metadata header; its list of symbols is that of the mappings by default."""
    symbology = mappings if isinstance(mappings, Symbology) else Symbology(mappings)
    entries: Any = [
        SimpleNamespace(
            raw_symbol=symbol,
            intervals=[
                SimpleNamespace(start_date=first, end_date=end, symbol=text)
                for first, end, text in intervals
            ],
        )
        for symbol, intervals in symbology.mappings.items()
    ]
    metadata = Metadata(
        dataset="GLBX.MDP3",
        start=DAY_NS,
        end=end_ns,
        stype_in=symbology.stype_in,
        stype_out=symbology.stype_out,
        schema=_SCHEMAS[schema],
        symbols=list(symbology.mappings if symbols is None else symbols),
        mappings=entries,
        ts_out=ts_out,
        version=version,
    )
    return metadata.encode()


def with_ts_out(records: Records) -> Records:
    """Return the records with a send time (``ts_out``) behind each, as in a live capture."""
    base = records.dtype
    longer: Records = np.zeros(len(records), [("record", base), ("ts_out", "<u8")])
    longer["record"] = records
    longer["record"]["length"] = longer.dtype.itemsize // 4
    longer["ts_out"] = records["ts_recv_ns"] + np.uint64(1_000)
    return longer


def compressed(header: bytes, body: bytes, frames: int = 2) -> bytes:
    """Return header and body as so many zstd frames; 1 for all in one, else the header alone."""
    if frames == 1:
        return zstandard.compress(header + body)
    edges = [len(body) * part // (frames - 1) for part in range(frames)]
    parts = [body[start:stop] for start, stop in pairwise(edges)]
    return b"".join(zstandard.compress(part) for part in [header, *parts])


def other_record(rtype: int, size: int) -> bytes:
    """Return a record of another type: its head, and something behind it."""
    head = bytes([size // 4, rtype]) + (1).to_bytes(2, "little")
    return (head + INSTRUMENT.to_bytes(4, "little")).ljust(size, b"\x5a")


def control_record(rtype: int, *parts: bytes, instrument: int = 0) -> bytes:
    """Return a record of a gateway: a head, and the parts of its body."""
    body = b"".join(parts)
    head = bytes([(16 + len(body)) // 4, rtype]) + bytes(2) + instrument.to_bytes(4, "little")
    return head + DAY_NS.to_bytes(8, "little") + body


def mapping_record(
    instrument: int, out: str, given: str = "", *, version: int = 3, ts_out: bool = False
) -> bytes:
    """Return a symbol mapping record as a live capture has it."""
    width = 22 if version == 1 else 71
    names = [text.encode().ljust(width, b"\0") for text in (given, out)]
    body = [*names, bytes(4)] if version == 1 else [b"\x03", names[0], b"\x01", names[1]]
    return control_record(0x16, *body, bytes(16 + 8 * ts_out), instrument=instrument)


def text_record(rtype: int, text: str, *, version: int = 3) -> bytes:
    """Return an error (0x15) or a system message (0x17) as a live capture has it."""
    width = 64 if version == 1 else 302
    tail = b"" if version == 1 else b"\xff\x01" if rtype == 0x15 else b"\0\xff"
    return control_record(rtype, text.encode().ljust(width, b"\0"), tail)


def _fill_head(records: Records, rtype: RType, start_ns: int, step_ns: int) -> None:
    place = np.arange(len(records), dtype=np.int64)
    records["length"] = records.dtype.itemsize // 4
    records["rtype"] = rtype
    records["publisher_id"] = 1
    records["instrument_id"] = INSTRUMENT
    records["ts_event_ns"] = start_ns + place * step_ns
    records["ts_recv_ns"] = records["ts_event_ns"] + np.uint64(105_900)
    records["price_e9"] = 4_800_250_000_000 + place * 250_000_000
    records["size"] = place % 50 + 1
    records["sequence"] = 6_000 + place
    records["flags"] = 128
