"""Telling systemd how a run stands: datagrams to the socket that it names, sd_notify(3).

    READY=1      once the stream is proven and every live feed has what it subscribes
    WATCHDOG=1   only while every process on the way of the data gives signs of life: that the
                 supervisor's own loop turns would prove nothing
    STATUS=      the line that people see on a terminal
    RELOADING=1  while the configuration is read again, and READY=1 after it
    STOPPING=1   once the run has been asked to stop

Nothing is sent where nobody asks for it. A datagram that the socket does not take at once is sent
again with the next tick: the supervisor waits for nobody.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ingestor.model.bounds import MAX_LINE_CHARS, printable
from ingestor.model.units import NS_PER_S, NS_PER_US
from ingestor.runtime.counters import Counter, CounterRow, CounterTable
from ingestor.runtime.progress_reporter import Progress

STATUS_NS: Final = NS_PER_S
"""How often the status is told."""


class NotifySocket:
    """The way to systemd; `asked` is False where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        # Others, such as a virtual machine's vsock:, are no way to the manager of this machine.
        self.asked = name.startswith(("/", "@"))
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self.watchdog_ns = _watchdog_ns(environment) if self.asked else 0
        """A run that has not been called alive for so long is killed; 0 where nobody looks."""
        if self.asked:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def send(self, *lines: str) -> bool:
        """Send assignments as one datagram without waiting; whether it was taken."""
        if not self.asked:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
        except OSError:
            return False
        return True

    def status(self, sentence: str) -> bool:
        """Tell people who ask `systemctl status`."""
        return self.send(f"STATUS={printable(sentence, MAX_LINE_CHARS)}")

    def close(self) -> None:
        """Close the socket; nothing is sent after that."""
        if self.asked:
            self.asked = False
            self._socket.close()


class RunNotifier:
    """Looks at the counters of a run, ten times a second, and tells systemd what has changed."""

    def __init__(
        self,
        way: NotifySocket,
        table: CounterTable,
        feeds: Sequence[tuple[str, CounterRow]],
        publisher: CounterRow,
        progress: Progress,
        *,
        live: bool,
    ) -> None:
        self._way = way
        self._table = table
        self._live_feeds = feeds if live else ()
        self._publisher = publisher
        self._rows = [*(row for _, row in feeds), publisher]
        self._progress = progress
        self._told: set[str] = set()
        self._alive_due_ns = 0
        self._status_due_ns = 0

    def around(self, reload: Callable[[], None]) -> None:
        """Tell that the configuration is read again, have it read, and tell that it was."""
        # A run that is not ready yet stays so: READY=1 would be taken for the end of its start.
        if "READY=1" not in self._told:
            reload()
            return
        self._way.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // NS_PER_US}")
        reload()
        self._way.send("READY=1")

    def tick(self, now_ns: int) -> None:
        """Send what is due at `now_ns` of the monotonic clock."""
        if not self._way.asked:
            return
        lines = []
        if "READY=1" not in self._told and self._is_ready():
            lines.append("READY=1")
        if "STOPPING=1" not in self._told and self._table.stopping:
            lines.append("STOPPING=1")
        if lines and self._way.send(*lines):
            self._told.update(lines)
        watchdog_ns = self._way.watchdog_ns
        is_due = watchdog_ns > 0 and now_ns >= self._alive_due_ns
        all_move = is_due and all(
            row[Counter.ENDED] or now_ns - row[Counter.HEARTBEAT_NS] <= watchdog_ns // 2
            for row in self._rows
        )
        if all_move and self._way.send("WATCHDOG=1"):
            # Twice as often as sd_notify(3) advises: a tick may be late.
            self._alive_due_ns = now_ns + watchdog_ns // 4
        if now_ns >= self._status_due_ns:
            self._status_due_ns = now_ns + STATUS_NS
            self._way.status(self._progress.snapshot(now_ns).sentence())

    def _is_ready(self) -> bool:
        # The publisher shows a position once it has opened the stream, and not before.
        if self._table.position is None or self._publisher[Counter.AWAY_SINCE_NS]:
            return False
        return all(self._is_subscribed(name, row) for name, row in self._live_feeds)

    def _is_subscribed(self, name: str, row: CounterRow) -> bool:
        if row[Counter.AWAY_SINCE_NS] or not row[Counter.ATTEMPTS]:
            return False
        # Before the day's first price there are no strikes to subscribe.
        waits = name == "options" and self._table.reference_price_e9 is None
        return waits or row[Counter.SUBSCRIBED] > 0


def _watchdog_ns(environment: Mapping[str, str]) -> int:
    """Return the span of sd_watchdog_enabled(3); 0 where none is set, or another process's is."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    span = environment.get("WATCHDOG_USEC", "")
    return int(span) * NS_PER_US if span.isdecimal() else 0
