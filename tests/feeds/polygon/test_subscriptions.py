from __future__ import annotations

import pytest

from ingestor.feeds.polygon.subscriptions import (
    Admission,
    Report,
    ReportKind,
    Subscriptions,
    subscription,
)
from ingestor.model.units import NS_PER_S


@pytest.mark.parametrize(
    ("names", "covered"),
    [
        ((), False),
        (("T.SPY",), True),
        (("Q.SPY",), False),
        (("T.*",), True),
        (("Q.*",), False),
        (("T.SP*",), True),
        (("T.S",), False),
        (("T.QQQ", "T.SPY"), True),
        (("*",), True),
    ],
)
def test_what_was_asked_for_is_covered(names: tuple[str, ...], covered: bool) -> None:
    admission = Admission()
    admission.ask(names)
    assert admission.covers("T", "SPY") is covered


def test_names_are_added_and_never_taken_away() -> None:
    admission = Admission()
    for name in ("T.A", "T.B"):
        admission.ask((name,))
    assert admission.covers("T", "A")
    assert admission.covers("T", "B")


def test_it_tells_whether_anything_was_asked_for() -> None:
    admission = Admission()
    assert admission.empty
    admission.ask(("T.A",))
    assert not admission.empty


def test_other_names_are_followed_the_new_ones_first_and_that_is_reported() -> None:
    subscriptions = Subscriptions(("T.SPY", "T.QQQ"), 10 * NS_PER_S)
    subscriptions.begin(0)
    assert subscriptions.follow(("T.SPY", "T.QQQ"), 1) == ()
    assert subscriptions.follow(("T.SPY", "T.IWM"), 1) == (
        *subscription("subscribe", ["T.IWM"]),
        *subscription("unsubscribe", ["T.QQQ"]),
        Report(ReportKind.SETTINGS, "subscriptions added T.IWM; removed T.QQQ"),
    )
    assert subscriptions.wanted == ("T.SPY", "T.IWM")


def test_names_that_change_without_a_connection_are_asked_for_on_the_next() -> None:
    subscriptions = Subscriptions(("T.SPY",), 10 * NS_PER_S)
    (report,) = subscriptions.follow(("T.QQQ",), 1)
    assert isinstance(report, Report)
    assert subscriptions.begin(2) == subscription("subscribe", ["T.QQQ"])
