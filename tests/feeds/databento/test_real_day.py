"""A real ES day, every field against the vendor's own decoder; the data is not in the project."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import zstandard
from databento_dbn import DBNDecoder, Metadata

from ingestor.feeds.databento import DBNIngestor, DbnSchema, available_dates, find_files
from ingestor.model.blocks import Block

DATA = Path(__file__).parents[4] / "shared" / "data" / "dbn-data"
DAY = dt.date(2023, 12, 25)
COUNTS = {DbnSchema.TRADES: 2_973, DbnSchema.MBP10: 40_038}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the sample day is not in {DATA}")

FIELDS = {
    "rtype": "rtype",
    "publisher_id": "publisher_id",
    "instrument_id": "instrument_id",
    "ts_event_ns": "ts_event",
    "price_e9": "price",
    "size": "size",
    "action": "action",
    "side": "side",
    "flags": "flags",
    "depth": "depth",
    "ts_recv_ns": "ts_recv",
    "ts_in_delta_ns": "ts_in_delta",
    "sequence": "sequence",
}
LEVEL_FIELDS = {
    "bid_px_e9": "bid_px",
    "ask_px_e9": "ask_px",
    "bid_sz": "bid_sz",
    "ask_sz": "ask_sz",
    "bid_ct": "bid_ct",
    "ask_ct": "ask_ct",
}


def vendor_records(schema: DbnSchema) -> list[Any]:
    (file,) = find_files(DATA, schema, [DAY])
    with file.path.open("rb") as stream:
        content = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True).read()
    decoder = DBNDecoder()
    decoder.write(content)
    return [record for record in decoder.decode() if not isinstance(record, Metadata)]


def number(value: Any) -> int:
    """Of what the vendor's decoder gives for a field; actions and sides are characters there."""
    value = getattr(value, "value", value)
    return ord(value) if isinstance(value, str) else int(value)


def copied(block: Block) -> Block:
    return Block(block.feed, block.records.copy(), block.symbols, block.source)


@pytest.mark.parametrize("schema", list(DbnSchema))
def test_every_field_is_what_the_vendors_decoder_reads(schema: DbnSchema) -> None:
    assert DAY in available_dates(DATA, schema)
    ingestor = DBNIngestor(data_dir=DATA, schema=schema, dates=[DAY])
    blocks = [copied(block) for block in ingestor.blocks()]
    expected = vendor_records(schema)
    assert len(expected) == COUNTS[schema] == sum(len(block.records) for block in blocks)
    for ours, theirs in FIELDS.items():
        found = [value for block in blocks for value in block.records[ours].tolist()]
        assert found == [number(getattr(record, theirs)) for record in expected], ours
    assert {text for block in blocks for text in block.symbols.values()} == {"ES.c.0"}


def test_every_level_of_the_book_is_what_the_vendors_decoder_reads() -> None:
    ingestor = DBNIngestor(data_dir=DATA, schema=DbnSchema.MBP10, dates=[DAY])
    levels = [record["levels"].copy() for b in ingestor.blocks() for record in b.records]
    expected = vendor_records(DbnSchema.MBP10)
    for ours, theirs in LEVEL_FIELDS.items():
        found = [row[ours].tolist() for row in levels]
        assert found == [[getattr(level, theirs) for level in r.levels] for r in expected], ours


def test_nothing_in_the_day_is_odd(caplog: pytest.LogCaptureFixture) -> None:
    for schema in DbnSchema:
        ingestor = DBNIngestor(data_dir=DATA, schema=schema, dates=[DAY])
        assert sum(len(block.records) for block in ingestor.blocks()) == COUNTS[schema]
        progress = ingestor.progress
        assert (progress.late, progress.skipped, progress.filtered) == (0, {}, 0)
    assert not caplog.messages
