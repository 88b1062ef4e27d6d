from __future__ import annotations

import os
import time
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from ingestor import __version__
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.replay_control import ReplayState
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import MONOTONIC, Counter, Role
from ingestor.runtime.latency import Hop
from ingestor.runtime.progress_reporter import ReplayProgress
from ingestor.runtime.run_view import RunCollector, exposition, series_of
from tests.runtime.exposition import Family, parse
from tests.runtime.views import FACTS, NAMES, NOW_NS, ROLES, Looked, looked


def test_only_feeds_that_told_something_have_a_status() -> None:
    run = looked()
    assert list(run.view.statuses()) == []
    told = FeedStatus(feed="options", what=What.ALARM, at_ns=1, text="no")
    run.tell(told)
    assert list(run.view.statuses()) == [("options", told)]


NUMBERS = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(Counter), NUMBERS), max_size=30)


def scraped(run: Looked) -> dict[str, Family]:
    return parse(exposition(run.view, None, NOW_NS))


@given(ROWS)
def test_every_counter_is_read_back_as_the_nearest_float_where_it_means_something(
    rows: list[tuple[str, Counter, int]],
) -> None:
    run = looked()
    for name, counter, value in rows:
        run.row(name)[counter] = value
    families = scraped(run)
    for counter in set(Counter) - MONOTONIC - {Counter.PID}:
        series = series_of(counter)
        samples = families[series.name].samples if series.name in families else {}
        told = {dict(labels)["process"]: float(value) for labels, value in samples.items()}
        unit = Fraction(1, 10**9) if series.scaled else 1
        whose = [name for name, role in zip(NAMES, ROLES, strict=True) if role in counter.whose]
        held = {name: float(run.row(name)[counter] * unit) for name in whose}
        if series.scaled:
            held = {name: value for name, value in held.items() if value}
        assert told == held
        if not held:
            continue
        assert (families[series.name].help, families[series.name].kind) == (
            counter.about,
            series.kind,
        )


def test_every_counter_is_described_by_its_own_text_in_one_line() -> None:
    assert Counter.PUBLISHED.about == "Rows that the server has acknowledged."
    assert all(counter.about and "\n" not in counter.about for counter in Counter)
    assert len({counter.about for counter in Counter}) == len(Counter)


def test_names_say_the_unit_and_the_kind_and_are_all_different() -> None:
    names = {counter: series_of(counter)[:2] for counter in Counter}
    assert names[Counter.RECORDS] == ("ingestor_records_total", "counter")
    assert names[Counter.BYTES_TOTAL] == ("ingestor_bytes", "gauge")
    assert names[Counter.EVENT_TIME_NS] == ("ingestor_event_time_seconds", "gauge")
    assert len({name for name, _ in names.values()}) == len(Counter)


def test_the_heartbeat_is_an_age_and_none_once_the_process_has_ended() -> None:
    run = looked(age_ns=1_500_000_000)
    run.row("stocks")[Counter.ENDED] = 1
    ages = scraped(run)["ingestor_heartbeat_age_seconds"]
    assert {dict(labels)["process"] for labels in ages.samples} == set(NAMES) - {"stocks"}
    assert ages.of("publisher") == Decimal("1.500")


def test_the_last_status_of_each_feed_is_a_time_with_its_kind() -> None:
    run = looked()
    at_ns = 1_765_895_400 * NS_PER_S + 17
    run.tell(FeedStatus(feed="stocks", what=What.SILENCE, at_ns=at_ns, text='a "quoted" \\ text'))
    samples = scraped(run)["ingestor_last_status_time_seconds"].samples
    [(labels, value)] = samples.items()
    assert dict(labels) == {"process": "stocks", "feed": "stocks", "what": "silence"}
    assert float(value) == at_ns / NS_PER_S


def test_the_reference_price_is_a_gauge_of_the_feed_that_sets_it_once_there_is_one() -> None:
    run = looked()
    assert "ingestor_reference_price" not in scraped(run)
    run.table.reference_price_e9 = 686_010_000_000
    family = scraped(run)["ingestor_reference_price"]
    assert (family.kind, family.of("stocks")) == ("gauge", Decimal("686.01"))


def test_the_version_is_told() -> None:
    assert scraped(looked())["ingestor_build_info"].samples == {(("version", __version__),): 1}


def test_a_run_says_what_it_is() -> None:
    families = scraped(looked())
    [labels] = families["ingestor_run_info"].samples
    assert dict(labels) == {"mode": "live", "stream": FACTS.stream, "server": FACTS.server}
    assert families["ingestor_start_time_seconds"].samples == {(): FACTS.started_ns // NS_PER_S}
    assert families["ingestor_leases"].samples == {(): 3}


def test_what_a_process_does_not_do_is_not_told_of_it() -> None:
    families = scraped(looked())
    assert {dict(labels)["process"] for labels in families["ingestor_connected"].samples} == {
        "stocks",
        "options",
        "publisher",
    }
    assert {dict(labels)["process"] for labels in families["ingestor_unacked"].samples} == {
        "publisher"
    }
    assert "ingestor_bytes" not in families
    assert "ingestor_replay_speed" not in families


def test_connected_and_for_how_long_not() -> None:
    run = looked()
    run.row("stocks").note_since(Counter.AWAY_SINCE_NS, True, NOW_NS - 3 * NS_PER_S)
    run.row("publisher").note_since(Counter.STALLED_SINCE_NS, True, NOW_NS - 2 * NS_PER_S)
    families = scraped(run)
    assert [families["ingestor_connected"].of(name) for name in NAMES[:3]] == [0, 1, 1]
    assert families["ingestor_away_seconds"].of("stocks") == 3
    assert families["ingestor_stalled_seconds"].of("publisher") == 2


def test_rows_are_told_by_subject_and_what_is_skipped_by_cause() -> None:
    run = looked()
    run.table.note_stored({"market.stocks.trades": 7})
    run.table.note_skipped(0, {"price": 2, "time": 1})
    families = scraped(run)
    assert families["ingestor_stored_total"].samples == {(("subject", "market.stocks.trades"),): 7}
    skipped = families["ingestor_skipped_by_cause_total"].samples
    assert {dict(labels)["cause"]: count for labels, count in skipped.items()} == {
        "price": 2,
        "time": 1,
    }


def test_latencies_are_histograms_with_a_bucket_for_each_power_of_two() -> None:
    run = looked()
    recorder = run.table.latencies.recorder(2, Hop.PUBLISH_TO_STORED)
    for ns, rows in ((2**13 - 1, 1), (2**13, 10), (2**20, 100), (2**40, 1_000)):
        recorder.add(ns, rows)
    recorder.flush()
    family = scraped(run)["ingestor_publish_to_stored_seconds"]
    assert (family.kind, family.help) == ("histogram", Hop.PUBLISH_TO_STORED.about)
    buckets = family.buckets("publisher")
    assert next(iter(buckets)) == str(2**13 / 1e9)
    assert [*buckets][-2:] == [str(2**36 / 1e9), "+Inf"]
    told = [buckets[str(2**octave / 1e9)] for octave in (13, 14, 20, 21, 36)]
    assert [int(rows) for rows in (*told, buckets["+Inf"])] == [1, 11, 11, 111, 111, 1_111]
    assert "ingestor_due_to_sent_seconds" not in scraped(run)


def test_processes_are_told_with_their_cpu_time_and_memory() -> None:
    run = looked()
    run.row("stocks")[Counter.PID] = os.getpid()
    families = scraped(run)
    assert families["ingestor_process_cpu_seconds_total"].of("stocks") > 0
    assert families["ingestor_process_resident_memory_bytes"].of("stocks") > 10**6
    run.row("stocks")[Counter.PID] = 2**22 + 1
    told = scraped(run)["ingestor_process_cpu_seconds_total"].samples
    assert {dict(labels)["process"] for labels in told} == {"supervisor"}


def test_a_replay_tells_its_speed_and_how_far_it_is() -> None:
    run = looked()
    trades, publisher = run.row("stocks"), run.row("publisher")
    trades[Counter.BYTES_TOTAL], trades[Counter.BYTES_READ] = 100, 50
    trades[Counter.RECORDS] = publisher[Counter.PUBLISHED] = 10
    facts = replace(FACTS, mode="replay", backlog_rows=None)
    view = replace(run.view, facts=facts, roles=(Role.FILES, Role.FILES, *ROLES[2:]))
    state = ReplayState(speed=2.0, paused=True)
    progress = ReplayProgress([("stocks", trades)], publisher, speed=1.0, steered=lambda: state)
    families = parse(exposition(view, progress, time.monotonic_ns()))
    # As it was told last, not as the run was started.
    assert families["ingestor_replay_wanted_speed"].samples == {(): 2}
    assert families["ingestor_replay_paused"].samples == {(): 1}
    assert families["ingestor_bytes"].of("stocks") == 100
    assert "ingestor_backlog_limit" not in families


def test_a_replay_as_fast_as_possible_is_as_far_as_its_files_are_read() -> None:
    run = looked()
    trades, publisher = run.row("stocks"), run.row("publisher")
    trades[Counter.BYTES_TOTAL], trades[Counter.BYTES_READ] = 100, 50
    trades[Counter.RECORDS] = publisher[Counter.PUBLISHED] = 10
    progress = ReplayProgress([("stocks", trades)], publisher)
    families = parse(exposition(run.view, progress, time.monotonic_ns()))
    assert families["ingestor_replay_done_ratio"].samples == {(): Decimal("0.5")}
    assert families["ingestor_replay_paused"].samples == {(): 0}


def test_what_is_wrong_is_told_while_it_is_so() -> None:
    view = looked().view
    unwell = [("stocks", "quiet"), ("publisher", "stalled")]
    families = parse(exposition(view, None, NOW_NS, unwell))
    assert families["ingestor_unwell"].samples == {
        (("process", "stocks"), ("what", "quiet")): 1,
        (("process", "publisher"), ("what", "stalled")): 1,
    }
    assert "ingestor_unwell" not in parse(exposition(view, None, NOW_NS))


def test_no_two_families_have_one_name() -> None:
    names = [one.name for one in RunCollector(looked().view, None, NOW_NS).families()]
    assert len(set(names)) == len(names) > 50
