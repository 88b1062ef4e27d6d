from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.blocks import Block, Fence, Frames, Runs, Source
from ingestor.model.records import RType
from ingestor.nats.answers import NO_RESPONDERS, ApiError, FlowAck, FlowGap, PubAck, Refusal
from ingestor.publish.batches import (
    A_WHOLE_WRITE,
    ACK_WINDOW_MESSAGES,
    OPENING_MESSAGES,
    OUTSTANDING,
    AckBatch,
    FastBatch,
    SendWindow,
)
from ingestor.publish.reconcile import messages_of
from tests.publish.plain import trades

FULL = Refusal(ApiError(503, 10077, "maximum bytes exceeded"))
UNKNOWN = Refusal(ApiError(400, 10208, "batch publish ID unknown"))
APPENDED = "500.fail.000000000002.1.$FI"
COMMITTED = "500.fail.000000000002.2.$FI"
OVERTAKEN = Refusal(ApiError(400, 10071, "wrong last sequence: 120"))


def started(sent: int) -> FastBatch:
    batch = FastBatch("_INBOX.x", "b1")
    batch.note_sent(sent)
    return batch


def proof() -> FastBatch:
    batch = FastBatch("_INBOX.x", "b1", proof=True)
    batch.note_sent(1)
    return batch


def test_the_first_message_starts_the_batch_and_the_others_are_appended() -> None:
    batch = FastBatch("_INBOX.x", "b1", flow=200)
    assert (batch.reply.prefix, batch.reply.suffix) == (b"_INBOX.x.b1.200.fail.", b".0.$FI")
    batch.sent = 1
    assert (batch.reply.prefix, batch.reply.suffix) == (b"_INBOX.x.b1.200.fail.", b".1.$FI")


def test_a_fenced_batch_fences_its_first_message_every_nth_and_all_after_a_rest() -> None:
    batch = FastBatch("_INBOX.x", "b1", fence=Fence(100, 40))
    assert batch.reply.fence == Fence(100, 1)
    batch.note_sent(1)
    assert batch.reply.fence == Fence(100, 40)
    batch.rested = True
    assert batch.reply.fence == Fence(100, 1)
    batch.note_sent(3)
    assert batch.reply.fence == Fence(100, 40)
    batch.closing = True
    assert batch.reply.fence == Fence(100, 1)


def test_the_probe_of_a_fenced_batch_is_fenced() -> None:
    batch = FastBatch("_INBOX.x", "b1", fence=Fence(100, 40))
    batch.note_sent(9)
    assert batch.probe is not None
    number, reply = batch.probe
    assert (number, reply.fence) == (2, Fence(100, 1))


def test_a_batch_is_fenced_out_where_the_stream_holds_something_else() -> None:
    for fence, refusal, out in (
        (Fence(100, 40), OVERTAKEN, True),
        (Fence(100, 40), FULL, False),
        (None, OVERTAKEN, False),
    ):
        batch = FastBatch("_INBOX.x", "b1", fence=fence)
        batch.note_sent(9)
        assert not batch.fenced_out
        batch.receive(APPENDED, refusal)
        assert batch.fenced_out == out


def test_the_first_message_goes_alone_and_a_few_more_before_the_first_answer() -> None:
    assert started(0).room == 1
    assert started(OPENING_MESSAGES - 1).room == A_WHOLE_WRITE
    assert started(OPENING_MESSAGES).room == 0


def test_the_servers_flow_opens_the_window_and_narrows_it() -> None:
    batch = started(500 * OUTSTANDING - 1)
    batch.receive("500.fail.000000000001.0.$FI", FlowAck(0, 500))
    assert batch.room == A_WHOLE_WRITE
    batch.sent += 1
    assert batch.room == 0
    batch.receive(APPENDED, FlowAck(500, 100))
    assert (batch.acked, batch.room) == (500, 0)
    batch.receive(APPENDED, FlowAck(500 * OUTSTANDING - 100, 100))
    assert batch.room == A_WHOLE_WRITE


def test_an_acknowledgement_covers_those_before_it_and_an_old_one_takes_nothing_back() -> None:
    batch = started(40)
    batch.receive(APPENDED, FlowAck(30, 10))
    batch.receive(APPENDED, FlowAck(20, 10))
    assert batch.acked == 30
    batch.receive(APPENDED, FlowAck(50, 10))
    assert (batch.acked, batch.odd_answers) == (30, 1)  # only 40 were sent


def test_the_last_message_commits_alone_and_its_answer_tells_count_and_stream_sequence() -> None:
    batch = started(1)
    batch.closing = True
    assert (batch.room, batch.reply.suffix) == (1, b".2.$FI")
    batch.note_sent(1)
    assert batch.room == 0
    batch.receive(COMMITTED, PubAck(102, "b1", 2))
    assert (batch.acked, batch.last_seq, batch.ended, batch.broken) == (2, 102, True, False)


def test_a_batch_closed_while_messages_are_under_way_still_waits_for_its_last_one() -> None:
    batch = started(30)
    batch.closing = True
    batch.receive(APPENDED, FlowAck(20, 10))
    assert (batch.room, batch.ended) == (1, False)


def test_a_batch_that_ends_before_its_last_message_is_broken_and_known() -> None:
    batch = started(9)
    batch.receive(APPENDED, FlowGap())
    assert (batch.broken, batch.ended, batch.room) == (True, False, 0)
    batch.receive(APPENDED, PubAck(104, "b1", 4))
    assert (batch.acked, batch.ended, batch.broken) == (4, True, True)


def test_the_first_refusal_is_remembered() -> None:
    batch = started(9)
    batch.receive(APPENDED, FULL)
    batch.receive(APPENDED, UNKNOWN)
    assert batch.refusal == FULL.error
    assert (batch.broken, batch.unknown) == (True, True)


def test_a_living_batch_is_asked_with_its_next_message_which_commits_it() -> None:
    batch = started(9)
    batch.receive(APPENDED, FlowAck(5, 5))
    assert batch.probe is not None
    number, reply = batch.probe
    assert (number, reply.suffix) == (6, b".2.$FI")


def test_the_first_message_never_asks_for_it_would_begin_the_batch_once_more() -> None:
    assert started(1).probe is None
    probe = started(2).probe
    assert probe is not None
    assert probe[0] == 2


def test_a_batch_that_is_acknowledged_or_dead_or_a_proof_is_not_asked() -> None:
    done = started(9)
    done.receive(APPENDED, FlowAck(9, 9))
    dead = started(9)
    dead.receive(APPENDED, UNKNOWN)
    full = started(9)
    full.receive(APPENDED, FULL)
    assert [batch.probe for batch in (done, dead, full, proof())] == [None] * 4


def test_a_batch_whose_leader_is_away_is_asked() -> None:
    batch = started(9)
    batch.receive(APPENDED, NO_RESPONDERS)
    assert batch.broken
    assert batch.probe is not None


@pytest.mark.parametrize(
    "answer", [PubAck(9, "another", 3), PubAck(9, "b1", 10), PubAck(9, "b1", 2**50)]
)
def test_acknowledgements_of_other_batches_or_of_more_than_was_sent_are_not_believed(
    answer: PubAck,
) -> None:
    batch = started(9)
    batch.receive(APPENDED, answer)
    assert (batch.acked, batch.ended, batch.broken, batch.odd_answers) == (0, False, False, 1)


def test_a_proof_is_one_message_that_commits_itself() -> None:
    batch = FastBatch("_INBOX.x", "b1", proof=True)
    assert (batch.room, batch.reply.suffix) == (1, b".2.$FI")
    batch.note_sent(1)
    assert batch.room == 0
    batch.receive("500.fail.000000000001.2.$FI", PubAck(77, "b1", 1))
    assert (batch.fast_ingest, batch.acked, batch.last_seq, batch.ended) == (True, 1, 77, True)


def test_a_proof_stored_as_an_ordinary_message_tells_that_there_is_no_fast_ingest() -> None:
    batch = proof()
    batch.receive("500.fail.000000000001.2.$FI", PubAck(77, "", 0))
    assert (batch.fast_ingest, batch.acked, batch.last_seq) == (False, 1, 77)
    assert (batch.ended, batch.broken) == (True, False)


def test_an_ordinary_acknowledgement_within_a_batch_breaks_it() -> None:
    batch = started(5)
    batch.receive(APPENDED, PubAck(77, "", 0))
    assert (batch.broken, batch.ended, batch.acked) == (True, False, 0)


def test_single_acknowledgements_move_the_window_one_by_one() -> None:
    batch = AckBatch("_INBOX.x", "b1", window=3)
    assert (batch.reply.prefix, batch.reply.suffix) == (b"_INBOX.x.b1.", b"")
    assert batch.room == A_WHOLE_WRITE
    batch.sent = 3
    assert batch.room == 0
    batch.receive("000000000001", PubAck(51, "", 0))
    batch.receive("000000000002", PubAck(60, "", 0))
    assert (batch.acked, batch.last_seq, batch.room, batch.broken) == (2, 60, A_WHOLE_WRITE, False)


def test_a_fenced_message_that_is_acknowledged_by_itself_goes_alone() -> None:
    batch = AckBatch("_INBOX.x", "b1", fence=Fence(50, 40))
    assert (batch.room, batch.reply.fence) == (1, Fence(50, 1))
    batch.note_sent(1)
    batch.rested = True
    assert batch.room == 0
    batch.rested = False
    assert (batch.room, batch.reply.fence) == (0, None)
    batch.receive("000000000001", PubAck(51, "", 0))
    assert batch.room == A_WHOLE_WRITE
    batch.note_sent(100)
    batch.rested = True
    assert (batch.room, batch.reply.fence) == (1, Fence(50, 1))
    batch.note_sent(1)
    assert batch.room == 0
    for number in range(2, 103):
        batch.receive(f"{number:012d}", PubAck(50 + number, "", 0))
    assert (batch.room, batch.reply.fence) == (A_WHOLE_WRITE, None)


def test_a_refused_message_breaks_the_order_only_if_one_behind_it_is_stored() -> None:
    batch = AckBatch("_INBOX.x", "b1")
    batch.sent = 3
    batch.receive("000000000001", FULL)
    assert (batch.broken, batch.out_of_order, batch.room) == (True, 0, 0)
    batch.receive("000000000002", FULL)
    assert not batch.out_of_order
    batch.receive("000000000003", PubAck(9, "", 0))
    assert (batch.out_of_order, batch.acked) == (3, 0)


def test_an_acknowledgement_that_comes_after_its_message_was_asked_about_is_passed_over() -> None:
    batch = AckBatch("_INBOX.x", "b1")
    batch.sent, batch.acked = 3, 2
    batch.receive("000000000001", PubAck(8, "", 0))
    batch.receive("000000000002", PubAck(9, "", 0))
    batch.receive("000000000003", PubAck(10, "", 0))
    assert (batch.broken, batch.acked, batch.last_seq) == (False, 3, 10)


def test_a_lost_acknowledgement_breaks_a_batch_but_does_not_tear_it() -> None:
    batch = AckBatch("_INBOX.x", "b1")
    batch.sent = 3
    batch.receive("000000000002", PubAck(9, "", 0))
    batch.receive("000000000003", PubAck(10, "", 0))
    assert (batch.broken, batch.out_of_order, batch.acked) == (True, False, 0)


def test_nobody_listening_is_a_refusal() -> None:
    batch = AckBatch("_INBOX.x", "b1")
    batch.sent = 1
    batch.receive("000000000001", NO_RESPONDERS)
    assert batch.refusal is not None
    assert batch.broken


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 500)), max_size=30))
def test_no_more_than_one_write_goes_beyond_what_the_newest_acknowledgement_allows(
    steps: list[tuple[int, int]],
) -> None:
    batch = started(1)
    batch.receive("500.fail.000000000001.0.$FI", FlowAck(0, 500))
    flow = 500
    for write, next_flow in steps:
        sent_before = batch.sent
        batch.sent += min(write, batch.room)
        assert batch.sent == sent_before or sent_before < batch.acked + flow * OUTSTANDING
        batch.receive(APPENDED, FlowAck(batch.sent // next_flow * next_flow, next_flow))
        flow = next_flow
        assert batch.acked <= batch.sent


def test_the_window_of_single_acknowledgements_is_bounded() -> None:
    batch = AckBatch("_INBOX.x", "b1")
    batch.sent = ACK_WINDOW_MESSAGES - 1
    assert batch.room == A_WHOLE_WRITE
    batch.sent = ACK_WINDOW_MESSAGES
    assert batch.room == 0


def test_frames_are_read_back_into_messages() -> None:
    frames = b"PUB a.b _I.1 00000003\r\nx\r\n\r\nPUB c _I.2 0\r\n\r\n"
    assert messages_of(frames) == [("a.b", b"x\r\n"), ("c", b"")]


messages_of_parts = st.lists(
    st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=6
)
"""Rows of each message, part by part."""


def push(window: SendWindow, first: int, rows: list[int]) -> None:
    stops = np.cumsum(np.array(rows, dtype=np.int64))
    window.push(trades(first, sum(rows)), Frames([b"x" * 10 * len(rows)], stops, {}))


def sizes(runs: list[Runs]) -> list[int]:
    return [int(s) for one in runs for _, records in one.pieces() for s in records["size"]]


@given(messages_of_parts, st.lists(st.integers(0, 9), max_size=12))
def test_a_window_holds_what_a_plain_list_of_messages_holds(
    parts: list[list[int]], acks: list[int]
) -> None:
    window, model, first = SendWindow(), list[list[int]](), 0
    for rows in parts:
        push(window, first, rows)
        for count in rows:
            model.append(list(range(first, first + count)))
            first += count
    acked: list[int] = []
    for wish in acks:
        count = min(wish, len(model))
        just_acked = [row for message in model[:count] for row in message]
        assert window.acknowledge(count) == len(just_acked)
        acked += just_acked
        del model[:count]
        left = [row for message in model for row in message]
        assert sizes(window.unacknowledged()) == left
        assert (window.messages, window.rows) == (len(model), len(left))
        assert window.acked_rows == len(acked)
        assert (window.size_bytes == 0) == (not model)
    assert sizes(window.take_back()) == list(range(len(acked), first))


def test_taking_back_empties_the_window_and_keeps_what_was_acknowledged() -> None:
    window = SendWindow()
    push(window, 0, [2, 3, 1])
    window.acknowledge(1)
    assert sizes(window.take_back()) == [2, 3, 4, 5]
    assert (window.messages, window.rows, window.size_bytes) == (0, 0, 0)
    assert (window.acked_messages, window.acked_rows) == (1, 2)
    push(window, 2, [1])
    assert sizes(window.unacknowledged()) == [2]


def test_bytes_are_freed_when_a_part_is_wholly_acknowledged() -> None:
    window = SendWindow()
    push(window, 0, [1, 1])
    push(window, 2, [1])
    window.acknowledge(1)
    assert window.size_bytes == 30
    window.acknowledge(1)
    assert window.size_bytes == 10


def test_more_acknowledgements_than_messages_are_a_bug() -> None:
    window = SendWindow()
    push(window, 0, [1])
    with pytest.raises(ValueError, match="2 messages acknowledged of 1"):
        window.acknowledge(2)


def of_feeds(first: int, feeds: list[int]) -> Runs:
    """One row after the other, row i of feed `feeds[i]`, sizes and times counting up."""
    blocks = [
        Block(feed, trades(first, len(feeds)).blocks[0].records, {}, Source.SIM) for feed in (0, 1)
    ]
    rows = np.arange(len(feeds))
    return Runs(blocks, np.array(feeds), rows, rows + 1, rows)


def test_what_is_stored_is_counted_by_feed_and_type_also_within_a_write_and_over_a_restart() -> (
    None
):
    window = SendWindow()

    def send(first: int, feeds: list[int]) -> None:
        stops = np.arange(1, len(feeds) + 1)
        by_rtype = {int(RType.FUTURES_TRADE): len(feeds)}
        window.push(of_feeds(first, feeds), Frames([b"x"], stops, by_rtype))

    send(10, [0, 1, 1, 0])
    assert (window.acked_by_feed, window.first_ts_event_ns, window.last_ts_event_ns) == (
        {},
        None,
        None,
    )
    window.acknowledge(3)
    assert window.acked_by_feed == {0: 1, 1: 2}
    assert (window.first_ts_event_ns, window.last_ts_event_ns) == (10, 12)
    window.take_back()
    assert window.acked_by_feed == {0: 1, 1: 2}
    send(13, [0, 1])
    window.acknowledge(2)
    assert window.acked_by_feed == {0: 2, 1: 3}
    assert window.acked_by_rtype == {int(RType.FUTURES_TRADE): 5}
    assert (window.first_ts_event_ns, window.last_ts_event_ns) == (10, 14)


def test_of_a_message_of_several_rows_the_first_and_the_last_tell_its_times() -> None:
    window = SendWindow()
    push(window, 10, [3, 2])
    for last_ns in (12, 14):
        window.acknowledge(1)
        assert (window.first_ts_event_ns, window.last_ts_event_ns) == (10, last_ns)


def test_single_messages_know_no_commit_so_their_batch_goes_on_when_it_is_to_close() -> None:
    batch = AckBatch("_INBOX.x", "b1", window=3)
    batch.closing = True
    batch.note_sent(2)
    assert (batch.sent, batch.committed, batch.room) == (2, False, A_WHOLE_WRITE)
