"""What the metrics process serves, by a process of its own, over the loopback."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from ingestor.config.schema import Metrics
from ingestor.model.errors import ExitCode
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.metrics import MetricsPlan, listening, serve
from ingestor.runtime.progress_reporter import LiveProgress
from ingestor.runtime.supervisor import Child, ChildPlan, start_child
from ingestor.runtime.web import MAX_CONNECTIONS
from tests.runtime.exposition import parse
from tests.runtime.http import events, fetch
from tests.runtime.views import FACTS, NAMES, ROLES, Looked, looked

STALE_AFTER_S = 5.0
AWAY_AFTER_S = 30.0
PATIENCE_S = 20.0


class Served:
    """A run that is looked at; every process but the one that serves is made up."""

    def __init__(self, plan: MetricsPlan) -> None:
        self.run: Looked = looked()
        for name in NAMES:
            self.beat(name)
        self.port: int = plan.listener.getsockname()[1]
        processes = list(zip(NAMES, ROLES, strict=True))
        table = self.run.table
        serves = ChildPlan("metrics", lambda: serve(plan, FACTS, processes, table, LiveProgress))
        self.child: Child = start_child(serves)

    def beat(self, name: str, age_s: float = 0.0) -> None:
        row = self.run.row(name)
        row[Counter.HEARTBEAT_NS] = time.monotonic_ns() - int(age_s * NS_PER_S)

    def end(self) -> None:
        self.run.table.stop()
        for name in NAMES[:-1]:
            self.run.row(name)[Counter.ENDED] = 1


@pytest.fixture
def served() -> Iterator[Served]:
    limits = Metrics(listen="127.0.0.1:0", stale_after_s=STALE_AFTER_S, away_after_s=AWAY_AFTER_S)
    with listening(limits) as plan:
        assert plan is not None
        made = Served(plan)
        yield made
        made.child.process.kill()
        made.child.process.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_later(row: CounterRow, beat_ns: int) -> None:
    until(lambda: row[Counter.HEARTBEAT_NS] > beat_ns)


def test_what_another_process_counts_is_scraped(served: Served) -> None:
    served.run.row("stocks")[Counter.RECORDS] = 41
    served.run.row("stocks").add(Counter.RECORDS)
    got = fetch(served.port, "/metrics")
    assert (got.code, got.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert parse(got.text)["ingestor_records_total"].of("stocks") == 42


def test_health_is_that_of_every_process_and_names_who_is_silent(served: Served) -> None:
    assert (fetch(served.port, "/healthz").code, fetch(served.port, "/healthz").text) == (
        200,
        "ok\n",
    )
    served.beat("options", age_s=STALE_AFTER_S + 1)
    got = fetch(served.port, "/healthz")
    assert got.code == 503
    assert got.text.startswith("silent: options for 6.")
    served.run.row("options")[Counter.ENDED] = 1
    assert fetch(served.port, "/healthz").code == 200


def test_the_page_is_sent_all_at_first_and_then_what_is_new(served: Served) -> None:
    served.run.tell(FeedStatus(feed="options", what=What.GAP, at_ns=10**18, text="cut <b>"))
    until(lambda: "cut <b>" in str(next(events(served.port))["notes"]))
    until(lambda: bool(next(events(served.port))["samples"]))
    first, second = islice(events(served.port), 2)
    assert (first["whole"], second["whole"]) == (True, False)
    assert first["state"]["run"]["stream"] == "MARKET_DATA"
    assert [note["what"] for note in first["notes"]] == ["started", "gap"]
    assert (len(first["samples"]) > 0, second["notes"]) == (True, [])


@pytest.mark.parametrize(
    ("path", "kind", "holds"),
    [
        ("/", "text/html; charset=utf-8", "page.js"),
        ("/page.js", "text/javascript; charset=utf-8", "EventSource"),
        ("/page.css", "text/css; charset=utf-8", "prefers-color-scheme"),
        ("/icon.svg", "image/svg+xml", "<svg"),
    ],
)
def test_the_page_and_what_it_needs_come_from_here(
    served: Served, path: str, kind: str, holds: str
) -> None:
    got = fetch(served.port, path)
    assert (got.code, got.content_type) == (200, kind)
    assert holds in got.text
    assert "://" not in got.text.replace("http://www.w3.org/2000/svg", "")


def test_nothing_else_is_there_and_nothing_can_be_changed(served: Served) -> None:
    assert fetch(served.port, "/../etc/passwd").code == 404
    assert fetch(served.port, "/metrics", "POST").code == 405
    assert fetch(served.port, "/metrics?x=1").code == 200
    head = fetch(served.port, "/metrics", "HEAD")
    assert (head.code, head.text) == (200, "")


def test_clients_that_dawdle_hold_up_neither_the_heartbeat_nor_who_comes_after(
    served: Served,
) -> None:
    row = served.run.row("metrics")
    with contextlib.ExitStack() as stack:
        dawdlers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            for _ in range(MAX_CONNECTIONS - 1)
        ]
        for one in dawdlers:
            one.send(b"GET /metr")
        for _ in range(3):
            until_later(row, row[Counter.HEARTBEAT_NS])
            assert fetch(served.port, "/healthz").code == 200


def test_the_oldest_connection_makes_way_for_one_beyond_the_bound(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        dawdlers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            for _ in range(MAX_CONNECTIONS + 1)
        ]
        for one in dawdlers:
            one.send(b"GET /metr")
        for _ in range(3):
            began = time.monotonic()
            assert fetch(served.port, "/healthz").code == 200
            assert time.monotonic() - began < 2
        dawdlers[0].settimeout(PATIENCE_S)
        assert dawdlers[0].recv(1) == b""


def test_health_is_also_that_of_the_connections(served: Served) -> None:
    now_ns = time.monotonic_ns()
    served.run.row("stocks").away(True, now_ns - 20 * NS_PER_S)
    served.run.row("publisher").away(True, now_ns - 31 * NS_PER_S)
    got = fetch(served.port, "/healthz")
    assert got.code == 503
    assert got.text.startswith("without a connection: publisher for 31.")
    served.run.row("publisher").away(False, now_ns)
    assert fetch(served.port, "/healthz").code == 200
    assert parse(fetch(served.port, "/metrics").text)["ingestor_away_seconds"].of("stocks") >= 20


def test_it_serves_until_every_other_process_has_ended(served: Served) -> None:
    served.run.table.stop()
    for name in NAMES[:-2]:
        served.run.row(name)[Counter.ENDED] = 1
    assert fetch(served.port, "/healthz").code == 200
    served.end()
    served.child.process.join(PATIENCE_S)
    served.child.collect()
    assert served.child.outcome is not None
    assert served.child.outcome.exit_code == ExitCode.OK


def test_the_address_may_be_of_the_new_kind() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listening(Metrics(listen="[::1]:0")) as plan:
        assert plan is not None
        served = Served(plan)
        assert fetch(served.port, "/healthz", host="::1").code == 200
        served.child.process.kill()
        served.child.process.join()
