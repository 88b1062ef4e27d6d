from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.feeds.polygon.session import (
    MAX_UNKNOWN_STATUSES,
    Backoff,
    Phase,
    Session,
    SessionLimits,
)
from ingestor.feeds.polygon.subscriptions import (
    Close,
    Command,
    Fail,
    Reconnect,
    Report,
    ReportKind,
    Send,
)
from tests.feeds.polygon.wire import status

S = 10**9
LIMITS = SessionLimits()
BACKOFF_BASE_NS, BACKOFF_CAP_NS = LIMITS.backoff_base_ns, LIMITS.backoff_cap_ns
HANDSHAKE_LIMIT_NS, SURVIVAL_NS = LIMITS.handshake_ns, LIMITS.survival_ns
ACK_LIMIT_NS, COOL_DOWN_NS = LIMITS.ack_ns, LIMITS.cool_down_ns
UNREACHABLE_NS, PATIENCE_NS = LIMITS.unreachable_delay_ns, LIMITS.unreachable_patience_ns
NOW = 1_786_649_956_000_000_000
CONNECTED = status("connected", "Connected Successfully")
AUTHENTICATED = status("auth_success", "authenticated")
NOT_AUTHORIZED = status("error", "not authorized")
LIMIT = status("error", "Subscription limit reached for feed. Please remove some subscriptions.")
EVICTED = status("max_connections", "Maximum number of websocket connections exceeded.")


def ack(name: str) -> StatusMessage:
    return status("success", f"subscribed to: {name}")


def unack(name: str) -> StatusMessage:
    return status("success", f"unsubscribed to: {name}")


def sent(commands: Iterable[Command]) -> list[tuple[str, list[str]]]:
    messages = [json.loads(command.text) for command in commands if isinstance(command, Send)]
    return [(message["action"], message["params"].split(",")) for message in messages]


def texts(commands: Iterable[Command], kind: ReportKind) -> list[str]:
    return [each.text for each in commands if isinstance(each, Report) and each.kind is kind]


def new_session(*names: str) -> Session:
    return Session("key", names or ("T.SPY", "Q.SPY"), random=lambda: 0.0)


def streaming(*names: str, at_ns: int = NOW) -> Session:
    session = new_session(*names)
    session.on_open(at_ns)
    session.on_statuses((CONNECTED,), at_ns)
    session.on_statuses((AUTHENTICATED,), at_ns)
    return session


def granted(*names: str) -> Session:
    session = streaming(*names)
    session.on_statuses([ack(name) for name in session.subscriptions.wanted], NOW)
    return session


# The handshake ---------------------------------------------------------------------------------


def test_the_handshake_greets_authenticates_and_subscribes() -> None:
    session = new_session()
    assert session.on_open(NOW) == ()
    assert sent(session.on_statuses((CONNECTED,), NOW)) == [("auth", ["key"])]
    commands = session.on_statuses((AUTHENTICATED,), NOW)
    assert sent(commands) == [("subscribe", ["T.SPY", "Q.SPY"])]
    assert session.phase is Phase.STREAMING


def test_the_whole_handshake_in_one_frame_works() -> None:
    session = new_session()
    session.on_open(NOW)
    assert [action for action, _ in sent(session.on_statuses((CONNECTED, AUTHENTICATED), NOW))] == [
        "auth",
        "subscribe",
    ]


def test_success_out_of_turn_does_nothing() -> None:
    session = new_session()
    session.on_open(NOW)
    assert session.on_statuses((AUTHENTICATED,), NOW) == ()
    assert session.phase is Phase.GREETING
    session = streaming()
    assert session.on_statuses((CONNECTED, AUTHENTICATED), NOW) == ()


@pytest.mark.parametrize(
    "message", ["authentication failed", "Your plan doesn't include websocket access."]
)
def test_a_refused_key_is_final_and_says_why(message: str) -> None:
    session = new_session()
    session.on_open(NOW)
    session.on_statuses((CONNECTED,), NOW)
    fail, close = session.on_statuses((status("auth_failed", message),), NOW)
    assert isinstance(fail, Fail)
    assert message in fail.text
    assert close == Close()
    assert session.phase is Phase.ENDED
    assert session.on_close(NOW, "dropped") == ()
    assert session.on_tick(NOW + 3600 * S) == ()


def test_nothing_is_said_after_a_refusal_even_in_its_frame() -> None:
    session = new_session()
    session.on_open(NOW)
    commands = session.on_statuses((CONNECTED, status("auth_failed"), AUTHENTICATED), NOW)
    assert [action for action, _ in sent(commands)] == ["auth"]


def test_an_auth_timeout_closes_and_is_tried_again() -> None:
    session = new_session()
    session.on_open(NOW)
    commands = session.on_statuses((status("auth_timeout", "No authentication"),), NOW)
    assert texts(commands, ReportKind.HANDSHAKE) == ["No authentication"]
    assert commands[-1] == Close()
    (again,) = session.on_close(NOW, "closed")
    assert isinstance(again, Reconnect)


@pytest.mark.parametrize("statuses", [(), (CONNECTED,)])
def test_a_handshake_that_hangs_is_given_up_once(statuses: tuple[StatusMessage, ...]) -> None:
    session = new_session()
    session.on_open(NOW)
    session.on_statuses(statuses, NOW)
    assert session.on_tick(NOW + HANDSHAKE_LIMIT_NS - 1) == ()
    commands = session.on_tick(NOW + HANDSHAKE_LIMIT_NS)
    assert commands[-1] == Close()
    assert len(texts(commands, ReportKind.HANDSHAKE)) == 1
    assert session.on_tick(NOW + 2 * HANDSHAKE_LIMIT_NS) == ()


# Acknowledgements and refusals -----------------------------------------------------------------


def test_acknowledged_names_are_granted_and_nothing_is_reported() -> None:
    session = granted()
    assert session.subscriptions.granted == ("T.SPY", "Q.SPY")
    assert session.on_tick(NOW + ACK_LIMIT_NS) == ()


def test_a_name_that_is_not_acknowledged_is_reported_once() -> None:
    session = streaming("T.SPY", "ZZ.SPY")
    session.on_statuses((ack("T.SPY"),), NOW)
    assert session.on_tick(NOW + ACK_LIMIT_NS - 1) == ()
    (text,) = texts(session.on_tick(NOW + ACK_LIMIT_NS), ReportKind.NOT_ACKNOWLEDGED)
    assert "ZZ.SPY" in text
    assert "T.SPY," not in text
    assert "delayed" not in text
    assert session.on_tick(NOW + 10 * ACK_LIMIT_NS) == ()
    assert session.phase is Phase.STREAMING


def test_silence_after_authentication_hints_at_the_delayed_tier() -> None:
    (text,) = texts(streaming().on_tick(NOW + ACK_LIMIT_NS), ReportKind.NOT_ACKNOWLEDGED)
    assert "T.SPY, Q.SPY" in text
    assert "delayed.massive.com" in text


def test_of_thousands_of_names_messages_and_reports_stay_short() -> None:
    names = [f"{channel}.Z{number}" for number in range(11_000) for channel in "TQ"]
    session = new_session(*names)
    session.on_open(NOW)
    commands = session.on_statuses((CONNECTED, AUTHENTICATED), NOW)
    assert max(len(each.text) for each in commands if isinstance(each, Send)) < 4_096
    session.on_statuses([ack(name) for name in names[:2_000]], NOW)
    assert session.subscriptions.subscribed == 2_000

    (text,) = texts(session.on_tick(NOW + ACK_LIMIT_NS), ReportKind.NOT_ACKNOWLEDGED)
    assert text.endswith(" and 19980 more")
    assert len(text) < 400


def test_an_acknowledgement_after_its_time_still_counts() -> None:
    session = streaming("T.SPY")
    session.on_tick(NOW + ACK_LIMIT_NS)
    session.on_statuses((ack("T.SPY"),), NOW + 2 * ACK_LIMIT_NS)
    assert session.subscriptions.granted == ("T.SPY",)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_refused_channel_is_named_and_the_others_go_on(order: list[int]) -> None:
    session = streaming()
    answers = [ack("T.SPY"), NOT_AUTHORIZED]
    commands = session.on_statuses([answers[index] for index in order], NOW)
    (text,) = texts(commands, ReportKind.NOT_GRANTED)
    assert text == "the vendor does not grant Q.SPY: not authorized"
    assert session.subscriptions.granted == ("T.SPY",)
    assert session.phase is Phase.STREAMING
    assert session.on_tick(NOW + ACK_LIMIT_NS) == ()


def test_one_refusal_for_several_names_is_told_when_time_is_up() -> None:
    session = streaming("T.A", "T.B", "Q.A", "Q.B")
    session.on_statuses((NOT_AUTHORIZED, ack("T.A"), ack("T.B")), NOW)
    (text,) = texts(session.on_tick(NOW + ACK_LIMIT_NS), ReportKind.NOT_GRANTED)
    assert text == "the vendor does not grant Q.A, Q.B: not authorized"
    assert session.phase is Phase.STREAMING


@pytest.mark.parametrize("refusals", [1, 2])
def test_a_plan_that_grants_nothing_is_final(refusals: int) -> None:
    session = streaming()
    commands = [*session.on_statuses((NOT_AUTHORIZED,) * refusals, NOW)]
    commands += session.on_tick(NOW + ACK_LIMIT_NS)
    assert [type(command) for command in commands] == [Report, Fail, Close]
    assert session.phase is Phase.ENDED


def test_a_reached_subscription_limit_is_reported_and_not_final() -> None:
    session = streaming("Q.A", "Q.B")
    assert texts(session.on_statuses((LIMIT,), NOW), ReportKind.NOT_GRANTED) == []
    (text,) = texts(session.on_tick(NOW + ACK_LIMIT_NS), ReportKind.NOT_GRANTED)
    assert "Subscription limit reached" in text
    assert "Q.A, Q.B" in text
    assert session.phase is Phase.STREAMING


def test_a_later_refusal_is_not_final_where_something_was_granted_before() -> None:
    session = granted("T.A")
    session.subscriptions.unsubscribe(("T.A",), NOW)
    session.subscriptions.subscribe(("T.B",), NOW)
    commands = session.on_statuses((NOT_AUTHORIZED,), NOW)
    assert [type(command) for command in commands] == [Report]


def test_a_refusal_of_dropped_names_does_not_speak_of_the_others() -> None:
    session = streaming("T.A", "T.B", "T.C", "T.D")
    session.on_statuses((NOT_AUTHORIZED, NOT_AUTHORIZED), NOW)
    session.subscriptions.unsubscribe(("T.A", "T.B"), NOW)
    assert session.on_statuses((unack("T.A"), unack("T.B"), ack("T.C")), NOW) == ()
    (text,) = texts(session.on_statuses((ack("T.D"),), NOW), ReportKind.NOT_GRANTED)
    assert text == "the vendor does not grant something: not authorized"


def test_a_refusal_without_any_subscription_is_not_final() -> None:
    session = Session("key", (), random=lambda: 0.0)
    session.on_open(NOW)
    session.on_statuses((CONNECTED, AUTHENTICATED), NOW)
    commands = session.on_statuses((NOT_AUTHORIZED,), NOW)
    assert [type(command) for command in commands] == [Report]


def test_an_error_while_nothing_is_unanswered_is_reported() -> None:
    (text,) = texts(granted().on_statuses((LIMIT,), NOW), ReportKind.NOT_GRANTED)
    assert "Subscription limit reached" in text


def test_an_unknown_status_is_reported_once_per_kind() -> None:
    session = granted()
    commands = session.on_statuses((status("new", "1"), status("new", "2"), status("other")), NOW)
    assert texts(commands, ReportKind.UNKNOWN_STATUS) == [
        "unknown status 'new': 1",
        "unknown status 'other': ",
    ]


def test_unknown_statuses_that_are_told_are_bounded() -> None:
    many = [status(str(number)) for number in range(MAX_UNKNOWN_STATUSES + 5)]
    assert len(granted().on_statuses(many, NOW)) == MAX_UNKNOWN_STATUSES


# Changing subscriptions ------------------------------------------------------------------------


def test_names_wanted_before_the_handshake_are_sent_after_it() -> None:
    session = new_session("T.A")
    assert session.subscriptions.subscribe(("T.B",), NOW) == ()
    session.on_open(NOW)
    commands = session.on_statuses((CONNECTED, AUTHENTICATED), NOW)
    assert sent(commands)[1:] == [("subscribe", ["T.A", "T.B"])]


def test_a_name_is_not_sent_twice_on_one_socket() -> None:
    session = streaming("T.A")
    assert sent(session.subscriptions.subscribe(("T.A", "T.B", "T.B"), NOW)) == [
        ("subscribe", ["T.B"])
    ]
    assert session.subscriptions.subscribe(("T.A", "T.B"), NOW) == ()


def test_an_unsubscription_is_sent_and_its_acknowledgement_awaited() -> None:
    session = granted("T.A", "T.B")
    assert sent(session.subscriptions.unsubscribe(("T.A", "T.A", "T.C"), NOW)) == [
        ("unsubscribe", ["T.A"])
    ]
    assert (session.subscriptions.wanted, session.subscriptions.granted) == (("T.B",), ("T.B",))
    session.on_statuses((unack("T.A"),), NOW)
    assert session.on_tick(NOW + ACK_LIMIT_NS) == ()


def test_an_unsubscription_that_is_not_acknowledged_is_reported() -> None:
    session = granted("T.A")
    session.subscriptions.unsubscribe(("T.A",), NOW)
    (text,) = texts(session.on_tick(NOW + ACK_LIMIT_NS), ReportKind.NOT_ACKNOWLEDGED)
    assert text == "unsubscription not acknowledged within 10 s: T.A"


def test_a_name_dropped_before_its_acknowledgement_is_not_missed() -> None:
    session = streaming("T.A", "T.B")
    session.subscriptions.unsubscribe(("T.A",), NOW)
    session.on_statuses((ack("T.B"), unack("T.A")), NOW)
    assert session.on_tick(NOW + ACK_LIMIT_NS) == ()
    session.on_statuses((ack("T.A"),), NOW)
    assert session.subscriptions.granted == ("T.B",)


def test_a_name_that_was_dropped_can_be_subscribed_again() -> None:
    session = granted("T.A")
    session.subscriptions.unsubscribe(("T.A",), NOW)
    assert sent(session.subscriptions.subscribe(("T.A",), NOW)) == [("subscribe", ["T.A"])]


def test_unsubscribing_while_disconnected_only_forgets_the_name() -> None:
    session = new_session("T.A", "T.B")
    assert session.subscriptions.unsubscribe(("T.A",), NOW) == ()
    assert session.subscriptions.wanted == ("T.B",)


# Ends of sockets -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 1011])
def test_every_close_is_a_reconnection(code: int | None) -> None:
    (again,) = granted().on_close(NOW, "closed by the server", code)
    assert again == Reconnect(NOW + BACKOFF_BASE_NS // 2, "closed by the server")


def test_a_reconnection_authenticates_and_subscribes_from_the_start() -> None:
    session = granted("T.A")
    session.on_close(NOW, "torn")
    assert session.subscriptions.granted == ()
    session.subscriptions.subscribe(("T.B",), NOW)
    session.on_open(NOW + S)
    commands = session.on_statuses((CONNECTED, AUTHENTICATED), NOW + S)
    assert sent(commands) == [("auth", ["key"]), ("subscribe", ["T.A", "T.B"])]


def test_what_was_unanswered_on_a_lost_socket_is_not_reported_later() -> None:
    session = streaming()
    session.on_close(NOW, "torn")
    assert session.on_tick(NOW + ACK_LIMIT_NS) == ()


def test_statuses_of_a_socket_that_is_being_closed_are_ignored() -> None:
    session = granted()
    session.on_statuses((EVICTED,), NOW)
    assert session.on_statuses((CONNECTED, AUTHENTICATED, NOT_AUTHORIZED), NOW) == ()


def delays(session: Session, survived_ns: Iterable[int]) -> list[int]:
    """Delay after each socket that streamed for so long."""
    result = []
    for alive_ns in survived_ns:
        session.on_open(NOW)
        session.on_statuses((CONNECTED, AUTHENTICATED), NOW)
        (again,) = session.on_close(NOW + alive_ns, "torn")
        assert isinstance(again, Reconnect)
        result.append(again.at_ns - NOW - alive_ns)
    return result


def test_delays_double_up_to_the_cap() -> None:
    half = BACKOFF_BASE_NS // 2
    expected = [half << doubled for doubled in range(6)] + [BACKOFF_CAP_NS // 2] * 3
    assert delays(new_session(), [0] * 9) == expected


def test_delays_begin_anew_only_after_survival() -> None:
    first, second, third, again = delays(new_session(), [0, 0, SURVIVAL_NS - 1, SURVIVAL_NS])
    assert first < second < third
    assert again == first


def test_a_long_wait_in_the_handshake_is_no_survival() -> None:
    session = new_session()
    delays(session, [0, 0, 0])
    session.on_open(NOW)
    (again,) = session.on_close(NOW + 10 * SURVIVAL_NS, "torn")
    assert isinstance(again, Reconnect)
    assert again.at_ns - NOW - 10 * SURVIVAL_NS > 2 * BACKOFF_BASE_NS


def test_attempts_that_never_open_back_off_too() -> None:
    session = new_session()
    commands = [session.on_close(NOW, "refused")[0] for _ in range(3)]
    waits = [command.at_ns - NOW for command in commands if isinstance(command, Reconnect)]
    assert waits == [BACKOFF_BASE_NS // 2, BACKOFF_BASE_NS, 2 * BACKOFF_BASE_NS]


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=80))
def test_jitter_stays_between_half_of_the_delay_and_all_of_it(values: list[float]) -> None:
    randoms = iter(values)
    backoff = Backoff(lambda: next(randoms), LIMITS)
    for attempt in range(len(values)):
        full = min(BACKOFF_BASE_NS << attempt, BACKOFF_CAP_NS)
        assert full // 2 <= backoff.next_delay_ns() <= full


def waits(session: Session, every_ns: int, attempts: int, random: float = 0.0) -> list[int]:
    """Delays after attempts that reach nobody, begun at such a pace."""
    times = [NOW + number * every_ns for number in range(attempts)]
    commands = [session.on_unreachable(now_ns, "refused")[0] for now_ns in times]
    return [
        command.at_ns - now_ns
        for command, now_ns in zip(commands, times, strict=True)
        if isinstance(command, Reconnect)
    ]


def test_where_nobody_listens_the_next_attempt_is_soon_for_minutes() -> None:
    last = Session("key", (), random=lambda: 1 - 2**-53)
    assert 0 < UNREACHABLE_NS < S
    assert waits(new_session(), S, PATIENCE_NS // S) == [UNREACHABLE_NS // 2] * (PATIENCE_NS // S)
    assert max(waits(last, S, PATIENCE_NS // S)) <= UNREACHABLE_NS


def test_where_nobody_listens_for_long_the_delays_grow() -> None:
    session = new_session()
    waits(session, PATIENCE_NS - 1, 2)
    grown = [
        command.at_ns - NOW - PATIENCE_NS
        for command in (session.on_unreachable(NOW + PATIENCE_NS, "refused")[0] for _ in range(9))
        if isinstance(command, Reconnect)
    ]
    half = BACKOFF_BASE_NS // 2
    assert grown == [half << doubled for doubled in range(6)] + [BACKOFF_CAP_NS // 2] * 3


def test_attempts_that_reach_nobody_make_no_other_delay_longer() -> None:
    session = new_session()
    waits(session, S, 50)
    assert delays(session, [0]) == [BACKOFF_BASE_NS // 2]


@pytest.mark.parametrize("reached", ["open", "close"])
def test_whoever_was_reached_may_be_away_for_minutes_once_more(reached: str) -> None:
    session = new_session()
    waits(session, PATIENCE_NS, 3)
    if reached == "open":
        session.on_open(NOW)
    else:
        session.on_close(NOW, "HTTP 404")
    (again,) = session.on_unreachable(NOW + 9 * PATIENCE_NS, "refused")
    assert isinstance(again, Reconnect)
    assert again.at_ns == NOW + 9 * PATIENCE_NS + UNREACHABLE_NS // 2


def test_a_feed_that_has_ended_tries_no_more() -> None:
    session = new_session()
    session.stop()
    assert session.on_unreachable(NOW, "refused") == ()


@pytest.mark.parametrize("survived_ns", [2 * S, 3600 * S])
def test_after_an_eviction_the_feed_cools_down(survived_ns: int) -> None:
    session = granted()
    report, close = session.on_statuses((EVICTED,), NOW + survived_ns)
    assert report == Report(ReportKind.EVICTED, EVICTED.message)
    assert close == Close()
    (again,) = session.on_close(NOW + survived_ns, "closed", 1008)
    assert isinstance(again, Reconnect)
    assert again.at_ns >= NOW + survived_ns + COOL_DOWN_NS


def test_an_eviction_may_be_said_by_the_close_code_alone() -> None:
    (again,) = granted().on_close(NOW, "closed", 1008)
    assert isinstance(again, Reconnect)
    assert again.at_ns >= NOW + COOL_DOWN_NS


def test_an_eviction_does_not_cool_down_the_closes_after_it() -> None:
    session = granted()
    session.on_statuses((EVICTED,), NOW)
    session.on_close(NOW, "closed")
    (delay,) = delays(session, [SURVIVAL_NS])
    assert delay < COOL_DOWN_NS


def test_stopping_closes_the_socket_and_ends_everything() -> None:
    session = granted()
    assert session.stop() == (Close(),)
    assert session.on_close(NOW, "closed") == ()
    assert session.stop() == ()


def test_nothing_is_sent_on_a_socket_that_is_being_closed() -> None:
    evicted, stopped = granted(), granted()
    evicted.on_statuses((EVICTED,), NOW)
    stopped.stop()
    for session in (evicted, stopped):
        assert session.subscriptions.subscribe(("T.A",), NOW) == ()
        assert session.subscriptions.unsubscribe(("T.SPY",), NOW) == ()


def test_stopping_between_sockets_has_nothing_to_close() -> None:
    session = granted()
    session.on_close(NOW, "torn")
    assert session.stop() == ()
    assert session.on_open(NOW) == (Close(),)


# All of it, in any order -----------------------------------------------------------------------

NAMES = ("T.A", "T.B", "Q.A")
said = st.sampled_from(
    [CONNECTED, AUTHENTICATED, NOT_AUTHORIZED, LIMIT, EVICTED, status("auth_timeout")]
    + [answer(name) for answer in (ack, unack) for name in NAMES]
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("statuses"), st.lists(said, max_size=3)),
        st.just(("statuses", [CONNECTED, AUTHENTICATED])),
        st.tuples(st.sampled_from(["subscribe", "unsubscribe"]), st.lists(st.sampled_from(NAMES))),
        st.tuples(st.sampled_from(["close", "open", "tick"]), st.just([])),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_in_any_order_a_socket_is_sent_only_what_it_may_be_sent(
    steps: list[tuple[str, list[str]]],
) -> None:
    session, now_ns = Session("key", NAMES[:2], random=lambda: 0.5), NOW
    is_open, authenticated, on_socket = False, False, set[str]()
    for step, argument in steps:
        now_ns += 3 * S
        if step == "open" and is_open:
            continue
        if step == "open":
            is_open, authenticated, on_socket = True, False, set()
        commands = perform(session, step, argument, now_ns)
        if step == "close":
            is_open = False
            assert len(commands) == (session.phase is not Phase.ENDED)
        kinds = [type(command) for command in commands]
        assert Send not in kinds[kinds.index(Close) :] if Close in kinds else True
        if step in ("subscribe", "unsubscribe"):
            assert not kinds or session.phase is Phase.STREAMING
        for action, names in sent(commands):
            assert is_open
            if action == "auth":
                assert not authenticated
                authenticated = True
                continue
            assert authenticated
            assert len(names) == len(set(names))
            assert on_socket.isdisjoint(names) if action == "subscribe" else on_socket >= set(names)
            on_socket = on_socket | set(names) if action == "subscribe" else on_socket - set(names)
        if session.phase is Phase.STREAMING:
            assert (
                on_socket == set(session.subscriptions.wanted) >= set(session.subscriptions.granted)
            )


def perform(session: Session, step: str, argument: list[str], now_ns: int) -> tuple[Command, ...]:
    if step == "statuses":
        return session.on_statuses(argument, now_ns)  # type: ignore[arg-type]
    if step == "subscribe":
        return session.subscriptions.subscribe(argument, now_ns)
    if step == "unsubscribe":
        return session.subscriptions.unsubscribe(argument, now_ns)
    if step == "close":
        return session.on_close(now_ns, "closed")
    return session.on_open(now_ns) if step == "open" else session.on_tick(now_ns)
