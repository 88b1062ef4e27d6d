"""Where in a file a time is, and that what is read from there is what a whole reading gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.feeds.databento.record_reader import SLACK_NS, place_before
from tests.dbn_files import dbn_path, depth, write_dbn

STEP_NS = 10**9


@pytest.mark.parametrize("at", [0, 1, 59, 60, 61, 1_000, 4_999, 5_000, 9_000])
def test_no_event_at_or_after_a_time_is_before_its_place(at: int) -> None:
    times = np.arange(5_000) * STEP_NS
    looks = 0

    def recv_ns(place: int) -> int:
        nonlocal looks
        looks += 1
        return int(times[place])

    place = place_before(recv_ns, len(times), at * STEP_NS)
    assert place == np.searchsorted(times, at * STEP_NS - SLACK_NS)
    assert looks < 100


@pytest.mark.parametrize("broken", [None, 0])
def test_a_file_that_is_not_in_order_is_read_whole(broken: int | None) -> None:
    assert place_before(lambda at: broken if at > 2_000 else at + 1, 5_000, 10**15) == 0
    assert place_before(lambda _: 0, 0, 10**15) == 0


@pytest.mark.parametrize("ts_out", [False, True])
@pytest.mark.parametrize("zstd", [False, True])
def test_a_seek_reads_what_a_start_there_reads(tmp_path: Path, *, zstd: bool, ts_out: bool) -> None:
    records = depth(2_000, step_ns=STEP_NS)
    # The snapshot at the front is older, and some step back.
    records["ts_event_ns"][:5] -= 7_200 * STEP_NS
    records["ts_event_ns"][1_000::50] -= 30 * STEP_NS
    write_dbn(dbn_path(tmp_path, "mbp-10"), records, schema="mbp-10", zstd=zstd, ts_out=ts_out)
    for row in (0, 3, 700, 1_001, 1_050, 1_999):
        at_ns = int(records["ts_event_ns"][row])
        fresh = DBNIngestor(data_dir=tmp_path, schema=DbnSchema.MBP10, start_ns=at_ns)
        sought = DBNIngestor(data_dir=tmp_path, schema=DbnSchema.MBP10)
        sought.start_at(at_ns)
        expected, found = (
            b"".join(block.records.tobytes() for block in one.blocks()) for one in (fresh, sought)
        )
        assert found == expected
        assert expected
        assert sought.progress.filtered == fresh.progress.filtered
        assert sought.progress.bytes_read == fresh.progress.bytes_read
