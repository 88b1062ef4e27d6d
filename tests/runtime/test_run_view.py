from __future__ import annotations

from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter
from tests.runtime.views import NOW_NS, looked


def test_a_process_is_silent_after_the_limit_and_not_before() -> None:
    run = looked(age_ns=2 * NS_PER_S)
    assert run.view.silent(NOW_NS, 2.0) == {}
    run.row("options")[Counter.HEARTBEAT_NS] = NOW_NS - 3 * NS_PER_S
    assert run.view.silent(NOW_NS, 2.0) == {"options": 3.0}


def test_who_has_ended_is_not_silent() -> None:
    run = looked(age_ns=100 * NS_PER_S)
    for name in ("stocks", "publisher", "metrics"):
        run.row(name)[Counter.ENDED] = 1
    assert list(run.view.silent(NOW_NS, 2.0)) == ["options"]


def test_only_feeds_that_told_something_have_a_status() -> None:
    run = looked()
    assert list(run.view.statuses()) == []
    told = FeedStatus(feed="options", what=What.ALARM, at_ns=1, text="no")
    run.tell(told)
    assert list(run.view.statuses()) == [("options", told)]
