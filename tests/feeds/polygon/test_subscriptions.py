from __future__ import annotations

import pytest

from ingestor.feeds.polygon.subscriptions import Admission


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
