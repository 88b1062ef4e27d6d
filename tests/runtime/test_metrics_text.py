from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from ingestor import __version__
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import MONOTONIC, Counter
from ingestor.runtime.metrics_text import decimal, descriptions, exposition, metric_of
from tests.runtime.exposition import Family, parse
from tests.runtime.views import NAMES, NOW_NS, Looked, looked

NUMBERS = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(Counter), NUMBERS), max_size=30)


def scraped(run: Looked) -> dict[str, Family]:
    return parse(exposition(run.view, NOW_NS))


@given(ROWS)
def test_every_counter_of_every_process_is_read_back_exactly(
    rows: list[tuple[str, Counter, int]],
) -> None:
    run = looked()
    for name, counter, value in rows:
        run.row(name)[counter] = value
    families = scraped(run)
    for counter in set(Counter) - MONOTONIC:
        metric = metric_of(counter)
        unit = Decimal("1e-9") if metric.scaled else 1
        told = {dict(labels)["process"]: v for labels, v in families[metric.name].samples.items()}
        held = {name: run.row(name)[counter] * unit for name in NAMES}
        if metric.scaled:
            held = {name: value for name, value in held.items() if value}
        assert told == held
        assert (families[metric.name].help, families[metric.name].kind) == (
            descriptions()[counter],
            metric.kind,
        )


def test_every_counter_is_described_by_its_own_text_in_one_line() -> None:
    assert set(descriptions()) == set(Counter)
    assert descriptions()[Counter.PUBLISHED] == "Rows that the server has acknowledged."
    assert all("\n" not in text for text in descriptions().values())


def test_names_say_the_unit_and_the_kind_and_are_all_different() -> None:
    names = {counter: metric_of(counter)[:2] for counter in Counter}
    assert names[Counter.RECORDS] == ("ingestor_records_total", "counter")
    assert names[Counter.BYTES_TOTAL] == ("ingestor_bytes", "gauge")
    assert names[Counter.EVENT_TIME_NS] == ("ingestor_event_time_seconds", "gauge")
    assert names[Counter.REFERENCE_PRICE_E9] == ("ingestor_reference_price", "gauge")
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
    labels = (("process", "stocks"), ("feed", "stocks"), ("what", "silence"))
    assert samples == {labels: Decimal("1765895400.000000017")}


def test_the_version_is_told() -> None:
    assert scraped(looked())["ingestor_build_info"].samples == {(("version", __version__),): 1}


@given(NUMBERS)
def test_a_decimal_is_exact(value: int) -> None:
    assert Decimal(decimal(value)) == value * Decimal("1e-9")
