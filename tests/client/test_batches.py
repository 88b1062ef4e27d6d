from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from ingestor.client.batches import Batch, batches_of
from ingestor.client.decode import BadMessageError, Cause, UnknownSubjectError
from ingestor.client.wire import Frame
from ingestor.encode.reference import payloads
from ingestor.model.blocks import Block, Runs, Source, whole_block
from ingestor.model.errors import BadDataError
from tests import strategies
from tests.client.streams import (
    DEPTH,
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
