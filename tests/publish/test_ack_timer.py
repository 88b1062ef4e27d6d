from __future__ import annotations

import pytest

from ingestor.publish.ack_timer import (
    ACK_DELAY_S,
    IDLE_S,
    MAX_ACK_DELAY_S,
    MAX_RETRY_S,
    RETRY_S,
    AckAction,
    AckTimer,
    Stall,
)


def started(sent: int = 10, acked: int = 0) -> AckTimer:
    timer = AckTimer()
    assert timer.start(sent, acked, 100.0) == ACK_DELAY_S
    return timer


def test_all_acknowledged_and_nothing_sent_for_a_while_is_rest() -> None:
    timer = started()
    assert timer.poll(10, 10, 100.02) == (AckAction.WAIT, ACK_DELAY_S)
    assert timer.poll(11, 11, 100.04) == (AckAction.WAIT, ACK_DELAY_S)
    assert timer.poll(11, 11, 100.03 + IDLE_S)[0] is AckAction.WAIT
    assert timer.poll(11, 11, 100.05 + IDLE_S)[0] is AckAction.REST


def test_a_feed_that_is_idle_for_long_is_not_taken_for_a_silent_server() -> None:
    timer = started()
    assert timer.poll(10, 10, 130.0)[0] is AckAction.REST
    assert timer.poll(10, 10, 190.0)[0] is AckAction.REST


def test_the_pace_is_what_was_sent_between_two_marks() -> None:
    timer = started(sent=10)
    timer.poll(30, 10, 100.02)
    assert timer.messages_per_s == pytest.approx(1_000)
    timer.poll(30, 30, 100.04)
    assert timer.messages_per_s == 0


def test_what_was_sent_since_the_mark_gets_its_own_delay() -> None:
    timer = started()
    assert timer.poll(25, 10, 100.02) == (AckAction.WAIT, ACK_DELAY_S)
    assert timer.poll(25, 10, 100.04)[0] is AckAction.ASK


def test_a_message_unacknowledged_after_the_delay_is_asked_for_again_and_again() -> None:
    timer = started()
    assert timer.poll(10, 0, 100.02)[0] is AckAction.ASK
    assert timer.poll(10, 0, 100.04)[0] is AckAction.ASK


def test_a_stream_that_acknowledges_something_is_given_another_delay() -> None:
    timer = started()
    assert timer.poll(10, 7, 100.02) == (AckAction.WAIT, ACK_DELAY_S)
    assert timer.poll(10, 9, 100.04) == (AckAction.WAIT, ACK_DELAY_S)
    assert timer.poll(10, 9, 100.06)[0] is AckAction.ASK


def test_what_is_acknowledged_without_asking_is_not_asked_for() -> None:
    timer = started()
    assert timer.poll(10, 0, 100.02, coming=True) == (AckAction.WAIT, ACK_DELAY_S)
    assert timer.poll(10, 0, 99.99 + MAX_ACK_DELAY_S, coming=True)[0] is AckAction.WAIT


@pytest.mark.parametrize("coming", [False, True])
def test_a_second_of_silence_may_be_a_leader_that_is_gone(coming: bool) -> None:
    timer = started()
    still = timer.poll(10, 0, 99.99 + MAX_ACK_DELAY_S, coming=coming)[0]
    assert still is (AckAction.WAIT if coming else AckAction.ASK)
    assert timer.poll(10, 0, 100.0 + MAX_ACK_DELAY_S, coming=coming)[0] is AckAction.RECONCILE


def test_slow_progress_is_no_silence() -> None:
    timer = started()
    for step in range(1, 9):
        action, _ = timer.poll(10, step, 100.0 + 0.9 * step, coming=True)
        assert action is AckAction.WAIT


def test_messages_taken_back_do_not_leave_a_mark_behind() -> None:
    assert started(sent=10).poll(4, 4, 100.02)[0] is AckAction.WAIT


def test_a_distant_server_is_given_more_time_within_bounds() -> None:
    timer = started()
    timer.answered(0.1)
    assert timer.start(1, 0, 101.0) == pytest.approx(0.4)
    timer.answered(8.0)
    assert timer.start(1, 0, 111.0) == MAX_ACK_DELAY_S / 2
    timer.answered(0.001)
    assert timer.start(1, 0, 113.0) == ACK_DELAY_S


def test_a_stall_lasts_from_when_something_due_was_first_noticed() -> None:
    stall = Stall()
    assert stall.lasts_s(100.0, due=True) == 0
    assert stall.lasts_s(103.0, due=True) == 3
    assert stall.lasts_s(104.0, due=False) == 0
    assert stall.lasts_s(109.0, due=True) == 0


def test_a_full_stream_is_tried_more_and_more_rarely_and_told_of_once() -> None:
    stall = Stall()
    stall.note_attempt()
    assert (stall.slow_down(), stall.pause_s) == (True, 2 * RETRY_S)
    told = []
    for _ in range(9):
        stall.note_attempt()
        told.append(stall.slow_down())
    assert (told, stall.pause_s) == ([False] * 9, MAX_RETRY_S)


def test_once_something_is_stored_nothing_of_a_stall_is_left() -> None:
    stall = Stall()
    stall.lasts_s(100.0, due=True)
    stall.reason = "full"
    stall.note_attempt()
    assert not stall.is_refused_again()
    stall.end()
    assert (stall.since_s, stall.reason, stall.pause_s) == (None, "", 0)
    assert [stall.is_refused_again() for _ in range(2)] == [False, True]
