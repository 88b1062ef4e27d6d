"""Every setting there is, with its default, its bounds and its meaning.

The structs mirror the TOML file: a struct is a table, a field a key. They are frozen, and they
stop at the process layer: stages take plain arguments.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from ingestor.model.feed_status import STATUS_STREAM
from ingestor.model.replay_control import MAX_SPEED
from ingestor.nats.options import ConnectOptions
from ingestor.ring.block_ring import DEFAULT_RING_BYTES

MAX_SECONDS: Final = 31_536_000.0
"""A year: no run, pause or wait is longer, and its nanoseconds fit int64 by far."""

Seconds = Annotated[
    float, Meta(gt=0, le=MAX_SECONDS, description=f"above 0, at most {MAX_SECONDS:.0f} seconds")
]


# Unknown keys are refused: a mistyped one would silently leave the default in force.
class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


LiveFeedName = Literal["stocks", "options"]
Channel = Literal["T", "Q"]
ApiKey = Annotated[str, Meta(pattern=r"^\S+$", description="a key without spaces")]
WebSocketUrl = Annotated[
    str,
    Meta(
        pattern=r"^wss?://[^\s/?#@]+(/[^\s?#@]*)?$",
        description="ws://host:port/path or wss://host:port/path",
    ),
]
ALL_SYMBOLS: Final = "*"
# Lower case occurs in tickers: a preferred share is BACpK.
Symbol = Annotated[
    str, Meta(pattern=r"^(\*|[A-Z][A-Za-z0-9./]{0,15})$", description="a ticker such as SPY")
]
Underlying = Annotated[
    str,
    Meta(
        pattern=r"^[A-Z][A-Z0-9]{0,5}([./][A-Z]{1,2})?$",
        description="a stock with options, such as SPY or BRK.B",
    ),
]
Price = Annotated[
    float, Meta(ge=0.001, le=99_999.999, description="0.001 to 99999.999, in steps of 0.001")
]


class Polygon(Table, frozen=True, kw_only=True):
    """The live feeds: the account, what is subscribed, and how much a feed bears."""

    api_key: ApiKey | None = None
    """Better in the environment than in a file: POLYGON_API_KEY."""
    standby_api_key: ApiKey | None = None
    """A second key, with which a standby hears the vendor while it waits; else it only waits."""
    stocks_url: WebSocketUrl = "wss://socket.massive.com/stocks"
    options_url: WebSocketUrl = "wss://socket.massive.com/options"
    feeds: Annotated[tuple[LiveFeedName, ...], Meta(min_length=1)] = ("stocks", "options")
    symbols: Literal["*"] | Annotated[tuple[Symbol, ...], Meta(min_length=1, max_length=20_000)] = (
        "SPY",
    )
    """Stocks whose channels are subscribed; ``*`` means all there are."""
    channels: Annotated[tuple[Channel, ...], Meta(min_length=1)] = ("T", "Q")
    """T trades, Q quotes; a trade's aggressor needs the quotes."""
    option_quotes: bool = True
    """Subscribe the contracts' quotes too: they are not published, but tell who was aggressor."""
    late_after_s: Seconds = 1.0
    """A print that the exchange stamped this much before the tape did gets no aggressor."""
    silence_s: Annotated[float, Meta(ge=1, le=MAX_SECONDS)] = 30.0
    """An open market that says nothing for this long means a dead connection: it is made anew."""
    max_frame_bytes: Annotated[int, Meta(ge=65_536, le=268_435_456)] = 16_777_216
    """A longer message of the vendor ends the connection, and another is made."""
    backlog_rows: Annotated[int, Meta(ge=1_024, le=16_777_216)] = 262_144
    """Events of a feed that may wait behind a full ring; then quotes and trades are dropped."""
    backlog_bytes: Annotated[int, Meta(ge=1_048_576, le=1_073_741_824)] = 16_777_216
    """The same bound in bytes; whichever is reached first."""
    drain_s: Seconds = 2.0
    """How long a feed that ends waits for what it still holds to be taken."""

    @property
    def stocks(self) -> tuple[str, ...]:
        """The symbols, each once; ``*`` alone where it is among them."""
        symbols = tuple(dict.fromkeys(self.symbols))
        return (ALL_SYMBOLS,) if ALL_SYMBOLS in symbols else symbols

    def follows(self, symbol: str) -> bool:
        """Whether the events of this stock are subscribed."""
        return not {symbol, ALL_SYMBOLS}.isdisjoint(self.symbols)


class Strikes(Table, frozen=True, kw_only=True):
    """Which option contracts are followed while the price moves."""

    underlying: Underlying = "SPY"
    each_side: Annotated[int, Meta(ge=0, le=500)] = 3
    """Strikes below and above the one at the money."""
    expiries: Literal["daily", "weekly"] | tuple[dt.date, ...] = "daily"
    """Every trading day, the last one of each week, or a list, of which past ones do not count."""
    expiries_ahead: Annotated[int, Meta(ge=0, le=60)] = 0
    """How many more expiries are followed than the next one."""
    step: Price = 1.0
    """Distance between strikes."""
    recentre: Price = 0.5
    """How far the price moves before the strikes follow it."""
    focus: Price | None = None
    """A strike that is followed whatever the price does."""
    focus_each_side: Annotated[int, Meta(ge=0, le=500)] = 0
    """Strikes around it."""
    max_contracts: Annotated[int, Meta(ge=1, le=1_000)] = 950
    """The nearest to the money are kept. The vendor takes quotes of 1,000 on one connection."""


class Record(Table, frozen=True, kw_only=True):
    """The journal of everything the vendor sent, as it was received."""

    dir: Path | None = None
    """Where it is written; unset writes none."""
    sync_s: Annotated[float, Meta(ge=0, le=MAX_SECONDS)] = 0.1
    """How often it is made to survive a power cut; 0 leaves that to the system."""
    catch_up_per_s: Annotated[int, Meta(ge=1_000, le=10_000_000)] = 50_000
    """Events of a feed that are published from it a second, at most, which leaves room for others.
    """


class Live(Table, frozen=True, kw_only=True):
    """A live run as a whole."""

    stop_after_s: Seconds | None = None
    """The run ends by itself after this time; unset, it runs until it is stopped."""
    standby: bool = False
    """Wait, ready, while another run writes the same subjects, and follow it when it dies."""


# From 1 on: port 0 would listen where nobody finds it.
_PORT = r"([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
_ENDPOINT = "HOST:PORT, the port 1 to 65535"
Date = Annotated[dt.date, Meta(description="YYYY-MM-DD, such as 2025-12-16")]
Speed = Annotated[float, Meta(ge=0, le=MAX_SPEED)]
Cpus = tuple[Annotated[int, Meta(ge=0, le=65_535)], ...]
AgeSeconds = Annotated[
    float, Meta(gt=0, le=3_153_600_000, description="above 0, at most 100 years")
]
RingBytes = Annotated[int, Meta(ge=1_048_576, le=1_073_741_824)]
BlockBytes = Annotated[int, Meta(ge=4_096, le=1_048_576)]
WallTime = Annotated[
    str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="HH:MM, 00:00 to 23:59")
]
StreamName = Annotated[
    str, Meta(pattern=r"^[^\s.*>/\\]+$", description="a name without spaces and . * > / \\")
]
SubjectPrefix = Annotated[
    str,
    Meta(
        pattern=r"^[^\s.*>]+(\.[^\s.*>]+)*$",
        max_length=128,
        description="words joined by dots, without spaces and * >",
    ),
]
FeedName = Literal["trades", "mbp10", "stocks", "options"]
Endpoint = Annotated[
    str, Meta(pattern=rf"^(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):{_PORT}$", description=_ENDPOINT)
]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Replay(Table, frozen=True, kw_only=True):
    """What is replayed, and how fast."""

    data_dir: Path = Path("dbn-data")
    """Holds trades/ and MBP-10/, or what the vendor delivers as it is; or is a file."""
    files: tuple[Path, ...] = ()
    """DBN files or folders to replay instead of data_dir."""
    journal_dir: Path | None = None
    """Holds what a live run recorded; unset replays files alone."""
    dates: tuple[Date, ...] = ()
    """Days to replay, in order of the calendar; none means every day there is."""
    speed: Speed = 0.0
    """0 as fast as possible, 1 real time, 2 twice as fast."""
    paused: bool = False
    """Wait before the first event until somebody steps or resumes the replay."""
    control: bool = True
    """Offer the service by which ``ingestor ctl`` steers the replay."""
    feeds: tuple[FeedName, ...] = ()
    """None means trades and mbp10; with a journal, all that there is data for."""
    start: WallTime | None = None
    """New York time of day from which events are replayed."""
    end: WallTime | None = None
    """New York time of day before which events are replayed."""
    max_gap_s: Seconds | None = None
    """Holes in event time are shortened to this; unset keeps them."""
    existing: Literal["resume", "again", "fresh", "refuse"] = "resume"
    """What to do where the stream holds these files already, or a part of them: go on behind what
    is stored; publish all once more; first remove what their subjects hold; end with 7."""
    symbols: tuple[str, ...] = ()
    """Only these symbols; none means all."""
    rename: dict[str, str] = field(default_factory=dict)
    """Symbol in the file to symbol in the stream."""


class Consumer(Table, frozen=True, kw_only=True):
    """A durable consumer that is created with the stream."""

    name: str
    filter_subject: str = "market.>"
    deliver_subject: str | None = None
    """Push to this subject; unset makes a pull consumer."""
    deliver_policy: Literal["all", "new", "last"] = "all"


class Nats(Table, frozen=True, kw_only=True):
    """The server, how to be let in, and the stream."""

    url: str | tuple[str, ...] | None = None
    """One server, or several, each with a user of its own if need be; unset: the server on
    127.0.0.1:4222 if one listens there, else an embedded one."""
    user: str | None = None
    password: str | None = None
    token: str | None = None
    credentials_file: Path | None = None
    nkey_file: Path | None = None
    """Holds the seed of a user, ``SU...``."""
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_first: bool = False
    """TLS starts before the server's INFO (its ``handshake_first``)."""
    inbox_prefix: SubjectPrefix = "_INBOX"
    """What the subjects of answers to us begin with."""
    jetstream_domain: StreamName | None = None
    """Of a JetStream behind a leaf node: requests go to ``$JS.<domain>.API``."""
    api_prefix: SubjectPrefix | None = None
    """What requests to JetStream begin with, where another account exports it; else ``$JS.API``."""
    lease: bool = True
    """Refuse to write subjects of a stream that another run is writing; without, nobody looks."""
    give_up_after_s: Seconds | None = None
    """How long the server may stay away before the run ends; unset: a replay after 60 s, a live
    run never."""
    stream: StreamName = "MARKET_DATA"
    """Created when missing, for ``market.>``, with file storage, 24 hours and one replica; what is
    set below is enforced on it, what is not is left as its operator made it."""
    status_stream: StreamName = STATUS_STREAM
    """What live feeds tell about themselves: made with the first status, for seven days."""
    max_age_s: AgeSeconds | None = None
    max_bytes: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    replicas: Annotated[int, Meta(ge=1, le=5)] | None = None
    storage: Literal["file", "memory"] | None = None
    discard: Literal["old", "new"] | None = None
    """What a full stream does: drop its oldest messages, or refuse new ones."""
    persist_mode: Literal["default", "async"] | None = None
    """async lets the server acknowledge before it writes: only for streams that may be lost."""
    consumers: tuple[Consumer, ...] = ()

    def connect_options(self, url: str | Sequence[str]) -> ConnectOptions:
        """Return how to reach the servers at `url`; not checked yet."""
        # Keys of this table are named as the options are.
        names = {option.name for option in fields(ConnectOptions)}.intersection(
            Nats.__struct_fields__
        )
        return ConnectOptions(**{name: getattr(self, name) for name in names} | {"url": url})


class Embedded(Table, frozen=True, kw_only=True):
    """The NATS server that is started when none is named and none is there."""

    data_dir: Path = Path(".data/nats")
    """Where it keeps its streams and its log."""


class Publish(Table, frozen=True, kw_only=True):
    """How events become messages."""

    encoding: Literal["json", "packed"] = "json"


class Process(Table, frozen=True, kw_only=True):
    """Processes: their CPUs, their memory, and how long they may be silent."""

    publisher_cpus: Cpus = ()
    """CPUs the publisher is pinned to; none leaves it to the kernel."""
    publisher_spins: bool = False
    """Never let the publisher sleep: it takes a whole CPU, and a live event less time."""
    supervisor_cpus: Cpus = ()
    trades_cpus: Cpus = ()
    mbp10_cpus: Cpus = ()
    stocks_cpus: Cpus = ()
    options_cpus: Cpus = ()
    ring_bytes: RingBytes = DEFAULT_RING_BYTES
    """Shared memory of one feed's ring."""
    block_bytes: BlockBytes = 1_044_480
    """Largest block of records a feed puts in its ring at once. Half of it costs 6 % more CPU."""
    silence_s: Seconds = 30.0
    """A process without a heartbeat for this long is taken for dead; a feed for at most 5 s."""
    stop_s: Seconds = 30.0
    """How long an orderly stop may take before it is forced."""


class Log(Table, frozen=True, kw_only=True):
    """What is told while running."""

    level: LogLevel = "INFO"
    format: Literal["text", "json"] = "text"
    """json is one object a line: time, level, process, message, and traceback where there is."""
    file: Path | None = None
    """Where the log goes instead of standard error, which then only tells how the run ended."""
    file_bytes: Annotated[int, Meta(ge=65_536, le=1_073_741_824)] = 16_777_216
    """From this size on it is set aside as FILE.1, and those before it as FILE.2 and so on."""
    files_kept: Annotated[int, Meta(ge=0, le=100)] = 5
    """How many of those are kept."""
    progress_s: Seconds = 10.0
    """How often a line of progress is logged when nobody watches a terminal."""


class Metrics(Table, frozen=True, kw_only=True):
    """A small HTTP server for Prometheus, health checks and people; off unless `listen` is set."""

    listen: Endpoint | None = None
    """Serves /metrics, /healthz and a page. It asks nobody who they are."""
    stale_after_s: Seconds = 2.5
    """/healthz answers 503 when a process has given no sign of life for this long."""
    away_after_s: Seconds = 2.0
    """Or when a feed is without its vendor, or the publisher without its server, or the server
    has stored nothing of what is under way, for this long."""
    quiet_after_s: Seconds = 2.5
    """Or when a live feed has received nothing for this long in its market's regular hours."""


class Config(Table, frozen=True, kw_only=True):
    """The whole configuration."""

    replay: Replay = Replay()
    polygon: Polygon = Polygon()
    strikes: Strikes = Strikes()
    record: Record = Record()
    live: Live = Live()
    nats: Nats = Nats()
    embedded: Embedded = Embedded()
    publish: Publish = Publish()
    process: Process = Process()
    log: Log = Log()
    metrics: Metrics = Metrics()


# Both sets are read by whatever shows a value: the configuration, errors, the log.
URLS = frozenset({"nats.url"})
"""Keys whose values may hold secrets beside what may be shown."""

SECRETS = frozenset({"nats.password", "nats.token", "polygon.api_key", "polygon.standby_api_key"})
"""Keys whose values are never shown."""

REPLAY_ONLY = frozenset(
    {"replay", "process.trades_cpus", "process.mbp10_cpus", "process.block_bytes"}
)
LIVE_ONLY = frozenset({"polygon", "strikes", "record", "live"})
"""Tables and keys that only one of the programs heeds; a file may serve both."""


def is_among(key: str, names: Collection[str]) -> bool:
    """Whether a dotted key, or its table, is one of `names`."""
    return key in names or key.partition(".")[0] in names
