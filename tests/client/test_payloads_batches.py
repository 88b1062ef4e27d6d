from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from ingestor.client.payloads import BadMessageError, Batch, Cause, UnknownSubjectError, batches_of
from ingestor.encode.reference import payloads
from ingestor.model.blocks import Block, Runs, Source, whole_block
from ingestor.model.errors import BadDataError, ConfigurationError
from ingestor.model.units import UNDEF_PRICE
from ingestor.nats.answers import Frame
from tests import strategies
from tests.client.streams import (
    DEPTH,
    FIRST_NS,
    TRADES,
    Published,
    as_json,
    as_packed,
    depth,
    in_turns,
    packed,
    trades,
)
from tests.encode import examples
from tests.encode.examples import block_of


def batches(messages: list[Published], first_seq: int = 1) -> list[Batch]:
    found, bad = batches_of(frames(messages), range(first_seq, first_seq + len(messages)))
    assert not bad
    return found


def bad_one(*messages: Published) -> BadMessageError:
    """What is wrong with the one of these messages that is bad."""
    found, (bad,) = batches_of(frames([*messages]), range(1, len(messages) + 1))
    assert sum(map(len, found)) == sum(len(batch) for batch in batches(list(messages[:1])))
    return bad


def frames(messages: list[Published]) -> list[Frame]:
    return [(subject.encode(), b"", payload) for subject, payload in messages]


def in_stream_order(found: list[Batch]) -> list[Published]:
    """The JSON of all rows, put back into stream order."""
    rows = [
        (int(seq), payload)
        for batch in found
        for seq, payload in zip(
            batch.seqs,
            payloads(whole_block(Block(0, batch.records, batch.symbols, batch.source))),
            strict=True,
        )
    ]
    return [payload for _, payload in sorted(rows, key=lambda row: row[0])]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(strategies.sound_runs())
def test_json_and_packed_give_the_same_rows_in_the_same_order(runs: Runs) -> None:
    expected = list(payloads(runs))
    assert in_stream_order(batches(expected)) == expected
    try:
        messages = as_packed(runs)
    except BadDataError:
        return  # a symbol that no packed table holds
    assert in_stream_order(batches(messages)) == expected


def test_what_arrived_together_is_one_batch_per_type() -> None:
    runs = in_turns(block_of(trades(100)), block_of(depth(100)))
    for messages in (as_packed(runs), list(payloads(runs))):
        first, second = batches(messages, first_seq=11)
        assert (first.event_type.subject, second.event_type.subject) == (TRADES, DEPTH)
        assert first.seqs.tolist() == list(range(11, 211, 2))
        assert second.seqs.tolist() == list(range(12, 211, 2))
        assert (first.first_seq, first.last_seq, len(first)) == (11, 209, 100)
        assert first.seqs.dtype == np.int64


def test_sources_are_kept_apart() -> None:
    messages = as_json(trades(2), Source.REPLAY) + as_json(trades(3), Source.SIM)
    assert [(len(batch), batch.source) for batch in batches(messages)] == [
        (2, Source.REPLAY),
        (3, Source.SIM),
    ]


def test_all_rows_of_a_packed_message_have_its_sequence() -> None:
    (batch,) = batches(packed(trades(3)) + packed(trades(2)), first_seq=5)
    assert batch.seqs.tolist() == [5, 5, 5, 6, 6]
    assert batch.symbols == {17077: "ES.c.0"}


def test_packed_messages_with_other_symbols_are_not_joined() -> None:
    other = trades(1)
    other["instrument_id"] = 1
    assert [batch.symbols for batch in batches(packed(trades(1)) + packed(other))] == [
        {17077: "ES.c.0"},
        {1: "SPY"},
    ]


def test_a_packed_message_on_another_types_subject_is_bad() -> None:
    ((_, payload),) = packed(trades(1))
    assert "FuturesTrade" in bad_one(*packed(depth(1)), (DEPTH, payload)).reason


@pytest.mark.parametrize("lost", [1, 48, 60])
def test_a_packed_message_cut_short_is_bad_and_its_neighbours_are_not(lost: int) -> None:
    (subject, payload), *_ = packed(trades(2))
    good = (subject, payload)
    found, bad = batches_of(frames([good, (subject, payload[:-lost]), good]), [7, 8, 9])
    assert [batch.seqs.tolist() for batch in found] == [[7, 7, 9, 9]]
    assert [(error.seq, error.cause) for error in bad] == [(8, Cause.MALFORMED)]


def test_a_packed_message_with_a_bad_row_is_bad_and_its_neighbours_are_not() -> None:
    (good,) = packed(trades(2))
    messages = [good, (TRADES, good[1][:-47] + b"\x0a" + good[1][-46:]), good]
    found, bad = batches_of(frames(messages), [1, 2, 3])
    assert [batch.seqs.tolist() for batch in found] == [[1, 1, 3, 3]]
    assert [error.seq for error in bad] == [2]


def test_a_bad_message_is_named() -> None:
    good = as_json(trades(2))
    found = frames([*good, (TRADES, b'{"symbol":"ES"}'), *good, ("market.unknown", b"{}")])
    (batch,), (first, second) = batches_of(found, range(10, 16))
    assert batch.seqs.tolist() == [10, 11, 13, 14]
    assert (first.seq, first.subject, first.cause) == (12, TRADES, Cause.INVALID)
    assert "ts_event_ns" in str(first)
    assert isinstance(second, UnknownSubjectError)
    assert str(second).startswith("message 15 on market.unknown: no event type")


def test_an_unknown_source_is_bad() -> None:
    payload = examples.CONTRACT[3].payload.replace(b"replay", b"rumour")
    assert "rumour" in bad_one(*as_json(trades(1)), (TRADES, payload)).reason


def test_a_future_without_seq_is_an_event_but_no_record() -> None:
    payload = examples.CONTRACT[3].payload.replace(b'"seq":1', b'"seq":null')
    assert bad_one(*as_json(trades(1)), (TRADES, payload)).cause == Cause.NO_RECORD


def batch_of(messages: list[tuple[str, bytes]]) -> Batch:
    frames = [(subject.encode(), b"", payload) for subject, payload in messages]
    (batch,), bad = batches_of(frames, range(1, len(frames) + 1))
    assert not bad
    return batch


def contract(index: int) -> Batch:
    return batch_of([(examples.CONTRACT[index].subject, examples.CONTRACT[index].payload)])


def test_columns_name_symbols_and_mask_what_is_unknown() -> None:
    columns = batch_of(packed(trades(3)) + packed(trades(2, first=3))).columns()
    assert columns["symbol"].tolist() == ["ES.c.0"] * 5
    assert columns["stream_seq"].tolist() == [1, 1, 1, 2, 2]
    assert columns["ts_event_ns"].tolist() == [FIRST_NS + 1000 * n for n in range(5)]
    assert set(columns["side"].tolist()) == {"B"}
    book = contract(4).columns()
    assert book["bid_px_e9_00"].tolist() == [6_869_500_000_000]
    assert book["bid_px_e9_01"].tolist() == [None]
    option = contract(2).columns()
    assert option["opt_bid_e9"].tolist() == option["exchange"].tolist() == [None]
    assert option["symbol"].tolist() == ["O:SPY251216C00686000"]


def test_arrow_has_timestamps_nulls_and_exact_prices() -> None:
    pytest.importorskip("pyarrow")
    table = contract(4).to_arrow()
    (row,) = table.to_pylist()
    assert str(table.schema.field("ts_event_ns").type) == "timestamp[ns, tz=UTC]"
    assert (row["bid_px_e9_00"], row["bid_px_e9_01"]) == (6_869_500_000_000, None)
    assert (row["action"], row["source"], row["sequence"]) == ("A", "replay", 1)
    assert contract(0).to_arrow().to_pylist()[0]["conditions"] == [14, 41]


def test_pandas_keeps_integers_beside_nulls() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = depth(2)
    rows["levels"]["bid_px_e9"][0, 0] = UNDEF_PRICE
    rows["levels"]["bid_px_e9"][1, 0] = 2**62 + 1
    frame = batch_of(packed(rows)).to_pandas()
    assert frame["bid_px_e9_00"].isna().tolist() == [True, False]
    assert int(frame["bid_px_e9_00"][1]) == 2**62 + 1
    assert int(frame["ts_event_ns"].astype("int64[pyarrow]")[0]) == FIRST_NS


def test_polars_has_the_same_rows() -> None:
    pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = batch_of(packed(trades(3))).to_polars()
    assert frame["sequence"].to_list() == [0, 1, 2]
    assert frame["ts_event_ns"].dtype.time_unit == "ns"


@pytest.mark.parametrize("how", ["to_arrow", "to_pandas", "to_polars"])
def test_a_library_that_is_missing_is_a_clear_error(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    batch: Any = contract(3)
    with pytest.raises(ConfigurationError, match=r"pip install 'ingestor\[tables\]'"):
        getattr(batch, how)()


def test_no_rows_make_no_table_but_columns() -> None:
    batch = contract(3)
    empty = Batch(batch.event_type, batch.records[:0], {}, batch.source, np.zeros(0, np.int64))
    assert {len(values) for values in empty.columns().values()} == {0}
