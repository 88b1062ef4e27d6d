from __future__ import annotations

import pytest

from ingestor.sim.polygon import server_session
from ingestor.sim.polygon.server_session import (
    OPTION_QUOTE_LIMIT,
    SILENCE,
    Answer,
    Request,
    Rules,
    ServerSession,
    SimMarket,
    read_request,
)

KEY = "k"


def session(
    market: SimMarket = SimMarket.STOCKS, topics: str = "T,Q,A", *, delayed_tier: bool = False
) -> ServerSession:
    rules = Rules(frozenset({KEY}), frozenset(filter(None, topics.split(","))), delayed_tier)
    return ServerSession(market, rules)


def authenticated(market: SimMarket = SimMarket.STOCKS, topics: str = "T,Q,A") -> ServerSession:
    joined = session(market, topics)
    joined.answer(Request("auth", KEY))
    return joined


def said(answer: Answer) -> list[str]:
    return [status.message for status in answer.statuses]


def subscribe(joined: ServerSession, params: str) -> list[str]:
    return said(joined.answer(Request("subscribe", params)))


def contracts(count: int) -> list[str]:
    return [f"Q.O:SPY261124C{strike:05d}000" for strike in range(1, count + 1)]


def test_the_right_key_is_accepted() -> None:
    joined = session()
    assert joined.answer(Request("auth", KEY)) == Answer((server_session.AUTH_SUCCESS,))
    assert joined.authenticated


def test_a_wrong_key_is_refused_and_the_line_dropped() -> None:
    joined = session()
    assert joined.answer(Request("auth", "x")) == Answer(
        (server_session.AUTH_FAILED,), hang_up=True
    )
    assert not joined.authenticated


def test_a_plan_without_the_market_has_no_websocket_access() -> None:
    answer = session(topics="").answer(Request("auth", KEY))
    assert answer == Answer((server_session.NO_ACCESS,), hang_up=True)
    assert answer.statuses[0].status == "auth_failed"


def test_every_parameter_is_acknowledged_by_its_name() -> None:
    assert subscribe(authenticated(), "T.SPY,Q.SPY") == [
        *("subscribed to: T.SPY", "subscribed to: Q.SPY"),
    ]


def test_nothing_is_answered_before_authentication() -> None:
    joined = session()
    assert joined.answer(Request("subscribe", "T.SPY")) == SILENCE
    assert not joined.wants("T.SPY")


def test_a_repeated_subscription_is_not_answered() -> None:
    joined = authenticated()
    subscribe(joined, "T.SPY")
    assert subscribe(joined, "T.SPY") == []
    assert subscribe(joined, "T.SPY,Q.SPY") == ["subscribed to: Q.SPY"]


@pytest.mark.parametrize("params", ["ZZ.SPY", " T.SPY", "T", "T.", "", "LULD"])
def test_an_unknown_topic_is_met_with_silence(params: str) -> None:
    assert subscribe(authenticated(), params) == []


def test_an_unknown_ticker_is_acknowledged() -> None:
    assert subscribe(authenticated(), "T.NOTATICKER") == ["subscribed to: T.NOTATICKER"]


def test_what_the_plan_lacks_is_refused_without_a_name_and_the_rest_acknowledged() -> None:
    joined = authenticated(topics="T")
    assert subscribe(joined, "Q.SPY,T.SPY,A.SPY") == ["not authorized", "subscribed to: T.SPY"]
    assert not joined.wants("Q.SPY")


def test_unsubscribing_is_acknowledged_and_ends_the_data() -> None:
    joined = authenticated()
    subscribe(joined, "T.SPY,Q.SPY")
    assert said(joined.answer(Request("unsubscribe", "T.SPY"))) == ["unsubscribed to: T.SPY"]
    assert not joined.wants("T.SPY")
    assert joined.wants("Q.SPY")


def test_unsubscribing_what_is_not_subscribed_is_met_with_silence() -> None:
    assert authenticated().answer(Request("unsubscribe", "T.SPY")) == SILENCE


def test_a_wildcard_wants_every_channel_of_its_topic() -> None:
    joined = authenticated(SimMarket.OPTIONS)
    subscribe(joined, "T.*")
    assert joined.wants("T.O:SPY261124C00686000")
    assert not joined.wants("Q.O:SPY261124C00686000")


def test_a_prefix_wildcard_is_acknowledged_and_matches_nothing() -> None:
    joined = authenticated(SimMarket.OPTIONS)
    assert subscribe(joined, "T.O:SPY*") == ["subscribed to: T.O:SPY*"]
    assert not joined.wants("T.O:SPY261124C00686000")


def test_option_quotes_end_at_a_thousand_contracts() -> None:
    joined = authenticated(SimMarket.OPTIONS)
    names = contracts(OPTION_QUOTE_LIMIT + 2)
    answers = subscribe(joined, ",".join(names))
    assert answers[:-1] == [f"subscribed to: {name}" for name in names[:OPTION_QUOTE_LIMIT]]
    assert answers[-1] == server_session.QUOTE_LIMIT.message


def test_room_made_by_unsubscribing_can_be_used() -> None:
    joined = authenticated(SimMarket.OPTIONS)
    *first, last = contracts(OPTION_QUOTE_LIMIT + 1)
    subscribe(joined, ",".join(first))
    joined.answer(Request("unsubscribe", first[0]))
    assert subscribe(joined, last) == [f"subscribed to: {last}"]


def test_option_trades_and_stock_quotes_have_no_such_limit() -> None:
    trades = ",".join(f"T{name[1:]}" for name in contracts(1_500))
    assert len(subscribe(authenticated(SimMarket.OPTIONS), trades)) == 1_500
    assert len(subscribe(authenticated(), ",".join(f"Q.X{n}" for n in range(1_500)))) == 1_500


def test_all_option_quotes_at_once_are_over_the_limit() -> None:
    assert subscribe(authenticated(SimMarket.OPTIONS), "Q.*") == [
        server_session.QUOTE_LIMIT.message
    ]


def test_a_delayed_tier_authenticates_and_then_falls_silent() -> None:
    joined = session(delayed_tier=True)
    assert said(joined.answer(Request("auth", KEY))) == ["authenticated"]
    assert subscribe(joined, "T.SPY") == []
    assert not joined.wants("T.SPY")


def test_equal_subscriptions_have_equal_keys_whatever_their_order() -> None:
    one, other = authenticated(), authenticated()
    subscribe(one, "T.SPY,Q.SPY")
    subscribe(other, "Q.SPY")
    assert one.key != other.key
    subscribe(other, "T.SPY")
    assert one.key == other.key


def test_an_unknown_action_is_met_with_silence() -> None:
    assert authenticated().answer(Request("dance", "T.SPY")) == SILENCE


@pytest.mark.parametrize(
    "text", [b"", b"hello", b"[]", b'{"action":"auth"}', b'{"action":1,"params":""}']
)
def test_what_is_not_a_request_is_none(text: bytes) -> None:
    assert read_request(text) is None


def test_a_request_is_read() -> None:
    assert read_request(b'{"action":"subscribe","params":"T.SPY"}') == Request("subscribe", "T.SPY")


def test_statuses_are_written_as_on_the_wire() -> None:
    assert server_session.CONNECTED.text == (
        b'{"ev":"status","status":"connected","message":"Connected Successfully"}'
    )
