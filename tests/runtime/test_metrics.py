"""The metrics process, as a process, over the loopback."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from ingestor.config.schema import Metrics
from ingestor.model.errors import ConfigurationError, ExitCode
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.metrics import MAX_REQUESTS, MetricsPlan, listening, serve
from ingestor.runtime.supervisor import Child, ChildPlan, start_child
from tests.runtime.exposition import parse
from tests.runtime.http import fetch
from tests.runtime.views import NAMES, Looked, looked

STALE_AFTER_S = 5.0
PATIENCE_S = 20.0


class Served:
    """A run that is looked at; every process but the one that serves is made up."""

    def __init__(self, plan: MetricsPlan) -> None:
        self.run: Looked = looked()
        for name in NAMES:
            self.beat(name)
        self.port: int = plan.listener.getsockname()[1]
        run = self.run
        self.child: Child = start_child(ChildPlan("metrics", lambda: serve(plan, NAMES, run.table)))

    def beat(self, name: str, age_s: float = 0.0) -> None:
        row = self.run.row(name)
        row[Counter.HEARTBEAT_NS] = time.monotonic_ns() - int(age_s * NS_PER_S)

    def end(self) -> None:
        self.run.table.stop()
        for name in NAMES[:-1]:
            self.run.row(name)[Counter.ENDED] = 1


@pytest.fixture
def served() -> Iterator[Served]:
    with listening(Metrics(listen="127.0.0.1:0", stale_after_s=STALE_AFTER_S)) as plan:
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


def test_the_page_shows_the_last_status(served: Served) -> None:
    served.run.tell(FeedStatus(feed="options", what=What.GAP, at_ns=1, text="cut & back"))
    got = fetch(served.port, "/")
    assert (got.code, got.content_type) == (200, "text/html; charset=utf-8")
    assert "cut &amp; back" in got.text


def test_nothing_else_is_there_and_nothing_can_be_changed(served: Served) -> None:
    assert fetch(served.port, "/../etc/passwd").code == 404
    assert fetch(served.port, "/metrics", "POST").code == 501
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
            for _ in range(MAX_REQUESTS - 1)
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
            for _ in range(MAX_REQUESTS + 1)
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


def test_it_is_off_unless_told() -> None:
    with listening(Metrics()) as plan:
        assert plan is None


def test_an_address_that_cannot_be_had_is_a_wrong_configuration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        sentence = f"metrics.listen = '{listen}' cannot be listened on: Address already in use"
        with pytest.raises(ConfigurationError, match=sentence), listening(Metrics(listen=listen)):
            pass
    for listen in ("127.0.0.1:65536", "192.0.2.1:80", "no.such.host.invalid:80"):
        with pytest.raises(ConfigurationError, match=listen), listening(Metrics(listen=listen)):
            pass


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
