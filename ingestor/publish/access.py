"""Where the NATS server is and how to be let in, checked before anything connects.

User and password may stand in the URL; they are taken out of it here, so that whatever names a
server in a message or a log can name nothing else.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import nkeys  # type: ignore[import-untyped]

from ingestor.errors import ConfigurationError

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
DEFAULT_PORT: Final = 4222
_SCHEMES: Final = ("nats", "tls")
_CREDENTIALS_MARKS: Final = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach and enter a server or cluster; `url` may be several, parted by commas."""

    url: str = DEFAULT_URL
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """`Access` made ready for a client: bare URLs, secrets apart from them, TLS set up."""

    servers: list[str]
    user: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    credentials_file: Path | None
    tls: ssl.SSLContext | None

    @property
    def names(self) -> str:
        """The servers as they may be shown."""
        return ", ".join(self.servers)


def prepare(access: Access) -> Login:
    """Check and take apart. Raises ConfigurationError for a bad URL or file."""
    urls = [_split(part.strip()) for part in access.url.split(",") if part.strip()]
    if not urls:
        raise ConfigurationError("the NATS URL is empty")
    user, password, token = _secrets(access, urls)
    if access.credentials_file is not None:
        _check_credentials(access.credentials_file)
    return Login(
        servers=[f"{url.scheme}://{_place(url)}" for url in urls],
        user=user,
        password=password,
        token=token,
        credentials_file=access.credentials_file,
        tls=_tls(access, any(url.scheme == "tls" for url in urls)),
    )


def _split(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in _SCHEMES or not parts.hostname or port == 0:
        raise ConfigurationError(
            f"the NATS URL {_without_secrets(url)!r} is not of the form nats://host:port or "
            "tls://host:port"
        )
    return parts


def _without_secrets(url: str) -> str:
    scheme, mark, rest = url.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def _place(url: SplitResult) -> str:
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{host}:{url.port or DEFAULT_PORT}"


def _secrets(access: Access, urls: list[SplitResult]) -> tuple[str | None, str | None, str | None]:
    """Return user, password, token: settings of their own beat what the first such URL holds."""
    if access.user or access.token or access.credentials_file:
        return access.user, access.password, access.token
    for url in urls:
        if url.username and url.password is None:
            return None, None, unquote(url.username)
        if url.username:
            return unquote(url.username), unquote(url.password or ""), None
    return None, None, None


def _check_credentials(path: Path) -> None:
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigurationError(
            f"the NATS credentials file {path} cannot be read: {error.strerror}"
        ) from None
    # The client library reads on for ever in a file without these lines.
    if not all(mark in text for mark in _CREDENTIALS_MARKS):
        raise ConfigurationError(f"{path} is no NATS credentials file: it holds no JWT and seed")
    seed = text.partition(_CREDENTIALS_MARKS[1])[2].partition("\n")[2].partition("\n")[0]
    try:
        nkeys.from_seed(bytearray(seed.strip().encode())).wipe()
    except (nkeys.NkeysError, ValueError):
        raise ConfigurationError(
            f"the seed in the NATS credentials file {path} is broken"
        ) from None


def _tls(access: Access, wanted: bool) -> ssl.SSLContext | None:
    files = (access.tls_ca_file, access.tls_cert_file, access.tls_key_file)
    if not wanted and not any(files):
        return None
    if access.tls_key_file and not access.tls_cert_file:
        raise ConfigurationError("a TLS key file needs a TLS certificate file beside it")
    try:
        context = ssl.create_default_context(cafile=access.tls_ca_file)
        if access.tls_cert_file:
            context.load_cert_chain(access.tls_cert_file, access.tls_key_file)
    except OSError as error:
        named = ", ".join(str(file) for file in files if file)
        reason = error.strerror or str(error)
        raise ConfigurationError(f"the TLS files {named} cannot be used: {reason}") from None
    return context
