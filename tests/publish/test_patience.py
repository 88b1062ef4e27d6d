from __future__ import annotations

import pytest

from ingestor.publish.patience import ACK_DELAY_S, MAX_ACK_DELAY_S, Patience, Verdict

SILENCE_S = 5.0


def waiting(sent: int = 10, acked: int = 0) -> Patience:
    patience = Patience(SILENCE_S)
    assert patience.start(sent, acked, 100.0) == ACK_DELAY_S
    return patience


def test_all_acknowledged_is_rest() -> None:
    assert waiting().judge(10, 10, 100.02) == (Verdict.REST, ACK_DELAY_S)


def test_what_was_sent_since_the_mark_gets_its_own_delay() -> None:
    patience = waiting()
    assert patience.judge(25, 10, 100.02) == (Verdict.WAIT, ACK_DELAY_S)
    assert patience.judge(25, 20, 100.04)[0] is Verdict.ASK


def test_a_message_unacknowledged_after_the_delay_is_asked_for_once() -> None:
    patience = waiting()
    assert patience.judge(10, 9, 100.02)[0] is Verdict.ASK
    patience.asked(100.02)
    assert patience.judge(10, 9, 101.0)[0] is Verdict.WAIT


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
    assert waiting(sent=10).judge(4, 4, 100.02)[0] is Verdict.REST


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
