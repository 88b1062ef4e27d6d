"""The live vendor: its key, the way to its endpoints, and what the plan behind the key holds.

The login is made only when it is asked for: one key serves one connection a market, so it throws
out a run that uses the key.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import msgspec
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from ingestor.config.schema import Config, LiveFeedName
from ingestor.doctor import CheckResult, failed, passed, unknown, warned
from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.feeds.polygon.session import Phase, Session, SessionLimits
from ingestor.feeds.polygon.strikes import option_root
from ingestor.feeds.polygon.subscriptions import Fail, Report, Send, channel_names, shown
from ingestor.model.bounds import printable
from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S, new_york_date, now_ns
from ingestor.runtime.machine import program

WAY_TIMEOUT_S: Final = 5.0
SLOW_CONNECT_S: Final = 0.2
CERTIFICATE_DAYS: Final = 7
LOGIN_TIMEOUT_S: Final = 8.0
"""From an open socket to the answer to every name; what is silent until then is told as such."""
ACK_S: Final = 4
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
MAX_NAMES: Final = 4
"""Channels that are asked for to learn what the plan holds."""

_ANY_STRIKE: Final = "C00500000"
_KEY: Final = re.compile(r"[A-Za-z0-9_]{24,64}").fullmatch
_KEY_FILE: Final = "POLYGON_API_KEY_FILE"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def vendor_checks(config: Config, *, login: bool, needed: bool) -> Iterator[CheckResult]:
    """Yield what is found; `needed` where a run without a key is what was asked about."""
    key = config.polygon.api_key
    yield key_check(key, needed=needed)
    reached: dict[tuple[str, str], bool] = {}
    for feed, url in endpoints(config).items():
        # By default both are on one host, to which the way is looked at once.
        host = urlsplit(url)[:2]
        if host not in reached:
            found = list(way_checks(url))
            reached[host] = not any(finding.exit_code for finding in found)
            # Who has no key, and replays files, is not to be told of a failure at every call.
            yield from found if key or needed else map(_for_live_only, found)
        if reached[host]:
            yield login_check(config, feed, url, key) if login else _no_login(feed)


def _for_live_only(finding: CheckResult) -> CheckResult:
    if not finding.exit_code:
        return finding
    text = f"{finding.found}; only a live run needs it"
    return warned(finding.code, text, finding.mend, as_root=finding.as_root)


def endpoints(config: Config) -> dict[LiveFeedName, str]:
    """Return the addresses of the feeds that are configured."""
    polygon = config.polygon
    urls: dict[LiveFeedName, str] = {
        "stocks": polygon.stocks_url,
        "options": polygon.options_url,
    }
    return {feed: url for feed, url in urls.items() if feed in polygon.feeds}


def key_check(key: str | None, *, needed: bool) -> CheckResult:
    """Judge the key without showing any of it."""
    if key is None:
        text = "there is no key: neither POLYGON_API_KEY nor POLYGON_API_KEY_FILE is set"
        if needed:
            return failed("KEY", text, ExitCode.VENDOR_REFUSED, _key_mend())
        return warned("KEY", f"{text}; only a live run needs it", _key_mend())
    if _KEY(key):
        return passed("KEY", f"there is one, of {len(key)} characters")
    bare = key.strip("'\"")
    if bare != key:
        text = "there are quotation marks around the key, which become a part of it"
        return warned("KEY", text, _key_mend())
    return warned("KEY", f"its {len(key)} characters are not what keys look like", _key_mend())


def _key_mend() -> str:
    """Return what sets the key in the shell that it is typed in."""
    # Both at once are refused.
    unset = f"unset {_KEY_FILE}; " if os.environ.get(_KEY_FILE) else ""
    return f"{unset}read -rs POLYGON_API_KEY && export POLYGON_API_KEY"


def way_checks(url: str) -> Iterator[CheckResult]:
    """Yield what is found on the way to an endpoint: its name, TCP, TLS. Nothing is sent."""
    address = urlsplit(url)
    host, secure = address.hostname or "", address.scheme == "wss"
    port = address.port or (443 if secure else 80)
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield failed("VENDOR_DNS", f"{host}: {error.strerror}", ExitCode.CHILD_FAILED)
        return
    yield passed("VENDOR_DNS", f"{host} is {addresses[0][4][0]}")
    before = time.perf_counter()
    try:
        connection = socket.create_connection((host, port), WAY_TIMEOUT_S)
    except OSError as error:
        text = f"{host}:{port}: {error.strerror or error}"
        yield failed("VENDOR_TCP", text, ExitCode.CHILD_FAILED)
        return
    took_s = time.perf_counter() - before
    with connection:
        text = f"{host}:{port} answers in {took_s * 1000:.1f} ms"
        yield warned("VENDOR_TCP", text) if took_s > SLOW_CONNECT_S else passed("VENDOR_TCP", text)
        yield _tls_check(connection, host) if secure else _plain_text_finding(host)


def _tls_check(connection: socket.socket, host: str) -> CheckResult:
    try:
        with ssl.create_default_context().wrap_socket(connection, server_hostname=host) as secure:
            return certificate_finding(secure.getpeercert() or {}, secure.version(), time.time())
    except ssl.SSLCertVerificationError as error:
        text = f"{host}: the certificate is not trusted: {error.verify_message}"
        mend = "apt-get install -y --reinstall ca-certificates"
        return failed("VENDOR_TLS", text, ExitCode.CHILD_FAILED, mend, as_root=True)
    except OSError as error:
        return failed("VENDOR_TLS", f"{host}: {error}", ExitCode.CHILD_FAILED)


def certificate_finding(
    certificate: Mapping[str, object], version: str | None, now_s: float
) -> CheckResult:
    """Judge for how long a certificate is still good."""
    ends = certificate.get("notAfter")
    if not isinstance(ends, str):
        return unknown("VENDOR_TLS", "the certificate does not tell its end")
    days = (ssl.cert_time_to_seconds(ends) - now_s) / 86_400
    text = f"{version}, the certificate ends in {days:,.0f} days"
    return passed("VENDOR_TLS", text) if days >= CERTIFICATE_DAYS else warned("VENDOR_TLS", text)


def _plain_text_finding(host: str) -> CheckResult:
    if host in _LOOPBACK:
        return passed("VENDOR_TLS", f"{host} is this machine")
    return warned("VENDOR_TLS", f"{host} without TLS: everybody on the way can read the key")


def _no_login(feed: LiveFeedName) -> CheckResult:
    text = f"{feed}: not tried, since a login throws out a run that uses the key"
    return unknown("VENDOR_LOGIN", text, f"{program()} doctor live --login")


@dataclass(slots=True)
class _Login:
    """What came of a conversation: names that were granted, sentences of the vendor's."""

    granted: tuple[str, ...] = ()
    refused: list[str] = field(default_factory=list)
    failure: str | None = None


def login_check(config: Config, feed: LiveFeedName, url: str, key: str | None) -> CheckResult:
    """Log in as a run does, ask for a few channels, and leave."""
    if key is None:
        return unknown("VENDOR_LOGIN", f"{feed}: there is no key to log in with")
    names = _asked(config, feed)
    try:
        login = _logged_in(url, key, names)
    except (OSError, WebSocketException) as error:
        return failed("VENDOR_LOGIN", f"{feed}: {printable(str(error))}", ExitCode.CHILD_FAILED)
    if login.failure is not None:
        of_plan = "plan" in login.failure
        text = f"{feed}: {login.failure}" + (
            ", which polygon.feeds can leave out" if of_plan else ""
        )
        mend = "" if of_plan else _key_mend()
        return failed("VENDOR_LOGIN", text, ExitCode.VENDOR_REFUSED, mend)
    if login.refused:
        return warned("VENDOR_LOGIN", f"{feed}: {'; '.join(login.refused)}")
    return passed("VENDOR_LOGIN", f"{feed}: {shown(login.granted)} granted")


def _asked(config: Config, feed: LiveFeedName) -> Sequence[str]:
    if feed == "stocks":
        return channel_names(config.polygon.channels, config.polygon.stocks)[:MAX_NAMES]
    # The vendor acknowledges contracts that do not exist too: any one tells what the plan holds.
    day = MarketHours(OPTIONS).trading_days_from(new_york_date(now_ns()), 1)[0]
    contract = f"O:{option_root(config.strikes.underlying)}{day:%y%m%d}{_ANY_STRIKE}"
    return channel_names(("T", "Q") if config.polygon.option_quotes else ("T",), (contract,))


def _logged_in(url: str, key: str, names: Sequence[str]) -> _Login:
    """Hold the conversation of a `Session` over a blocking socket. Raises OSError and its kin."""
    limits = SessionLimits(ack_ns=ACK_S * NS_PER_S)
    session = Session(key, names, random=random.random, limits=limits)
    login, deadline_s = _Login(), time.monotonic() + LOGIN_TIMEOUT_S
    with connect(url, open_timeout=WAY_TIMEOUT_S, max_size=MAX_FRAME_BYTES) as socket_:
        session.on_open(now_ns())
        while time.monotonic() < deadline_s and login.failure is None:
            commands = [*session.on_statuses(_statuses(socket_), now_ns())]
            commands += session.on_tick(now_ns())
            for command in commands:
                match command:
                    case Send(text=text):
                        socket_.send(text)
                    case Report(text=text):
                        login.refused.append(text)
                    case Fail(text=text):
                        login.failure = text
            login.granted = session.subscriptions.granted
            if len(login.granted) == len(names) or login.refused:
                break
        if session.phase in (Phase.GREETING, Phase.AUTHENTICATING) and login.failure is None:
            login.refused.append(f"no login within {LOGIN_TIMEOUT_S:g} s")
    return login


def _statuses(connection: ClientConnection) -> list[StatusMessage]:
    """Return the statuses in the next frame; what else is in it is passed over."""
    with contextlib.suppress(TimeoutError, msgspec.MsgspecError):
        raw = msgspec.json.decode(connection.recv(timeout=0.5), type=list[msgspec.Raw])
        found = []
        for one in raw:
            with contextlib.suppress(msgspec.MsgspecError):
                found.append(msgspec.json.decode(one, type=StatusMessage))
        return found
    return []
