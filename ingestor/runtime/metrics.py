"""The metrics process: metrics, a health check and a page about a run, over HTTP.

It reads shared memory and costs the run nothing, and the run goes on without it should it fail. A
replay may be steered from its page by whoever has the token that stands behind its address. Its
socket is bound before anything starts: a port that is taken is a wrong configuration. What is
served is in `ingestor.runtime.web`, which is imported there alone: other processes do not pay for
its libraries.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ingestor.config.schema import Config, Metrics
from ingestor.model.errors import ConfigurationError, PlaceInUseError
from ingestor.model.units import now_ns
from ingestor.nats.options import ConnectOptions, resolve
from ingestor.runtime.controller import Controller
from ingestor.runtime.counters import CounterTable, Role
from ingestor.runtime.progress_reporter import MakeProgress
from ingestor.runtime.run_keeper import Keeping
from ingestor.runtime.run_records import RunRecord

METRICS: Final = "metrics"

_BACKLOG: Final = 16
_MAX_PORT: Final = 65_535
_TOKEN_BYTES: Final = 24

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MetricsPlan:
    """Where metrics are served, bound already, and the limits of what counts as well.

    Who has the `token` may steer the replay; without one nobody may. `service` says where the run
    can be looked at over NATS as well, and what it is.
    """

    listener: socket.socket
    limits: Metrics
    token: str | None = None
    service: tuple[ConnectOptions, RunRecord] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What does not change while a run lasts; times are ns UTC.

    `steerable` says whether the page can steer a replay; `backlog_rows` and `journal_dir` are a
    live run's.
    """

    mode: str
    """``live`` or ``replay``."""
    demo: bool = False
    stream: str
    server: str
    """Addresses, without secrets."""
    encoding: str = "json"
    started_ns: int
    pid: int
    leases: int = 0
    steerable: bool = False
    backlog_rows: int | None = None
    journal_dir: Path | None = None


def shown_by(
    plan: MetricsPlan | None,
    config: Config,
    options: ConnectOptions,
    keeping: Keeping | None,
    *,
    live: bool,
    demo: bool,
) -> tuple[MetricsPlan, RunFacts] | None:
    """Return what `Run` is given to serve; None where nothing is."""
    if plan is None:
        return None
    if keeping is not None:
        plan = replace(plan, service=(options, keeping.record))
    facts = RunFacts(
        mode="live" if live else "replay",
        demo=demo,
        stream=config.nats.stream,
        server=resolve(options).names,
        encoding=config.publish.encoding,
        started_ns=now_ns(),
        pid=os.getpid(),
        leases=len(keeping.leases) if keeping is not None else 0,
        steerable=plan.token is not None,
        backlog_rows=config.polygon.backlog_rows if live else None,
        journal_dir=config.record.dir if live else None,
    )
    return plan, facts


@contextmanager
def listening(
    metrics: Metrics, *, demo: bool = False, steerable: bool = False
) -> Iterator[MetricsPlan | None]:
    """Bind the configured address for as long as the run lasts; None where there is none.

    A demo takes any other port where somebody has this one. The address of a run that is
    `steerable` is told with its token, as Jupyter does. Raises ConfigurationError when it cannot be
    bound, PlaceInUseError where another process has it.
    """
    if metrics.listen is None:
        yield None
        return
    with _bound(metrics.listen, or_any=demo) as listener:
        token = secrets.token_urlsafe(_TOKEN_BYTES) if steerable else None
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        address = f"http://{shown}/" + (f"?token={token}" if token else "")
        log.info("metrics and the status page are at %s", address)
        yield MetricsPlan(listener, metrics, token)


def serve(
    plan: MetricsPlan,
    facts: RunFacts,
    processes: Sequence[tuple[str, Role]],
    table: CounterTable,
    progress: MakeProgress,
    *,
    controller: Controller | None = None,
) -> None:
    """Serve until feeds and publisher have ended; `processes` are those of the table's rows.

    The `controller` is a replay's.
    """
    # Only this process pays for a web server and the exposition's library: 25 MB, 0.3 s.
    from ingestor.runtime.run_view import RunView  # noqa: PLC0415
    from ingestor.runtime.web import run  # noqa: PLC0415

    names = [name for name, _ in processes]
    state = (lambda: None) if controller is None else lambda: controller.state
    view = RunView(names, [role for _, role in processes], table, facts, state)
    feeds = [(name, row) for _, name, row in view.having(Role.FEED)]
    run(plan, view, progress(feeds, table.row(len(feeds))), names.index(METRICS), controller)


def _bound(listen: str, *, or_any: bool) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if int(port) > _MAX_PORT:
        raise ConfigurationError(f"metrics.listen = {listen!r}: there are ports up to {_MAX_PORT}")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Bound before the run starts, and inherited: a port that is taken costs no run.
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except OSError as error:
        if or_any and error.errno == errno.EADDRINUSE:
            return socket.create_server((host, 0), family=family, backlog=_BACKLOG)
        reason = error.strerror or str(error)
        kind = PlaceInUseError if error.errno == errno.EADDRINUSE else ConfigurationError
        raise kind(f"metrics.listen = {listen!r} cannot be listened on: {reason}") from None
