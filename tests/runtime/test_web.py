"""What the metrics process serves, by a process of its own, over the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec
import pytest

from ingestor.config.schema import Metrics
from ingestor.merge.steering import Steering
from ingestor.model.errors import ExitCode
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.replay_control import MAX_COMMAND_BYTES, ControlAnswer
from ingestor.model.units import NS_PER_S
from ingestor.runtime.controller import Controller
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.metrics import MetricsPlan, listening, serve
from ingestor.runtime.progress_reporter import LiveProgress
from ingestor.runtime.supervisor import Child, ChildPlan, start_child
from ingestor.runtime.web import MAX_CONNECTIONS
from tests.runtime.exposition import parse
from tests.runtime.http import events, fetch
from tests.runtime.publishing import publishing
from tests.runtime.views import FACTS, NAMES, ROLES, Looked, looked

STALE_AFTER_S = 5.0
AWAY_AFTER_S = 30.0
PATIENCE_S = 20.0


class Served:
    """A run that is looked at; every process but the one that serves is made up."""

    def __init__(self, plan: MetricsPlan, controller: Controller | None = None) -> None:
        self.run: Looked = looked()
        for name in NAMES:
            self.beat(name)
        self.port: int = plan.listener.getsockname()[1]
        processes = list(zip(NAMES, ROLES, strict=True))
        table = self.run.table

        def serves() -> None:
            serve(plan, FACTS, processes, table, LiveProgress, controller=controller)

        self.child: Child = start_child(ChildPlan("metrics", serves))

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


@dataclass
class Steerable:
    """A replay that is looked at, and may be steered by who has the token."""

    served: Served
    token: str
    steering: Steering

    def post(self, body: bytes, **headers: str) -> tuple[int, ControlAnswer]:
        given = {"Authorization": f"token {self.token}"} | headers
        got = fetch(self.served.port, "/control", "POST", body=body, **given)
        assert got.content_type == "application/json"
        return got.code, msgspec.json.decode(got.text, type=ControlAnswer)


@pytest.fixture
def steerable() -> Iterator[Steerable]:
    controller, steering = Controller(), Steering(2)
    with listening(Metrics(listen="127.0.0.1:0"), steerable=True) as plan:
        assert plan is not None
        assert plan.token is not None
        served = Served(plan, controller)
        with publishing(controller, steering):
            yield Steerable(served, plan.token, steering)
        served.child.process.kill()
        served.child.process.join()
    controller.close()


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


@pytest.mark.parametrize("body", [b"step 5", b'{"do":"step","events":5}'])
def test_who_has_the_token_steers(steerable: Steerable, body: bytes) -> None:
    code, answer = steerable.post(body)
    assert (code, answer.ok) == (200, True)
    assert answer.text == "a step of 5 events, before the first event"
    assert answer.state == steerable.steering.state
    assert steerable.steering.generation == 1
    bearer = {"Authorization": f"Bearer {steerable.token}"}
    host = f"127.0.0.1:{steerable.served.port}"
    assert steerable.post(b"pause", Origin=f"http://{host}", **bearer)[0] == 200


@pytest.mark.parametrize(
    "authorization", ["", "token", "token wrong", "token {}x", "Basic {}", "{}", "token \u00e9"]
)
def test_without_the_token_nothing_is_steered(steerable: Steerable, authorization: str) -> None:
    given = authorization.format(steerable.token)
    code, answer = steerable.post(b"pause", Authorization=given)
    assert (code, answer.ok, steerable.steering.generation) == (403, False, 0)
    assert "needs the token of this run" in answer.text


def test_a_page_of_another_origin_steers_nothing(steerable: Steerable) -> None:
    port = steerable.served.port
    for origin in (f"http://localhost:{port}", "http://127.0.0.1", "https://evil.example", "null"):
        code, answer = steerable.post(b"pause", Origin=origin)
        assert (code, answer.ok, steerable.steering.generation) == (403, False, 0)
    # A browser asks before it sends the token for another origin, and is not told that it may.
    asked = fetch(port, "/control", "OPTIONS", Origin="https://evil.example")
    assert asked.code == 405


def test_what_is_no_command_is_told_so_and_a_long_one_is_not_read_to_its_end(
    steerable: Steerable,
) -> None:
    for body in (b"", b"fly", b"speed fast", b'{"do":"fly"}', b"\xff", b"{"):
        code, answer = steerable.post(body)
        assert (code, answer.ok) == (400, False)
    code, answer = steerable.post(b" " * (MAX_COMMAND_BYTES + 1))
    assert (code, answer.text) == (400, f"a command has at most {MAX_COMMAND_BYTES} bytes")
    assert steerable.post(b" " * (MAX_COMMAND_BYTES - 5) + b"pause")[0] == 200
    assert steerable.steering.generation == 1


def test_who_steers_while_the_run_ends_is_told_so() -> None:
    controller, loop = Controller(), asyncio.new_event_loop()
    with listening(Metrics(listen="127.0.0.1:0"), steerable=True) as plan:
        assert plan is not None
        assert plan.token is not None
        run = Served(plan, controller)

        def end_instead() -> None:
            run.end()
            loop.stop()

        loop.call_soon(controller.listen, loop, end_instead)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        code, answer = Steerable(run, plan.token, Steering()).post(b"pause")
        thread.join()
        run.child.process.join(PATIENCE_S)
    loop.close()
    controller.close()
    assert (code, answer.text) == (503, "the replay has come to its end")


def test_a_run_that_cannot_be_steered_has_no_place_for_commands(served: Served) -> None:
    assert fetch(served.port, "/control", "POST", body=b"pause").code == 404
    assert next(events(served.port))["state"]["run"]["steerable"] is False


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
    served.run.row("stocks").note_since(Counter.AWAY_SINCE_NS, True, now_ns - 20 * NS_PER_S)
    served.run.row("publisher").note_since(Counter.AWAY_SINCE_NS, True, now_ns - 31 * NS_PER_S)
    got = fetch(served.port, "/healthz")
    assert got.code == 503
    assert got.text.startswith("without a connection: publisher for 31.")
    served.run.row("publisher").note_since(Counter.AWAY_SINCE_NS, False, now_ns)
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
