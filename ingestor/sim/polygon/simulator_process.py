"""Start a simulator as a process of its own, talk to its control channel, stop it."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final, Self
from urllib.parse import urlsplit

from ingestor.model.errors import ChildFailedError

READY_S: Final = 20.0
ANSWER_S: Final = 10.0
STOP_S: Final = 5.0
POLL_S: Final = 0.01


class SimulatorProcess:
    """A running simulator; use it as a context manager, or call `stop`.

    The process also ends when this one does: it watches the pipe that is its standard input.

    Attributes:
        stocks_url: WebSocket address of the stocks feed.
        options_url: WebSocket address of the options feed.
        control_url: ``tcp://host:port`` of the control channel.
        pid: Its process id.
    """

    def __init__(self, *arguments: str) -> None:
        """Start it with command-line arguments and wait until it listens.

        Raises:
            ChildFailedError: it ended, or said nothing for `READY_S` seconds.
        """
        # Without -P a folder `ingestor` where we are called would be taken for this package. In a
        # session of its own Ctrl-C does not end it before whoever uses it.
        command = [sys.executable, "-P", "-m", "ingestor.sim.polygon", "--exit-with-stdin"]
        self._process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        ready = self._ready_line()
        self.stocks_url: str = ready["stocks_url"]
        self.options_url: str = ready["options_url"]
        self.control_url: str = ready["control_url"]
        self.pid = self._process.pid
        address = urlsplit(self.control_url)
        self._socket = socket.create_connection((address.hostname, address.port or 0), ANSWER_S)
        self._answers = self._socket.makefile("rb")

    def control(self, do: str, **fields: Any) -> dict[str, Any]:
        """Carry out a command, e.g. ``control("rate", events_per_s=10)``; return its answer.

        Raises:
            ChildFailedError: the simulator refuses the command, or is gone.
        """
        self._socket.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
        line = self._answers.readline()
        if not line:
            raise ChildFailedError(f"the simulator is gone before it answered {do!r}")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise ChildFailedError(f"the simulator refuses {do!r}: {answer['error']}")
        return answer

    def wait_until(
        self, condition: Callable[[dict[str, Any]], bool], timeout_s: float = ANSWER_S
    ) -> dict[str, Any]:
        """Return the first `stats` for which a condition holds. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout_s
        # Polled: the channel answers, it never speaks first.
        while not condition(stats := self.control("stats")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the simulator did not get there in {timeout_s} s: {stats}")
            time.sleep(POLL_S)
        return stats

    def problem(self) -> str | None:
        """A sentence when it has ended without being told to."""
        code = self._process.poll()
        return None if code is None else f"the simulator ended by itself (exit code {code})"

    def stop(self) -> int:
        """End the process, by force if it must be; return its exit code."""
        self._answers.close()
        self._socket.close()
        self._process.terminate()
        return self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _ready_line(self) -> dict[str, Any]:
        stdout = self._process.stdout
        if stdout is not None and select.select([stdout], [], [], READY_S)[0]:
            line = stdout.readline()
            if line:
                ready: dict[str, Any] = json.loads(line)
                return ready
        self._process.kill()
        code = self._wait()
        raise ChildFailedError(f"the simulator did not start (exit code {code}), see its errors")

    def _wait(self) -> int:
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code
