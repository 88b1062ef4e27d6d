"""The vendor's own files, published both ways and read back, against the vendor's own decoder."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from databento_dbn import (
    DBNDecoder,
    MBP10Msg,
    Metadata,
    SymbolMappingMsg,
    SymbolMappingMsgV1,
    TradeMsg,
    VersionUpgradePolicy,
)

from ingestor.client import Message, decode
from ingestor.encode import make_encoder
from ingestor.feeds.databento import DBNIngestor, DbnSchema
from ingestor.model.blocks import Block, Reply, whole_block
from ingestor.model.events import AGGRESSOR_OF_SIDE, Aggressor
from ingestor.model.symbols import PUBLISHER_EXCHANGE
from ingestor.model.units import UNDEF_PRICE
from tests.dbn_files import DAY, VENDOR_FILES, dbn_path
from tests.encode.test_packed import messages

READ_OR_HEARD = {f"rtype 0x{rtype:02X}" for rtype in (0x00, 0x0A, 0x15, 0x16, 0x17)}
"""Trades and depth, and what a gateway says; a live capture has other records as well."""

REPLY = Reply(b"r.", b"")
EPOCH = dt.date(1970, 1, 1)
CASES = [
    (path, schema)
    for path in VENDOR_FILES
    for schema in DbnSchema
    if path.name.startswith((f"{schema}.", "live."))
]

pytestmark = pytest.mark.skipif(not VENDOR_FILES, reason="the vendor's files are not there")


def vendor_decoded(path: Path) -> tuple[Any, list[Any]]:
    with path.open("rb") as file:
        content = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    as_is: Any = VersionUpgradePolicy.AS_IS
    decoder = DBNDecoder(upgrade_policy=as_is)
    decoder.write(content)
    metadata, *records = decoder.decode()
    assert isinstance(metadata, Metadata)
    return metadata, records


def price(value: int) -> float | None:
    return None if value == UNDEF_PRICE else value / 1e9


def letter(value: Any) -> str:
    return str(getattr(value, "value", value))


def envelope(record: Any, symbol: str) -> dict[str, Any]:
    return {
        "ts_event_ns": record.ts_event,
        "ts_recv_ns": record.ts_recv,
        "source": "replay",
        "symbol": symbol,
        "seq": record.sequence,
    }


def expected_trade(record: Any, symbol: str) -> dict[str, Any]:
    return envelope(record, symbol) | {
        "price": price(record.price),
        "size": record.size,
        "aggressor": AGGRESSOR_OF_SIDE.get(ord(letter(record.side)), Aggressor.MID),
        "exchange": PUBLISHER_EXCHANGE[record.publisher_id],
        "conditions": None,
    }


def expected_book(record: Any, symbol: str) -> dict[str, Any]:
    levels = tuple(
        (
            price(level.bid_px),
            0 if level.bid_px == UNDEF_PRICE else level.bid_sz,
            price(level.ask_px),
            0 if level.ask_px == UNDEF_PRICE else level.ask_sz,
        )
        for level in record.levels
    )
    return envelope(record, symbol) | {
        "levels": levels,
        "is_snapshot": bool(int(record.flags) & 32),
        "action": letter(record.action),
        "side": letter(record.side),
        "action_price": price(record.price),
        "action_size": record.size,
    }


def expected_events(path: Path, schema: DbnSchema) -> Iterator[dict[str, Any]]:
    """What the vendor's records say, with the symbols that its metadata and mappings give."""
    metadata, records = vendor_decoded(path)
    kind = TradeMsg if schema == DbnSchema.TRADES else MBP10Msg
    said: dict[int, str] = {}
    for record in records:
        if isinstance(record, SymbolMappingMsg | SymbolMappingMsgV1):
            said[record.instrument_id] = record.stype_out_symbol
        if not isinstance(record, kind):
            continue
        date = EPOCH + dt.timedelta(days=record.ts_recv // (86_400 * 10**9))
        in_metadata = [
            name
            for name, spans in metadata.mappings.items()
            for span in spans
            if span["start_date"] <= date < span["end_date"]
            and span["symbol"] == str(record.instrument_id)
        ]
        symbol = (in_metadata or [said.get(record.instrument_id, str(record.instrument_id))])[0]
        expected = expected_trade if schema == DbnSchema.TRADES else expected_book
        yield expected(record, symbol)


def fields(event: Any) -> dict[str, Any]:
    found = {name: getattr(event, name) for name in event.__struct_fields__}
    if "levels" in found:
        found["levels"] = tuple(
            (level.bid_px, level.bid_sz, level.ask_px, level.ask_sz) for level in event.levels
        )
    return found


@pytest.mark.parametrize("encoding", ["json", "packed"])
@pytest.mark.parametrize(("path", "schema"), CASES, ids=lambda value: getattr(value, "name", value))
def test_what_is_published_is_what_the_vendors_decoder_reads(
    tmp_path: Path, path: Path, schema: DbnSchema, encoding: str
) -> None:
    shutil.copy(path, dbn_path(tmp_path, schema, DAY))
    ingestor = DBNIngestor(data_dir=tmp_path, schema=schema)
    encoder = make_encoder(encoding)
    published: list[dict[str, Any]] = []
    for block in ingestor.blocks():
        if len(block.records):
            kept = Block(0, block.records.copy(), block.symbols, block.source)
            runs = whole_block(kept)
            for subject, _, payload in messages(encoder.encode(runs, REPLY, 1, len(runs))):
                published += map(fields, decode(Message(subject, 1, payload)))
    assert published == list(expected_events(path, schema))
    assert published or "live" in path.name
    assert not READ_OR_HEARD & ingestor.progress.skipped.keys()
