from __future__ import annotations

import json
from typing import Any

import pytest

from ingestor.model.blocks import Fence, Frames, Runs
from ingestor.nats.stream import StreamState
from ingestor.publish.batches import FLOW_MESSAGES, AckBatch, FastBatch
from ingestor.publish.ledger import (
    FENCE_EVERY,
    FENCE_EVERY_BYTES,
    MAX_FOREIGN_MESSAGES,
    MAX_UNACKED_BYTES,
    MAX_UNFENCED_BATCHES,
    MAX_WRITE_ROWS,
    Ledger,
    StoredPrefix,
)
from tests.publish.plain import TRADES, PlainEncoder, trades


def ledger(*, fast: bool = True, last_seq: int = 100, fenced: bool = False) -> Ledger:
    return Ledger("_INBOX.x", StreamState("S", last_seq, fast, "2026"), fenced=fenced)


def send(books: Ledger, *, pad: int = 0, limit: int = 10**9) -> Frames:
    """Encode and note what there is room for."""
    runs = books.next_runs()
    assert isinstance(runs, Runs)
    room = min(books.room(), limit)
    frames = PlainEncoder(pad=pad).encode(runs, books.batch.reply, books.batch.sent + 1, room)
    books.sent(frames)
    return frames


def answer(books: Ledger, tail: str, **values: Any) -> int:
    return books.receive(f"{books.batch.prefix}.{tail}", json.dumps(values).encode())


def batch_id(books: Ledger) -> str:
    return books.batch.prefix.rpartition(".")[2]


def prove(books: Ledger) -> None:
    """Have one row stored as a proof, at sequence 101."""
    books.add(trades(0, 1))
    send(books)
    answer(books, "500.fail.000000000001.2.$FI", seq=101, batch=batch_id(books), count=1)


def test_the_first_batch_proves_fast_ingest_and_the_next_uses_it() -> None:
    books = ledger()
    prove(books)
    assert (books.first_seq, books.floor_seq, books.mode) == (101, 101, "fast_ingest")
    books.add(trades(1, 5))
    assert books.room() == 1
    assert books.batch.reply.suffix == b".0.$FI"


@pytest.mark.parametrize(
    ("pad", "every"), [(100, FENCE_EVERY), (8000, 8), (FENCE_EVERY_BYTES + 1, 1)]
)
def test_a_fence_stands_where_the_stream_ends_and_spans_some_messages(pad: int, every: int) -> None:
    books = ledger(fenced=True)
    assert books.batch.fence == Fence(100, FENCE_EVERY)
    books.add(trades(0, 1))
    send(books, pad=pad)
    answer(books, "500.fail.000000000001.2.$FI", seq=101, batch=batch_id(books), count=1)
    books.add(trades(1, 5))
    assert books.room() == 1
    assert books.batch.fence == Fence(101, every)


def test_who_wants_no_fence_has_none() -> None:
    assert ledger().batch.fence is None


def test_others_who_write_put_off_the_next_fence_for_ever_more_batches() -> None:
    books = ledger(fenced=True)
    refused = {"code": 400, "err_code": 10071, "description": "wrong last sequence: 120"}
    books.add(trades(0, 1))
    end, waits = 100, []
    for _ in range(12):
        send(books)
        answer(books, "500.fail.000000000001.2.$FI", error=refused)
        end += 20
        books.note_stored(StoredPrefix(0, last_seq=end), 0)
        books.restart()
        assert not books.alone
        waits.append(0)
        while books.batch.fence is None:
            waits[-1] += 1
            send(books)
            end += 1
            answer(books, "500.fail.000000000001.2.$FI", seq=end, batch=batch_id(books), count=1)
            books.add(trades(0, 1))
            books.room()
        assert books.batch.fence.behind == end
    assert waits == [2**n for n in range(1, 11)] + [MAX_UNFENCED_BATCHES] * 2


def test_a_server_without_fast_ingest_gets_single_acknowledgements_from_then_on() -> None:
    books = ledger()
    books.add(trades(0, 3))
    send(books)
    answer(books, "500.fail.000000000001.2.$FI", seq=101)
    assert books.room() > 1
    assert isinstance(books.batch, AckBatch)
    assert (books.mode, books.first_seq) == ("ack_window", 101)


def test_a_stream_without_fast_ingest_is_not_tried() -> None:
    assert isinstance(ledger(fast=False).batch, AckBatch)


def test_disabled_fast_ingest_is_no_reason_to_end() -> None:
    books = ledger()
    books.add(trades(0, 2))
    send(books)
    disabled = {"code": 400, "err_code": 10205, "description": "batch publish is disabled"}
    answer(books, "500.fail.000000000001.2.$FI", error=disabled)
    assert books.batch.broken
    assert books.fatal is None
    books.restart()
    assert isinstance(books.batch, AckBatch)
    assert books.unstored_rows == 2


def test_a_full_stream_may_be_given_room() -> None:
    books = ledger()
    books.add(trades(0, 1))
    send(books)
    full = {"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"}
    answer(books, "500.fail.000000000001.2.$FI", error=full)
    assert books.fatal is None
    assert "maximum bytes exceeded" in str(books.full)


def test_a_message_that_is_too_large_is_a_reason_to_end() -> None:
    books = ledger()
    books.add(trades(0, 1))
    send(books)
    large = {"code": 400, "err_code": 10054, "description": "message size exceeds maximum"}
    answer(books, "500.fail.000000000001.2.$FI", error=large)
    assert "exceeds maximum" in str(books.fatal)


def test_answers_to_batches_of_the_past_are_ignored() -> None:
    books = ledger()
    prove(books)
    old = books.batch.prefix
    books.add(trades(1, 1))
    send(books)
    assert books.receive(f"{old}.x", b"not even an answer") == 0
    assert books.batch.prefix != old
    assert (books.batch.broken, books.window.messages) == (False, 1)


def test_nobody_listening_is_told_by_the_status() -> None:
    books = ledger(fast=False)
    books.add(trades(0, 1))
    send(books)
    books.receive(f"{books.batch.prefix}.000000000001", None)
    assert books.batch.broken
    assert books.fatal is None


def test_rows_taken_back_come_before_all_others() -> None:
    books = ledger(fast=False)
    books.add(trades(0, 4))
    books.add(trades(4, 2))
    send(books)
    answer(books, "000000000001", seq=101)
    books.note_stored(StoredPrefix(1, 102, 102), acked=1)
    books.restart()
    sizes = []
    while (runs := books.next_runs()) is not None:
        sizes += [int(size) for _, records in runs.pieces() for size in records["size"]]
        send(books)
    assert sizes == [2, 3, 4, 5]
    assert books.window.acked_rows == 2


def test_rows_taken_back_of_many_writes_keep_their_order() -> None:
    """Three writes under way, the first of them stored in part, and rows that were never sent."""
    books = ledger(fast=False)
    for first, count in ((0, 3), (3, 2), (5, 4), (9, 2)):
        books.add(trades(first, count))
    for _ in range(3):
        send(books)
    answer(books, "000000000001", seq=101)
    books.restart()
    sizes = []
    while (runs := books.next_runs()) is not None:
        sizes += [int(size) for _, records in runs.pieces() for size in records["size"]]
        send(books)
    assert sizes == list(range(1, 11))


def test_settling_tells_the_first_sequence_where_no_answer_did() -> None:
    books = ledger()
    books.add(trades(0, 1))
    send(books)
    assert books.note_stored(StoredPrefix(1, 130, 130), acked=0) == 1
    assert (books.first_seq, books.floor_seq) == (130, 130)


def test_answers_that_come_while_the_stream_is_asked_are_not_counted_twice() -> None:
    books = ledger(fast=False)
    books.add(trades(0, 4))
    send(books)
    answer(books, "000000000001", seq=101)
    answer(books, "000000000002", seq=102)
    assert books.note_stored(StoredPrefix(3, 101, 103), acked=0) == 1
    assert books.window.acked_rows == 3
    assert books.note_stored(StoredPrefix(2, 101, 102), acked=0) == 0
    assert books.floor_seq == 103


def test_the_floor_rises_with_acknowledgements_of_either_kind() -> None:
    books = ledger()
    prove(books)
    books.add(trades(1, 60))
    send(books)
    send(books)
    answer(books, "500.fail.000000000009.1.$FI", type="ack", seq=50, msgs=50)
    assert books.floor_seq == 151
    answer(books, "500.fail.000000000061.3.$FI", seq=161, batch=batch_id(books), count=60)
    assert books.floor_seq == 161


def test_the_leader_is_asked_when_a_sequence_first_says_that_others_write() -> None:
    books = ledger(last_seq=100)
    books.add(trades(0, 1))
    send(books)
    tail, last = "500.fail.000000000001.2.$FI", 10**12
    assert answer(books, tail, seq=last, batch=batch_id(books), count=1) == 0
    assert (books.batch.broken, books.floor_seq) == (False, 100)
    assert books.note_stored(StoredPrefix(1, last_seq=190), acked=0) == 1
    books.restart()
    books.add(trades(1, 2))
    for seq, number in ((300, 1), (301 + MAX_FOREIGN_MESSAGES + 1, 2)):
        while not books.batch.sent:
            books.batch.closing = True
            send(books, limit=1)
        answer(books, tail, seq=seq, batch=batch_id(books), count=1)
        assert (books.batch.ended, books.floor_seq) == (number == 1, 300)
        books.room()


def test_a_commit_whose_answer_is_lost_is_followed_by_another_batch_once_all_is_known() -> None:
    books = ledger(last_seq=100)
    books.add(trades(0, 2))
    send(books)
    assert books.room() == 0
    assert books.note_stored(StoredPrefix(1, 101, 101, 101), acked=0) == 1
    assert books.room() > 0
    assert not books.batch.sent


@pytest.mark.parametrize("fast", [True, False])
def test_sequences_that_fall_back_are_not_believed_but_asked_about(fast: bool) -> None:
    books = ledger(fast=fast, last_seq=100)
    books.add(trades(0, 1))
    send(books)
    tail = "500.fail.000000000001.2.$FI" if fast else "000000000001"
    assert answer(books, tail, seq=1, batch=batch_id(books) if fast else "", count=1) == 0
    assert (books.batch.broken, books.batch.ended, books.window.messages) == (True, False, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b'"ack"',
        b'{"type":"ack","seq":"1"}',
        b'{"type":"ack","seq":-1}',
        b'{"type":"ack","seq":9,"msgs":1}',
        b'{"type":"ack","seq":1e400}',
        b'{"type":"ack","seq":' + b"9" * 5_000 + b"}",
        b'{"seq":9223372036854775807,"batch":"","count":0}',
        b'{"seq":101,"batch":"another","count":1}',
        b'{"seq":101,"batch":"' + b"x" * 20_000 + b'","count":1}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_makes_no_sense_is_counted_and_acknowledges_nothing(data: bytes) -> None:
    books = ledger()
    prove(books)
    books.add(trades(1, 5))
    assert books.room() == 1
    send(books)
    assert books.receive(f"{books.batch.prefix}.7.fail.000000000001.1.$FI", data) == 0
    assert books.odd_answers == 1
    assert not books.batch.broken


@pytest.mark.parametrize("tail", ["", "x", "000000000000", "000000000009", "1" * 5_000, "\u0661"])
def test_answers_to_messages_never_sent_are_counted_and_acknowledge_nothing(tail: str) -> None:
    books = ledger(fast=False)
    books.add(trades(0, 5))
    send(books)
    assert answer(books, tail, seq=101) == 0
    assert (books.odd_answers, books.batch.broken) == (1, False)


def test_an_idle_batch_whose_end_is_known_is_left_to_expire() -> None:
    books = ledger()
    prove(books)
    books.add(trades(1, 2))
    books.room()
    send(books, limit=1)
    first = books.batch
    answer(books, "500.fail.000000000001.1.$FI", type="ack", seq=1, msgs=1)
    books.leave_batch()
    assert not first.ended  # others may write: its last sequence is not known
    books.note_stored(StoredPrefix(0, None, 140), acked=1)
    books.leave_batch()
    assert books.room() == 1
    assert books.batch is not first
    assert books.reconcile_request().anchor == 140


def test_a_stream_that_was_lost_is_counted_anew() -> None:
    books = ledger()
    prove(books)
    books.add(trades(1, 3))
    books.room()
    send(books)
    books.go_on_in(StreamState("S", 0, fast_ingest=True, identity="later"), 1)
    request = books.reconcile_request()
    assert (request.anchor, request.acked, request.identity) == (0, 0, "later")
    assert (books.lost_messages, books.batch.broken) == (1, True)
    books.restart()
    assert books.unstored_rows == 3


def test_bytes_under_way_are_bounded() -> None:
    books = ledger(fast=False)
    books.add(trades(0, 200_000))
    largest = 0
    while books.room():
        largest = max(largest, len(send(books, pad=10_000).data))
        books.batch.acked = books.batch.sent  # whatever the batch allows
    assert MAX_UNACKED_BYTES <= books.window.size_bytes < MAX_UNACKED_BYTES + largest


def test_rows_written_at_a_time_are_bounded() -> None:
    books = ledger(fast=False)
    books.add(trades(0, 3 * MAX_WRITE_ROWS + 1))
    written = []
    while books.next_runs() is not None:
        written.append(send(books).messages)
        books.batch.acked = books.batch.sent
    assert written == [MAX_WRITE_ROWS] * 3 + [1]


def test_a_message_larger_than_all_bounds_still_goes_alone() -> None:
    books = ledger(fast=False)
    books.add(trades(0, 3))
    send(books, pad=MAX_UNACKED_BYTES + 1, limit=1)
    assert books.room() == 0
    answer(books, "000000000001", seq=101)
    assert books.room() > 0


@pytest.mark.parametrize(("pad", "flow"), [(100, FLOW_MESSAGES), (100_000, 41)])
def test_large_messages_are_acknowledged_more_often(pad: int, flow: int) -> None:
    books = ledger()
    books.add(trades(0, 2))
    send(books, pad=pad)
    answer(books, "500.fail.000000000001.2.$FI", seq=101, batch=batch_id(books), count=1)
    assert books.room() == 1
    assert isinstance(books.batch, FastBatch)
    assert books.batch.reply.prefix.endswith(f".{flow}.fail.".encode())


def test_an_acknowledgement_is_coming_once_as_much_is_under_way_as_a_batch_has_between_two() -> (
    None
):
    books = ledger()
    prove(books)
    books.pace(7)
    assert books.room() == 1
    books.add(trades(1, 20))
    send(books)
    assert not books.ack_is_coming
    send(books)
    assert books.ack_is_coming


def test_the_pace_decides_how_often_the_next_batch_is_acknowledged() -> None:
    books = ledger()
    prove(books)
    assert not books.pace(7)
    assert books.room() == 1
    assert books.batch.reply.prefix.endswith(b".7.fail.")
    assert not books.pace(13)
    assert books.pace(14)
    assert not books.pace(0)


def test_a_window_of_single_acknowledgements_has_no_pace() -> None:
    assert not ledger(fast=False).pace(10_000)


def test_only_stored_rows_are_reported() -> None:
    books = ledger(fast=False)
    books.add(trades(0, 6))
    send(books, limit=4)
    answer(books, "000000000001", seq=101)
    assert books.stored_rows_by_subject() == {TRADES: 1}
    books.drop_unsent()
    assert (books.unstored_rows, books.next_runs()) == (3, None)
    assert books.stored_rows_by_subject() == {TRADES: 1}
    for sequence in (2, 3, 4):
        answer(books, f"{sequence:012d}", seq=100 + sequence)
    assert books.stored_rows_by_subject() == {TRADES: 4}


def test_rows_that_are_sent_again_are_reported_once() -> None:
    books = ledger(fast=False)
    books.add(trades(0, 6))
    send(books)
    answer(books, "000000000001", seq=101)
    answer(books, "000000000002", seq=102)
    books.restart()
    assert books.stored_rows_by_subject() == {TRADES: 2}
    send(books)
    for sequence in (1, 2, 3, 4):
        answer(books, f"{sequence:012d}", seq=102 + sequence)
    assert books.stored_rows_by_subject() == {TRADES: 6}


def test_rows_that_were_never_sent_come_behind_those_that_are_sent_again() -> None:
    books = ledger(fast=False)
    for first in (0, 2, 4, 6):
        books.add(trades(first, 2))
    for _ in range(3):
        send(books)
    books.restart()
    sizes = []
    while (runs := books.next_runs()) is not None:
        sizes += [int(size) for _, records in runs.pieces() for size in records["size"]]
        send(books)
    assert sizes == list(range(8))
