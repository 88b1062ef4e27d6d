"""The files that other tests are built on, as the vendor's own decoder reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from databento_dbn import DBNDecoder, MBP10Msg, Metadata, TradeMsg

from tests.dbn_files import DAY_NS, depth, trades, write_dbn


def vendor_decoded(path: Path) -> list[object]:
    with path.open("rb") as file:
        content = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    decoder = DBNDecoder()
    decoder.write(content)
    return list(decoder.decode())


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("ts_out", [False, True])
def test_the_vendors_decoder_reads_what_the_helper_writes(
    tmp_path: Path, version: int, ts_out: bool
) -> None:
    path = write_dbn(
        tmp_path / "x.dbn.zst", trades(5), schema="trades", version=version, ts_out=ts_out, frames=4
    )
    metadata, *records = vendor_decoded(path)
    assert isinstance(metadata, Metadata)
    assert (metadata.ts_out, list(metadata.mappings)) == (ts_out, ["ES.c.0"])
    assert all(isinstance(record, TradeMsg) for record in records)
    assert [record.ts_event for record in records] == [  # type: ignore[attr-defined]
        DAY_NS + second * 10**9 for second in range(5)
    ]


def test_the_helpers_depth_records_are_depth_records(tmp_path: Path) -> None:
    path = write_dbn(tmp_path / "x.dbn.zst", depth(3), schema="mbp-10")
    _, first, *_ = vendor_decoded(path)
    assert isinstance(first, MBP10Msg)
    assert (first.levels[1].bid_px, first.levels[0].ask_px) == (
        4_800_000_000_000,
        4_800_500_000_000,
    )
