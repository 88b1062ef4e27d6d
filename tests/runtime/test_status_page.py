from __future__ import annotations

from html.parser import HTMLParser

from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter
from ingestor.runtime.status_page import REFRESH_S, status_page
from tests.runtime.views import NOW_NS, Looked, looked

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
    run.row("stocks")[Counter.REFERENCE_PRICE_E9] = 686_010_000_000
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
