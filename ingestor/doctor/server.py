"""The NATS server: whether it answers and lets us in, what it can do, and what its stream is.

Nothing is made or changed there.
"""

from __future__ import annotations

import json
import shlex
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from ingestor.config.schema import Config
from ingestor.doctor import CheckResult, failed, passed, unknown, warned
from ingestor.model.bounds import MAX_JSON_EVENT_BYTES, printable
from ingestor.model.errors import ConfigurationError, ExitCode, IngestorError, NatsRefusedError
from ingestor.model.units import iso_utc
from ingestor.nats.answers import RefusedError
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi, Json
from ingestor.nats.options import ConnectOptions, Credentials, resolve
from ingestor.nats.stream import DEFAULT_SUBJECTS, FIXED, planned_changes
from ingestor.runtime.embedded_server import (
    DEFAULT_PORT,
    EMBEDDED_NAME,
    LOOPBACK,
    NotNatsError,
    server_info,
)
from ingestor.runtime.machine import program
from ingestor.runtime.publisher_factory import stream_settings
from ingestor.runtime.run_records import holders

FAST_INGEST: Final = (2, 14)
OLDEST: Final = (2, 10)
SLOW_ROUND_TRIP_S: Final = 0.002
ROUND_TRIPS: Final = 20
WANTED_PAYLOAD_BYTES: Final = 1_000_000
PACKED_PAYLOAD_BYTES: Final = 8_000_000
LEAST_FREE_SHARE: Final = 0.1
SPARE_PORT: Final = 4333
"""Named, or the next one that is free, where the server on this machine will not do."""
SPARE_PORTS: Final = 100
MONITOR_PORT: Final = 8222
"""Where a server is monitored by default; only there it tells how often it syncs."""
MONITOR_TIMEOUT_S: Final = 1.0
MAX_MONITOR_BYTES: Final = 1_000_000

_LOCAL: Final = (LOOPBACK, "localhost", "[::1]")


async def server_checks(config: Config) -> AsyncIterator[CheckResult]:
    """Yield what is found of the server that a run would use."""
    url = config.nats.url
    if url is None:
        finding = default_server_check()
        yield finding
        if finding.exit_code or "none listens" in finding.found:
            return
        url = f"nats://{LOOPBACK}:{DEFAULT_PORT}"
    try:
        options = config.nats.connect_options(url)
        credentials = resolve(options)
    except ConfigurationError as error:
        yield failed("NATS_ACCESS", str(error), ExitCode.CONFIGURATION)
        return
    connection = Connection(
        options, on_change=lambda: None, open_timeout_s=None, name="ingestor.doctor"
    )
    try:
        await connection.open()
    except NatsRefusedError as error:
        yield failed("NATS_ACCESS", str(error), ExitCode.NATS_REFUSED)
        return
    except IngestorError as error:
        mend = _start_command(credentials)
        yield failed("NATS_SERVER", str(error), ExitCode.NATS_UNREACHABLE, mend)
        return
    try:
        async for finding in _connected_checks(connection, config, options, credentials):
            yield finding
    finally:
        await connection.close()


def default_server_check() -> CheckResult:
    """Look at what a run finds that names no server."""
    where = f"port {DEFAULT_PORT}"
    try:
        info = server_info(DEFAULT_PORT)
    except NotNatsError as error:
        text = f"{where} is taken by something that is no NATS server ({error})"
        return failed("NATS_SERVER", text, ExitCode.EMBEDDED_SERVER, _another_server())
    if info is None:
        text = f"none is named and none listens on {where}: a run starts one of its own"
        return passed("NATS_SERVER", text)
    kind = "an embedded server" if info.server_name.startswith(EMBEDDED_NAME) else "a server"
    return passed("NATS_SERVER", f"none is named: {kind} {info.version} on {where} is used")


async def _connected_checks(
    connection: Connection, config: Config, options: ConnectOptions, credentials: Credentials
) -> AsyncIterator[CheckResult]:
    yield await _round_trip_check(connection, credentials)
    yield access_check(options, credentials)
    another = _another_server() if _ports_here(credentials) else ""
    yield version_check(connection.server_version, another)
    packed = config.publish.encoding == "packed"
    yield payload_check(connection.max_payload_bytes, packed=packed, mend=another)
    try:
        account = await connection.api("JetStream", "INFO", dict)
    except (IngestorError, TimeoutError) as error:
        text = f"{error}: start it with -js, or with jetstream {{}} in its configuration"
        yield failed("JETSTREAM", text, ExitCode.STREAM, another)
        return
    yield passed("JETSTREAM", f"on, streams: {account.get('streams', 0)}")
    yield limits_check(account)
    yield sync_check(credentials.servers)
    try:
        yield await stream_check(JetStreamApi(connection), config)
        yield await lease_check(connection, config.nats.stream)
    except (IngestorError, TimeoutError) as error:
        yield failed("STREAM", str(error), ExitCode.STREAM)


async def _round_trip_check(connection: Connection, credentials: Credentials) -> CheckResult:
    took: list[float] = []
    for _ in range(ROUND_TRIPS):
        before = time.perf_counter()
        if not await connection.answers(MONITOR_TIMEOUT_S):
            text = f"{credentials.names} does not answer any more"
            return failed("NATS_SERVER", text, ExitCode.NATS_UNREACHABLE)
        took.append(time.perf_counter() - before)
    # The fastest is the network; the rest is what else the machine does.
    fastest = min(took)
    text = f"{credentials.names} answers in {fastest * 1000:.2f} ms"
    return (
        warned("NATS_SERVER", text) if fastest > SLOW_ROUND_TRIP_S else passed("NATS_SERVER", text)
    )


def access_check(options: ConnectOptions, credentials: Credentials) -> CheckResult:
    """Judge how we are let in: what `resolve` warns of."""
    if not credentials.cautions:
        how = "over TLS" if credentials.tls is not None else "without TLS"
        return passed("NATS_ACCESS", f"let in {how}")
    files = (options.credentials_file, options.nkey_file, options.tls_key_file)
    named = [file for file in files if file is not None and str(file) in credentials.cautions[0]]
    mend = f"chmod 600 {shlex.quote(str(named[0]))}" if named else ""
    return warned("NATS_ACCESS", credentials.cautions[0], mend)


def version_check(version: tuple[int, int], mend: str = "") -> CheckResult:
    """Judge what the server is able to do; `mend` starts one that can do more."""
    text = f"nats-server {version[0]}.{version[1]}"
    if version >= FAST_INGEST:
        return passed("NATS_VERSION", text)
    if version >= OLDEST:
        text += ": without fast ingest a replay takes twice as long"
        return warned("NATS_VERSION", text, mend)
    return failed("NATS_VERSION", f"{text} is not supported", ExitCode.STREAM, mend)


def payload_check(max_bytes: int, *, packed: bool, mend: str = "") -> CheckResult:
    """Judge how long a message may be; `mend` starts a server that takes JSON of any event."""
    text = f"messages of up to {max_bytes:,} bytes (max_payload)"
    if max_bytes < MAX_JSON_EVENT_BYTES:
        return failed("NATS_PAYLOAD", text, ExitCode.NATS_REFUSED, mend)
    wanted = PACKED_PAYLOAD_BYTES if packed else WANTED_PAYLOAD_BYTES
    return passed("NATS_PAYLOAD", text) if max_bytes >= wanted else warned("NATS_PAYLOAD", text)


def limits_check(account: Json) -> CheckResult:
    """Judge how much of what the account may store is used."""
    most = int((account.get("limits") or {}).get("max_storage", -1))
    used = int(account.get("storage") or 0)
    if most <= 0:
        return passed("JETSTREAM_LIMITS", f"{used / 1e9:,.2f} GB stored, no limit of the account's")
    text = f"{used / 1e9:,.2f} GB of {most / 1e9:,.2f} GB stored"
    if used >= most:
        return failed("JETSTREAM_LIMITS", text, ExitCode.STREAM)
    if most - used < LEAST_FREE_SHARE * most:
        return warned("JETSTREAM_LIMITS", text)
    return passed("JETSTREAM_LIMITS", text)


def sync_check(servers: Sequence[str], monitor_port: int = MONITOR_PORT) -> CheckResult:
    """Ask the server's monitoring port, where it has one, how often its store is synced."""
    host = urlsplit(servers[0]).hostname or LOOPBACK
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{monitor_port}/varz"
    try:
        with urllib.request.urlopen(url, timeout=MONITOR_TIMEOUT_S) as answer:
            values: Any = json.loads(answer.read(MAX_MONITOR_BYTES))
        config = values["jetstream"]["config"]
    except (OSError, ValueError, KeyError, TypeError):
        text = f"the server has no monitoring port {monitor_port}; by default it syncs every 2 min"
        return unknown("NATS_SYNC", text)
    if config.get("sync_always"):
        return passed("NATS_SYNC", "always: what is acknowledged survives a power cut")
    interval_s = int(config.get("sync_interval") or 0) / 1e9
    text = f"every {interval_s:g} s: a killed server loses nothing, a power cut what came since"
    return passed("NATS_SYNC", text)


async def stream_check(api: JetStreamApi, config: Config) -> CheckResult:
    """Judge the stream that is there, or what stands in the way of making it."""
    settings = stream_settings(config.nats)
    info = await api.stream_info(settings.name)
    if info is None:
        return await _missing_stream_finding(api, settings.name, config.nats.url)
    existing: Json = info["config"]
    if (why := unusable(existing)) is not None:
        text = f"stream {settings.name} {why}"
        return failed("STREAM", text, ExitCode.STREAM)
    changes = planned_changes(settings, existing)
    # Fast ingest is switched on without a word by every run.
    changes.pop("allow_batched", None)
    state = info["state"]
    stored, gigabytes = int(state["messages"]), int(state["bytes"]) / 1e9
    text = f"stream {settings.name} holds {stored:,} messages, {gigabytes:,.2f} GB"
    if not changes:
        return passed("STREAM", text)
    told = ", ".join(
        f"{key} {existing.get(key)!r} {'stays, wanted' if key in FIXED else 'becomes'} {value!r}"
        for key, value in changes.items()
    )
    return warned("STREAM", f"{text}; {printable(told)}")


def unusable(existing: Json) -> str | None:
    """Say why nothing can be published to a stream of this configuration."""
    most = int(existing.get("max_msg_size") or -1)
    if existing.get("sealed"):
        return "is sealed: it takes no messages"
    if existing.get("no_ack"):
        return "has no_ack set: nothing can be known to be stored"
    if existing.get("mirror"):
        return "is a mirror: only its origin takes messages"
    if 0 <= most < MAX_JSON_EVENT_BYTES:
        return f"takes messages of at most {most} bytes; events need {MAX_JSON_EVENT_BYTES}"
    return None


async def _missing_stream_finding(
    api: JetStreamApi, name: str, url: str | Sequence[str] | None
) -> CheckResult:
    for subject in DEFAULT_SUBJECTS:
        answer = await api.call("streams", "STREAM.NAMES", {"subject": subject})
        others = [printable(other) for other in answer.get("streams") or []]
        if others:
            text = f"there is no stream {name}, and stream {others[0]} already takes {subject}"
            # What is typed is seen by all: a URL with a password is not repeated.
            told = url if isinstance(url, str) and "@" not in url else None
            at = f" --nats {shlex.quote(told)}" if told else ""
            mend = f"{program()} doctor nats{at} --stream {shlex.quote(others[0])}"
            return failed("STREAM", text, ExitCode.STREAM, mend)
    return passed("STREAM", f"there is no stream {name} yet: the first run makes it")


async def lease_check(connection: Connection, stream: str) -> CheckResult:
    """Judge whether another run is writing the stream now."""
    try:
        found = await holders(connection, stream)
    except RefusedError as refused:
        return unknown("LEASE", str(refused))
    if not found:
        return passed("LEASE", f"nobody is writing stream {stream}")
    one = found[0]
    since = iso_utc(one.since_ns)[:19]
    text = (
        f"run {printable(one.run)} (host {printable(one.host)}, pid {one.pid}, since {since}Z) is"
        f" writing stream {stream}"
    )
    return warned("LEASE", text)


def _ports_here(credentials: Credentials) -> list[int]:
    """Return the ports of the servers that were looked for on this machine."""
    places = [server.partition("://")[2].rpartition(":") for server in credentials.servers]
    return [int(port) for host, _, port in places if host in _LOCAL]


def _start_command(credentials: Credentials) -> str:
    """Return what starts a server where one was looked for, if that is here and the port free."""
    # One that is frozen still has its port: a second one would not start.
    free = [port for port in _ports_here(credentials) if _is_free(port)]
    return f"{program()} nats --port {free[0]} &" if free else ""


def _another_server() -> str:
    """Return what starts a server of ours beside the one that is not right, and names it."""
    port = next(filter(_is_free, range(SPARE_PORT, SPARE_PORT + SPARE_PORTS)), SPARE_PORT)
    return f"export NATS_URL=nats://{LOOPBACK}:{port}; {program()} nats --port {port} &"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0
