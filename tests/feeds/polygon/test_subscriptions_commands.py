from __future__ import annotations

import json

from ingestor.feeds.polygon.subscriptions import (
    MAX_NAMES_PER_MESSAGE,
    SHOWN_NAMES,
    auth,
    channel_names,
    shown,
    subscription,
)


def test_the_auth_message_is_the_vendors() -> None:
    assert json.loads(auth('a"key').text) == {"action": "auth", "params": 'a"key'}


def test_the_key_is_never_shown() -> None:
    assert "secret" not in repr(auth("secret"))


def test_a_subscription_is_a_comma_list_without_spaces() -> None:
    (send,) = subscription("subscribe", ["T.SPY", "Q.SPY"])
    assert send.text == '{"action":"subscribe","params":"T.SPY,Q.SPY"}'


def test_no_names_need_no_message() -> None:
    assert subscription("unsubscribe", []) == ()


def test_long_lists_are_cut_into_messages_of_the_named_size() -> None:
    names = [f"T.{number}" for number in range(2 * MAX_NAMES_PER_MESSAGE + 1)]
    parts = [
        json.loads(send.text)["params"].split(",") for send in subscription("subscribe", names)
    ]
    assert [len(part) for part in parts] == [MAX_NAMES_PER_MESSAGE, MAX_NAMES_PER_MESSAGE, 1]
    assert [name for part in parts for name in part] == names


def test_channels_are_named_symbol_by_symbol() -> None:
    assert channel_names(iter(("T", "Q")), iter(("A", "B"))) == ("T.A", "Q.A", "T.B", "Q.B")


def test_long_lists_are_shown_in_part() -> None:
    names = [str(number) for number in range(SHOWN_NAMES + 2)]
    assert shown(names).endswith(f"{SHOWN_NAMES - 1} and 2 more")
    assert shown(names[:2]) == "0, 1"
