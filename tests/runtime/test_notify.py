"""What systemd is told, on a datagram socket as it makes one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.notify import NotifySocket, RunNotifier
from ingestor.runtime.positions import Position
from ingestor.runtime.progress_reporter import LiveProgress

NOW_NS = 1_000 * NS_PER_S
WATCHDOG_US = 8_000_000


class Manager:
    """The end of systemd: what it has been sent, a datagram a text."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(65_536).decode())
            except BlockingIOError:
                return found


class Told:
    """A live run of two feeds, whose every process is well, and what is told of it."""

    def __init__(self, folder: Path, *, live: bool = True) -> None:
        path = str(folder / "notify")
        self.manager = Manager(path)
        self.table = CounterTable(3)
        self.stocks, self.options, self.publisher = (self.table.row(one) for one in range(3))
        feeds = [("stocks", self.stocks), ("options", self.options)]
        self.way = NotifySocket({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(WATCHDOG_US)})
        progress = LiveProgress(feeds, self.publisher)
        self.notifier = RunNotifier(
            self.way, self.table, feeds, self.publisher, progress, live=live
        )
        self.alive(NOW_NS)

    def alive(self, now_ns: int) -> None:
        for row in (self.stocks, self.options, self.publisher):
            row[Counter.HEARTBEAT_NS] = now_ns

    def prove_stream(self) -> None:
        self.table.note_position(Position())

    def subscribe(self) -> None:
        for row in (self.stocks, self.options):
            row[Counter.ATTEMPTS], row[Counter.SUBSCRIBED] = 1, 2

    def tick(self, now_ns: int = NOW_NS) -> list[str]:
        """What is sent with a tick, line by line."""
        self.notifier.tick(now_ns)
        return [line for text in self.manager.heard() for line in text.split("\n")]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    told = Told(tmp_path)
    with closing(told.manager.socket), closing(told.way):
        yield told


def test_ready_is_told_once_when_the_stream_is_proven_and_each_feed_is_subscribed(
    told: Told,
) -> None:
    told.table.reference_price_e9 = 1
    assert "READY=1" not in told.tick()
    told.subscribe()
    assert "READY=1" not in told.tick()
    told.prove_stream()
    told.options[Counter.SUBSCRIBED] = 0
    assert "READY=1" not in told.tick()
    told.options[Counter.SUBSCRIBED] = 1
    for row in (told.stocks, told.publisher):
        row.note_since(Counter.AWAY_SINCE_NS, True, NOW_NS)
        assert "READY=1" not in told.tick()
        row.note_since(Counter.AWAY_SINCE_NS, False, NOW_NS)
    assert "READY=1" in told.tick()
    assert "READY=1" not in told.tick()


def test_before_the_first_price_options_have_nothing_to_subscribe(told: Told) -> None:
    told.prove_stream()
    told.subscribe()
    told.options[Counter.SUBSCRIBED] = 0
    told.stocks[Counter.SUBSCRIBED] = 0
    assert "READY=1" not in told.tick()
    told.stocks[Counter.SUBSCRIBED] = 2
    assert "READY=1" in told.tick()


def test_a_feed_that_has_never_tried_to_connect_is_not_ready(told: Told) -> None:
    told.prove_stream()
    told.subscribe()
    told.options[Counter.ATTEMPTS] = 0
    assert "READY=1" not in told.tick()


def test_a_replay_is_ready_with_its_stream(tmp_path: Path) -> None:
    told = Told(tmp_path, live=False)
    with closing(told.manager.socket), closing(told.way):
        assert "READY=1" not in told.tick()
        told.prove_stream()
        assert "READY=1" in told.tick()


@pytest.mark.parametrize("silent", ["stocks", "options", "publisher"])
def test_the_watchdog_is_fed_while_each_process_gives_signs_of_life(
    silent: str, told: Told
) -> None:
    assert "WATCHDOG=1" in told.tick()
    late_ns = NOW_NS + WATCHDOG_US // 2 * 1_000
    told.alive(late_ns)
    getattr(told, silent)[Counter.HEARTBEAT_NS] = NOW_NS
    assert "WATCHDOG=1" in told.tick(late_ns)
    later_ns = late_ns + WATCHDOG_US // 4 * 1_000
    told.alive(later_ns)
    getattr(told, silent)[Counter.HEARTBEAT_NS] = NOW_NS
    assert "WATCHDOG=1" not in told.tick(later_ns)
    getattr(told, silent)[Counter.ENDED] = 1
    assert "WATCHDOG=1" in told.tick(later_ns)


def test_the_watchdog_is_fed_four_times_in_its_span(told: Told) -> None:
    step_ns = 100 * NS_PER_MS
    fed = 0
    for at_ns in range(NOW_NS, NOW_NS + WATCHDOG_US * 1_000, step_ns):
        told.alive(at_ns)
        fed += told.tick(at_ns).count("WATCHDOG=1")
    assert fed == 4


def test_the_status_is_the_line_of_progress_once_a_second(told: Told) -> None:
    told.publisher[Counter.PUBLISHED] = 1_234
    statuses = []
    for at_ns in range(NOW_NS, NOW_NS + 3 * NS_PER_S, 100 * NS_PER_MS):
        told.alive(at_ns)
        statuses += [line for line in told.tick(at_ns) if line.startswith("STATUS=")]
    assert len(statuses) == 3
    assert statuses[0].startswith("STATUS=1,234 events, ")
    assert "stocks 0/s, no event yet" in statuses[0]


def test_that_it_stops_is_told_once(told: Told) -> None:
    assert "STOPPING=1" not in told.tick()
    told.table.stop()
    assert "STOPPING=1" in told.tick()
    assert "STOPPING=1" not in told.tick()


def test_what_the_socket_does_not_take_is_told_later(tmp_path: Path) -> None:
    told = Told(tmp_path, live=False)
    told.prove_stream()
    told.manager.socket.close()
    told.notifier.tick(NOW_NS)
    (tmp_path / "notify").unlink()
    told.manager = Manager(str(tmp_path / "notify"))
    with closing(told.manager.socket), closing(told.way):
        assert {"READY=1", "WATCHDOG=1"} <= set(told.tick())


def test_a_full_socket_keeps_nobody_waiting(told: Told) -> None:
    sent = 0
    while told.way.send("STATUS=x"):
        sent += 1
    assert sent > 0
    assert not told.way.send("READY=1")
    assert told.manager.heard() == ["STATUS=x"] * sent


def test_a_name_in_the_abstract_namespace_is_understood() -> None:
    name = f"ingestor-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    with closing(manager.socket), closing(NotifySocket({"NOTIFY_SOCKET": f"@{name}"})) as way:
        assert way.status("two\nlines")
        assert manager.heard() == ["STATUS=two\\nlines"]


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "notify"])
def test_where_nobody_asks_nothing_is_sent(name: str) -> None:
    way = NotifySocket({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})
    assert not way.asked
    assert way.watchdog_ns == 0
    assert not way.send("READY=1")


@pytest.mark.parametrize(
    ("more", "watchdog_ns"),
    [
        ({"WATCHDOG_USEC": "2000"}, 2_000_000),
        ({"WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())}, 2_000_000),
        ({"WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({}, 0),
    ],
)
def test_a_watchdog_is_heeded_that_is_meant_for_this_process(
    more: dict[str, str], watchdog_ns: int
) -> None:
    with closing(NotifySocket({"NOTIFY_SOCKET": "/run/notify", **more})) as way:
        assert way.watchdog_ns == watchdog_ns


def test_a_configuration_that_is_read_again_is_told_before_and_after(told: Told) -> None:
    told.prove_stream()
    told.subscribe()
    told.notifier.around(lambda: None)
    assert told.manager.heard() == []  # it is starting, and READY=1 would say that it is not
    told.tick()

    def read() -> None:
        told.way.send("X_READ=1")

    told.notifier.around(read)
    heard = [text.partition("\n")[0] for text in told.manager.heard()]
    assert heard == ["RELOADING=1", "X_READ=1", "READY=1"]
