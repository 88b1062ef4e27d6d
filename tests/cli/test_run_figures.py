"""Figures between two looks at the metrics of a run."""

from __future__ import annotations

import pytest

from ingestor.cli.run_figures import Scrape, processes, quantile_s
from ingestor.model.errors import BadDataError
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter
from ingestor.runtime.latency import Hop
from ingestor.runtime.run_view import exposition
from tests.runtime.views import NOW_NS, Looked, looked

INF = float("inf")
EVENT_NS = 1_765_895_400 * NS_PER_S


def scraped(run: Looked, at_s: float) -> Scrape:
    return Scrape(exposition(run.view, None, NOW_NS), at_s)


def test_rates_are_those_between_two_looks() -> None:
    run = looked()
    run.row("stocks")[Counter.RECORDS] = 1_000
    before = scraped(run, 10.0)
    run.row("stocks")[Counter.RECORDS] = 1_500
    run.row("stocks")[Counter.EVENT_TIME_NS] = EVENT_NS
    run.row("stocks")[Counter.RING_USED_BYTES], run.row("stocks")[Counter.RING_BYTES] = 25, 100
    run.row("stocks").add(Counter.RESTARTS)
    stocks, options, *_ = processes(before, scraped(run, 12.0), EVENT_NS + 7_000_000)
    assert (stocks.name, stocks.state, stocks.rate, stocks.events) == (
        *("stocks", "connected"),
        *(250.0, 1_500.0),
    )
    assert stocks.age_ns is not None
    # A float of seconds is good to 240 ns.
    assert abs(stocks.age_ns - 7_000_000) < 1_000
    assert (stocks.ring, stocks.restarts) == (0.25, 1.0)
    assert (options.rate, options.age_ns, options.ring) == (0.0, None, None)


def test_processes_stand_in_the_order_of_the_data_path() -> None:
    before = scraped(looked(), 0.0)
    names = [one.name for one in processes(before, before, EVENT_NS)]
    assert names == ["stocks", "options", "publisher", "metrics", "supervisor"]


def test_a_run_that_began_since_has_no_negative_rate() -> None:
    run, after = looked(), looked()
    run.row("stocks")[Counter.RECORDS] = 1_000
    assert processes(scraped(run, 0.0), scraped(after, 1.0), EVENT_NS)[0].rate == 0.0


def test_a_process_is_told_as_away_stalled_or_ended() -> None:
    run = looked()
    run.row("stocks").note_since(Counter.AWAY_SINCE_NS, True, NOW_NS - NS_PER_S)
    run.row("publisher")[Counter.STALLED_SINCE_NS] = NOW_NS - NS_PER_S
    run.row("options")[Counter.ENDED] = 1
    now = scraped(run, 1.0)
    states = {one.name: one.state for one in processes(now, now, EVENT_NS)}
    assert states == {
        "stocks": "away",
        "options": "ended",
        "publisher": "stalled",
        "metrics": "runs",
        "supervisor": "runs",
    }


@pytest.mark.parametrize(
    ("share", "value_s"),
    [(0.25, 0.5), (0.5, 1.0), (0.75, 1.5), (1.0, 2.0)],
)
def test_a_quantile_lies_within_its_bucket(share: float, value_s: float) -> None:
    counted = [(1.0, 50.0), (2.0, 100.0), (4.0, 100.0), (INF, 100.0)]
    assert quantile_s([], counted, share) == value_s


def test_a_quantile_is_that_of_the_events_since_the_look_before() -> None:
    before, now = [(1.0, 90.0), (2.0, 90.0), (INF, 90.0)], [(1.0, 90.0), (2.0, 100.0), (INF, 100.0)]
    assert quantile_s(before, now, 0.5) == 1.5
    assert quantile_s(now, now, 0.5) is None
    assert quantile_s([], [], 0.5) is None


def test_what_took_longer_than_the_last_edge_took_at_least_that() -> None:
    assert quantile_s([], [(1.0, 0.0), (2.0, 1.0), (INF, 100.0)], 0.99) == 2.0


def test_buckets_of_several_processes_are_added_up() -> None:
    run = looked()
    for index in (0, 1):
        recorder = run.table.latencies.recorder(index, Hop.VENDOR_TO_RECEIVE)
        recorder.add(1_000_000, 3)
        recorder.flush()
    buckets = scraped(run, 0.0).buckets(Hop.VENDOR_TO_RECEIVE)
    assert buckets[-1] == (INF, 6.0)
    assert buckets == sorted(buckets)


@pytest.mark.parametrize("text", ["<html>", "x{ 1\n", "", "up 1\n"])
def test_what_is_no_run_of_ours_is_refused(text: str) -> None:
    with pytest.raises(BadDataError, match="these are"):
        Scrape(text, 0.0)
