from __future__ import annotations

import pytest

from ingestor.publish.patience import (
    ACK_DELAY_S,
    IDLE_S,
    MAX_ACK_DELAY_S,
    Patience,
    Verdict,
)

SILENCE_S = 5.0


def waiting(sent: int = 10, acked: int = 0) -> Patience:
    patience = Patience(SILENCE_S)
    assert patience.start(sent, acked, 100.0) == ACK_DELAY_S
    return patience


def test_all_acknowledged_and_nothing_sent_for_a_while_is_rest() -> None:
    patience = waiting()
    assert patience.judge(10, 10, 100.02) == (Verdict.WAIT, ACK_DELAY_S)
    assert patience.judge(11, 11, 100.04) == (Verdict.WAIT, ACK_DELAY_S)
    assert patience.judge(11, 11, 100.03 + IDLE_S)[0] is Verdict.WAIT
    assert patience.judge(11, 11, 100.05 + IDLE_S)[0] is Verdict.REST


def test_a_feed_that_is_idle_for_long_is_not_taken_for_a_silent_server() -> None:
    patience = waiting()
    assert patience.judge(10, 10, 100.0 + 2 * SILENCE_S)[0] is Verdict.REST
    assert patience.judge(10, 10, 100.0 + 4 * SILENCE_S)[0] is Verdict.REST


def test_a_server_that_does_not_answer_though_all_is_acknowledged_is_given_up() -> None:
    patience = waiting()
    assert patience.judge(10, 10, 102.0)[0] is Verdict.REST
    patience.asked(102.0)
    assert patience.judge(10, 10, 101.9 + SILENCE_S)[0] is Verdict.WAIT
    assert patience.judge(10, 10, 102.0 + SILENCE_S)[0] is Verdict.GIVE_UP


def test_the_pace_is_what_was_sent_between_two_marks() -> None:
    patience = waiting(sent=10)
    patience.judge(30, 10, 100.02)
    assert patience.messages_per_s == pytest.approx(1_000)
    patience.judge(30, 30, 100.04)
    assert patience.messages_per_s == 0


def test_what_was_sent_since_the_mark_gets_its_own_delay() -> None:
    patience = waiting()
    assert patience.judge(25, 10, 100.02) == (Verdict.WAIT, ACK_DELAY_S)
    assert patience.judge(25, 10, 100.04)[0] is Verdict.ASK


def test_a_message_unacknowledged_after_the_delay_is_asked_for_once() -> None:
    patience = waiting()
    assert patience.judge(10, 0, 100.02)[0] is Verdict.ASK
    patience.asked(100.02)
    assert patience.judge(10, 0, 101.0)[0] is Verdict.WAIT


def test_a_stream_that_acknowledges_something_is_given_another_delay() -> None:
    patience = waiting()
    assert patience.judge(10, 7, 100.02) == (Verdict.WAIT, ACK_DELAY_S)
    assert patience.judge(10, 9, 100.04) == (Verdict.WAIT, ACK_DELAY_S)
    assert patience.judge(10, 9, 100.06)[0] is Verdict.ASK


def test_what_is_acknowledged_without_asking_is_asked_for_after_the_longest_delay_only() -> None:
    patience = waiting()
    assert patience.judge(10, 0, 100.02, coming=True) == (Verdict.WAIT, ACK_DELAY_S)
    assert patience.judge(10, 0, 100.0 + MAX_ACK_DELAY_S, coming=True)[0] is Verdict.WAIT
    assert patience.judge(10, 0, 100.01 + MAX_ACK_DELAY_S, coming=True)[0] is Verdict.ASK


def test_silence_ends_patience() -> None:
    patience = waiting()
    _, left_s = patience.judge(10, 0, 100.02)
    assert round(left_s, 6) == SILENCE_S - 0.02
    patience.asked(100.02)
    assert patience.judge(10, 0, 100.0 + SILENCE_S) == (Verdict.GIVE_UP, 0.0)


def test_slow_progress_is_no_silence() -> None:
    patience = waiting()
    patience.asked(100.02)
    assert patience.judge(10, 3, 104.9) == (Verdict.WAIT, SILENCE_S)
    assert patience.judge(10, 4, 109.8) == (Verdict.WAIT, SILENCE_S)
    assert patience.judge(10, 4, 114.8)[0] is Verdict.GIVE_UP


def test_messages_taken_back_do_not_leave_a_mark_behind() -> None:
    assert waiting(sent=10).judge(4, 4, 100.02)[0] is Verdict.WAIT


def test_a_distant_server_is_given_more_time_within_bounds() -> None:
    patience = waiting()
    patience.asked(100.0)
    patience.answered(100.1)
    assert patience.start(1, 0, 101.0) == pytest.approx(0.4)
    patience.asked(102.0)
    patience.answered(110.0)
    assert patience.start(1, 0, 111.0) == MAX_ACK_DELAY_S
    patience.asked(112.0)
    patience.answered(112.001)
    assert patience.start(1, 0, 113.0) == ACK_DELAY_S


def test_an_answer_nobody_asked_for_changes_nothing() -> None:
    patience = waiting()
    patience.answered(200.0)
    assert patience.start(1, 0, 201.0) == ACK_DELAY_S
