"""Server addresses and credentials, validated before connecting.

User and password may stand in a URL; they are taken out of it here, so that whatever names a
server in a message or a log can name nothing else. URLs are read by one strict expression and not
by `urllib`, which takes ``nats://jo:pa/ss@host`` for a host ``jo``: what the expression does not
match is refused, and only the part that cannot be a secret is shown.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import nkeys  # type: ignore[import-untyped]

from ingestor.files import others_may_read, read_small_file
from ingestor.model.bounds import printable
from ingestor.model.errors import ConfigurationError

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
DEFAULT_PORT: Final = 4222
DEFAULT_INBOX_PREFIX: Final = "_INBOX"
DEFAULT_API_PREFIX: Final = "$JS.API"

MAX_SERVERS: Final = 64
"""Servers that may be named."""

MAX_KEY_FILE_BYTES: Final = 65_536
MAX_PREFIX_CHARS: Final = 128
"""A reply subject of ours, prefix and all, stays far below a server's line of 4 KiB."""

_NATS_PY_NAMES: Final = {
    "user_credentials": "credentials_file",
    "nkeys_seed": "nkey_file",
    "tls_handshake_first": "tls_first",
}
_CREDENTIALS_MARKS: Final = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")
_URL: Final = re.compile(
    r"(?:(?P<scheme>nats|tls)://)?"
    r"(?:(?P<user>[^\s:@/?#,]+)(?::(?P<password>[^\s:@/?#,]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[^\s:@/?#\[\],]{1,255})"
    r"(?::(?P<port>\d{1,5}))?/?",
    re.IGNORECASE,
).fullmatch
_SHOWABLE: Final = re.compile(r"[\w.\-:\[\]]{1,255}").fullmatch
_SUBJECT: Final = re.compile(r"[^\s.*>\x00-\x1f]+(?:\.[^\s.*>\x00-\x1f]+)*").fullmatch


class Secrets(NamedTuple):
    """What one server is told: user and password, or a token, or nothing."""

    user: str | None = None
    password: str | None = None
    token: str | None = None

    def __repr__(self) -> str:
        """Never show them."""
        return "Secrets(...)" if any(self) else "Secrets()"


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """How to reach and enter a server or cluster.

    `url` may be several, parted by commas or in a sequence, each with a user of its own. Of user
    and password, `token`, `credentials_file` and `nkey_file` there is at most one. `api_prefix`
    replaces ``$JS.API``; `jetstream_domain` stands for ``$JS.<domain>.API``.
    """

    url: str | Sequence[str] = field(default=DEFAULT_URL, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials_file: Path | None = None
    nkey_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_first: bool = False
    inbox_prefix: str = DEFAULT_INBOX_PREFIX
    jetstream_domain: str | None = None
    api_prefix: str | None = None
    tls: ssl.SSLContext | None = None
    """Used as it is where it is given, else made of the files."""

    @classmethod
    def from_keywords(
        cls, url: str | Sequence[str], keywords: Mapping[str, Any]
    ) -> tuple[ConnectOptions, dict[str, Any]]:
        """Return options, and the keywords that are nats-py's own.

        Names of this class and of nats-py are taken alike; a file may be a text.
        """
        named = {_NATS_PY_NAMES.get(name, name): value for name, value in keywords.items()}
        ours = {one.name: named.pop(one.name) for one in fields(cls) if one.name in named}
        for name, value in ours.items():
            if name.endswith("_file") and value is not None:
                ours[name] = Path(value)
        return cls(url=url, **ours), named


@dataclass(frozen=True, slots=True)
class Credentials:
    """`ConnectOptions` made ready for a client: bare URLs, secrets apart from them, TLS set up.

    `user`, `password` and `token` are for servers whose URL names none (`own`, by ``host:port``).
    """

    servers: list[str]
    user: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    credentials_file: Path | None
    tls: ssl.SSLContext | None
    nkey_file: Path | None = None
    tls_first: bool = False
    inbox_prefix: str = DEFAULT_INBOX_PREFIX
    api_prefix: str = DEFAULT_API_PREFIX
    own: Mapping[str, Secrets] = field(default_factory=dict, repr=False)
    cautions: tuple[str, ...] = ()
    """Sentences that the operator is to read once: what works and is not safe."""

    @property
    def names(self) -> str:
        """The servers as they may be shown, ``host:port``."""
        return ", ".join(url.partition("://")[2] for url in self.servers)

    def secrets_for(self, place: str) -> Secrets:
        """Return what the server at ``host:port`` is told; a cluster's own addresses as all are."""
        return self.own.get(place) or Secrets(self.user, self.password, self.token)


class _Url(NamedTuple):
    scheme: str
    place: str
    host: str
    secrets: Secrets


def resolve(options: ConnectOptions) -> Credentials:
    """Check and take apart.

    Raises ConfigurationError for a bad URL or file, and for settings that contradict each other.
    """
    urls = _urls(options.url)
    _check_only_one(options)
    own = {url.place: url.secrets for url in urls if any(url.secrets)}
    if any((options.user, options.token, options.credentials_file, options.nkey_file)):
        own = {}
    common = Secrets(options.user, options.password, options.token)
    # A cluster names further servers itself: they are told what the first of ours is told.
    if own:
        common = next(iter(own.values()))
    if options.credentials_file is not None:
        _check_credentials(options.credentials_file)
    if options.nkey_file is not None:
        _check_seed(_key_file("the nkey file", options.nkey_file), "nkey file", options.nkey_file)
    # One tls:// makes all of them TLS: nats-py has one context for the whole pool.
    context = options.tls or _tls(options, any(url.scheme == "tls" for url in urls))
    return Credentials(
        servers=[f"{url.scheme}://{url.place}" for url in urls],
        user=common.user,
        password=common.password,
        token=common.token,
        credentials_file=options.credentials_file,
        tls=context,
        nkey_file=options.nkey_file,
        tls_first=options.tls_first,
        inbox_prefix=_prefix("inbox prefix", options.inbox_prefix),
        api_prefix=_api_prefix(options),
        own=own,
        cautions=(*_seen_on_the_way(urls, common, context), *_seen_on_disk(options)),
    )


def without_secrets(url: str | Sequence[str]) -> str:
    """Return one or several URLs as they may be shown, whatever is in them."""
    texts = url.split(",") if isinstance(url, str) else url
    return ", ".join(_shown(text.strip()) for text in texts if text.strip())


def _urls(given: str | Sequence[str]) -> list[_Url]:
    texts = given.split(",") if isinstance(given, str) else given
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise ConfigurationError("the NATS URL is empty")
    if len(texts) > MAX_SERVERS:
        raise ConfigurationError(f"{len(texts)} NATS URLs are given; allowed are {MAX_SERVERS}")
    return [_taken_apart(text, one_of_many=len(texts) > 1) for text in texts]


def _taken_apart(text: str, *, one_of_many: bool) -> _Url:
    found = _URL(text)
    # A missing port is NATS's own, and a port of 0 is refused below with the rest.
    port = int((found and found["port"]) or DEFAULT_PORT)
    # A password with a comma in it looks like two URLs, of which the second has no scheme.
    cut_in_two = found and found["user"] and one_of_many and not found["scheme"]
    if not found or cut_in_two or not 1 <= port <= 65_535 or not _is_host(found["host"]):
        raise ConfigurationError(
            f"the NATS URL {_shown(text)!r} is not of the form nats://host:port or "
            "tls://host:port, with user:password@ or token@ before the host; in those, "
            "/ ? # @ : , and % are written %2F %3F %23 %40 %3A %2C %25"
        )
    user, password = _decoded(found["user"]), _decoded(found["password"])
    # nats://token@host: a name without password is a token, as for every NATS client.
    secrets = Secrets(token=user) if password is None else Secrets(user, password)
    scheme, host = (found["scheme"] or "nats").lower(), found["host"].lower()
    return _Url(scheme, f"{host}:{port}", host, secrets)


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return _SHOWABLE(host) is not None
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True


def _decoded(text: str | None) -> str | None:
    """Undo ``%40``. Not `unquote`: the text of its error would hold the password."""
    if text is None:
        return None
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:  # also of surrogates, as the system hands on bytes that are no UTF-8
        raise ConfigurationError(
            "the user or password in the NATS URL is no UTF-8 once %XX is decoded"
        ) from None


def _shown(text: str) -> str:
    """Return a URL without what may be a secret: what is before an @, and after a host's colon."""
    scheme, mark, rest = text.rpartition("://")
    if not mark or not re.fullmatch(r"[A-Za-z]{1,8}", scheme):
        scheme, mark, rest = "", "", text
    found = _URL(f"nats://{rest}")
    if found:
        port = f":{found['port']}" if found["port"] else ""
        return f"{scheme}{mark}{printable(found['host'])}{port}"
    secret, at, place = rest.rpartition("@")
    if at and ":" in secret and _SHOWABLE(place):
        return f"{scheme}{mark}{place}"
    host = re.match(r"[\w.\-]*(?=:|$)", rest)
    hidden = "..." if at or not host or host[0] != rest else ""
    return f"{scheme}{mark}{host[0] if host and not at else ''}{hidden}"


def _check_only_one(options: ConnectOptions) -> None:
    ways = {
        "user": options.user,
        "token": options.token,
        "credentials file": options.credentials_file,
        "nkey file": options.nkey_file,
    }
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise ConfigurationError(
            f"NATS {' and '.join(given)} are given; a server is told one of them"
        )
    if bool(options.user) != bool(options.password is not None):
        missing = "password" if options.user else "user"
        raise ConfigurationError(f"a NATS user and password go together: the {missing} is missing")


def _prefix(what: str, text: str) -> str:
    if len(text) > MAX_PREFIX_CHARS or not _SUBJECT(text):
        raise ConfigurationError(
            f"the {what} {printable(text)!r} is no subject: words joined by dots, without spaces, "
            f"* and >, at most {MAX_PREFIX_CHARS} characters"
        )
    return text


def _api_prefix(options: ConnectOptions) -> str:
    domain, prefix = options.jetstream_domain, options.api_prefix
    if domain is not None and prefix is not None:
        raise ConfigurationError("a JetStream domain and an API prefix are given: name one of them")
    if domain is not None:
        if "." in domain:
            raise ConfigurationError(f"the JetStream domain {printable(domain)!r} holds a dot")
        return f"$JS.{_prefix('JetStream domain', domain)}.API"
    return DEFAULT_API_PREFIX if prefix is None else _prefix("JetStream API prefix", prefix)


def _key_file(what: str, path: Path) -> str:
    data = read_small_file(what, path, MAX_KEY_FILE_BYTES)
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} {path} is no ASCII text") from None


def _check_credentials(path: Path) -> None:
    text = _key_file("the NATS credentials file", path)
    # The client library reads on forever in a file without these lines.
    if not all(mark in text for mark in _CREDENTIALS_MARKS):
        raise ConfigurationError(f"{path} is no NATS credentials file: it holds no JWT and seed")
    seed = text.partition(_CREDENTIALS_MARKS[1])[2].partition("\n")[2].partition("\n")[0]
    _check_seed(seed, "NATS credentials file", path)


def _check_seed(seed: str, what: str, path: Path) -> None:
    try:
        # Read now: a broken seed would be met while connecting, and look like a server that
        # refuses.
        pair = nkeys.from_seed(bytearray(seed.strip().encode()))
        is_user = pair.public_key.startswith(b"U")
        pair.wipe()
    except (nkeys.NkeysError, ValueError, IndexError):
        raise ConfigurationError(f"the seed in the {what} {path} is broken") from None
    if not is_user:
        raise ConfigurationError(f"the seed in the {what} {path} is not that of a user (SU...)")


def _tls(options: ConnectOptions, wanted: bool) -> ssl.SSLContext | None:
    files = (options.tls_ca_file, options.tls_cert_file, options.tls_key_file)
    if not (wanted or options.tls_first or any(files)):
        return None
    if options.tls_key_file and not options.tls_cert_file:
        raise ConfigurationError("a TLS key file needs a TLS certificate file beside it")
    # Read by us first: ssl names neither the file nor what is wrong with it.
    for file in filter(None, files):
        read_small_file("the TLS file", file, 64 * MAX_KEY_FILE_BYTES)
    try:
        context = ssl.create_default_context(cafile=options.tls_ca_file)
        if options.tls_cert_file:
            # An encrypted key is not asked for at the terminal.
            context.load_cert_chain(options.tls_cert_file, options.tls_key_file, lambda: b"")
    except OSError as error:
        named = ", ".join(str(file) for file in files if file)
        reason = error.strerror or str(error)
        raise ConfigurationError(f"the TLS files {named} cannot be used: {reason}") from None
    return context


def _seen_on_the_way(
    urls: Sequence[_Url], common: Secrets, tls: ssl.SSLContext | None
) -> list[str]:
    told = [url for url in urls if any(common) or any(url.secrets)]
    open_to = [url.place for url in told if not _is_loopback(url.host)]
    if tls is not None or not open_to:
        return []
    return [
        f"the password or token for {', '.join(open_to)} goes over the network unencrypted: "
        "use tls://"
    ]


def _seen_on_disk(options: ConnectOptions) -> list[str]:
    key, certificate = options.tls_key_file, options.tls_cert_file
    if key is None and certificate is not None:
        # The file of a certificate may hold its key as well.
        content = read_small_file("the TLS file", certificate, 64 * MAX_KEY_FILE_BYTES)
        key = certificate if b"PRIVATE KEY" in content else None
    keys = (options.credentials_file, options.nkey_file, key)
    return [
        f"every user of this machine can read the key in {path}: chmod 600 it"
        for path in keys
        if path is not None and others_may_read(path)
    ]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
