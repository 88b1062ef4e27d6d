from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ingestor import __version__
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import MONOTONIC, Counter
from ingestor.runtime.run_view import REFRESH_S, decimal, exposition, series_of, status_page
from tests.runtime.exposition import Family, parse
from tests.runtime.views import NAMES, NOW_NS, Looked, looked


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


NUMBERS = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(Counter), NUMBERS), max_size=30)


def scraped(run: Looked) -> dict[str, Family]:
    return parse(exposition(run.view, NOW_NS))


@given(ROWS)
def test_every_counter_of_every_process_is_read_back_as_the_nearest_float(
    rows: list[tuple[str, Counter, int]],
) -> None:
    run = looked()
    for name, counter, value in rows:
        run.row(name)[counter] = value
    families = scraped(run)
    for counter in set(Counter) - MONOTONIC:
        series = series_of(counter)
        samples = families[series.name].samples
        told = {dict(labels)["process"]: float(value) for labels, value in samples.items()}
        unit = Fraction(1, 10**9) if series.scaled else 1
        held = {name: float(run.row(name)[counter] * unit) for name in NAMES}
        if series.scaled:
            held = {name: value for name, value in held.items() if value}
        assert told == held
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
    family = scraped(run)["ingestor_reference_price"]
    assert (family.kind, family.samples) == ("gauge", {})
    run.table.reference_price_e9 = 686_010_000_000
    assert scraped(run)["ingestor_reference_price"].of("stocks") == Decimal("686.01")


def test_the_version_is_told() -> None:
    assert scraped(looked())["ingestor_build_info"].samples == {(("version", __version__),): 1}


@given(NUMBERS)
def test_a_decimal_is_exact(value: int) -> None:
    assert Decimal(decimal(value)) == value * Decimal("1e-9")


VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Takes a page apart: rows of tables, other texts; every element must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.metas: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            self.metas.append(dict(attrs))
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.texts.append(data)


def page(run: Looked) -> Reader:
    reader = Reader()
    wall_ns = 1_765_895_400 * NS_PER_S
    reader.feed(status_page(run.view, NOW_NS, wall_ns, stale_after_s=5.0))
    reader.close()
    assert reader.open == []
    return reader


def test_processes_are_columns_and_what_they_counted_rows_with_a_description() -> None:
    run = looked()
    run.row("stocks")[Counter.RECORDS] = 1_234_567
    run.row("publisher")[Counter.RECORDS] = 1_234
    read = page(run)
    assert read.rows[0] == ["", "stocks", "options", "publisher", "metrics", ""]
    about = "Records a feed put in its ring, or rows that the publisher was handed."
    assert ["records", "1,234,567", "", "1,234", "", about] in read.rows
    assert len(read.rows) == 3


def test_who_runs_who_is_silent_and_who_has_ended_is_told() -> None:
    run = looked(age_ns=100_000_000)
    run.row("stocks")[Counter.HEARTBEAT_NS] = NOW_NS - 9 * NS_PER_S
    run.row("options")[Counter.ENDED] = 1
    states = page(run).rows[1][:5]
    assert states == ["state", "silent for 9.0 s", "ended", "runs, 0.1 s", "runs, 0.1 s"]


def test_times_and_prices_are_readable() -> None:
    run = looked()
    run.row("stocks")[Counter.EVENT_TIME_NS] = 1_765_895_400_017_150_864
    run.table.reference_price_e9 = 686_010_000_000
    cells = {row[0]: row[1] for row in page(run).rows}
    assert cells["event time"] == "2025-12-16T14:30:00.017Z"
    assert cells["reference price"] == "686.010000000"


def test_the_last_statuses_are_there_and_a_vendors_words_are_only_words() -> None:
    run = looked()
    text = "<script>alert('x')</script> & more"
    run.tell(FeedStatus(feed="options", what=What.ALARM, at_ns=5, text=text))
    assert any(text in found for found in page(run).texts)


def test_it_loads_itself_again() -> None:
    assert {"http-equiv": "refresh", "content": str(REFRESH_S)} in page(looked()).metas
