"""Targets of what servers, operators and our own processes send."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ingestor.config.load import file_layer, load
from ingestor.model.blocks import Source
from ingestor.model.errors import ConfigurationError
from ingestor.nats.answers import parse_answer
from ingestor.nats.options import ConnectOptions, resolve
from ingestor.nats.stream import StreamState
from ingestor.publish.ledger import Ledger
from ingestor.ring.wire import RingReader, records_message, symbols_message
from tests.dbn_files import trades as trade_records
from tests.encode.examples import STOCK_TRADE
from tests.fuzz.consumers import statuses
from tests.fuzz.target import Target
from tests.publish.plain import PlainEncoder, trades

SECRET: Final = "s3cretX"
_SETTINGS: Final = (
    b"[replay]\nspeed = 1.5\ndates = [2025-12-16]\nfeeds = ['trades']\nstart = '09:30'\n",
    b"[replay.rename]\n'ES.c.0' = 'ES'\n[replay]\nmax_gap_s = 5\n",
    b"[nats]\nurl = 'nats://127.0.0.1:4222'\nreplicas = 1\n",
    b"[[nats.consumers]]\nname = 'core'\nfilter_subject = 'market.>'\n",
    b"[polygon]\nsymbols = ['SPY']\nbacklog_rows = 4096\n[strikes]\nfocus = 686.0\n",
    b"[process]\nring_bytes = 1048576\n[log]\nlevel = 'INFO'\n",
)
_BATCH: Final = b"BATCH"
_ANSWERS: Final = (
    b'{"type":"ack","seq":1500,"msgs":250}',
    b'{"type":"gap","last_seq":10,"seq":15}',
    b'{"type":"err","seq":4,"error":{"code":400,"err_code":10071,"description":"no"}}',
    b'{"stream":"S","seq":101}',
    b'{"stream":"S","seq":103,"batch":"BATCH","count":3}',
    b'{"error":{"code":503,"err_code":10077,"description":"maximum"},"stream":"S","seq":0}',
)
_TAILS: Final = (b"500.fail.000000000001.2.$FI", b"500.fail.000000000002.4.$FI", b"1")


def answers(_folder: Path) -> Target:
    """What a stream answers to a message, as one typed value."""

    def run(data: bytes) -> None:
        parse_answer(data)

    return Target(samples=_ANSWERS, run=run, text=True)


def ledger(_folder: Path) -> Target:
    """Books with rows under way that take three answers, of both kinds of batches."""
    samples = [tail + b"\n" + answer for tail in _TAILS for answer in _ANSWERS]
    samples += [b"503\n", b"\n"]

    def run(data: bytes) -> None:
        for fast in (True, False):
            books = Ledger("_INBOX.x", StreamState("S", 100, fast, "made"))
            books.add(trades(0, 3))
            for _ in range(3):
                _send(books)
                _answer(books, data)
                assert books.window.messages >= 0, "more is acknowledged than was sent"
                if books.batch.broken:
                    books.restart()

    return Target(samples=samples, run=run, text=True)


def ring(folder: Path) -> Target:
    """Messages of a ring, as a feed that dies may leave them."""
    samples = [
        bytes(records_message(trade_records(2))),
        bytes(records_message(STOCK_TRADE)),
        symbols_message({1: "SPY", 17077: "ES.c.0"}),
        b"\x03" + statuses(folder).samples[0],
        b"\x02",
    ]

    def run(data: bytes) -> None:
        if data:
            RingReader(0, Source.REPLAY, {}).read(memoryview(data))

    return Target(samples=samples, run=run)


def configuration(folder: Path) -> Target:
    """A file of few settings, since each of them is checked by itself."""
    path = folder / "settings.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        load([file_layer(path)])

    return Target(samples=_SETTINGS, run=run, text=True)


def url(_folder: Path) -> Target:
    """The address of a server, with secrets in it that no sentence shows."""
    samples = [
        b"nats://user:s3cretX@127.0.0.1:4222,nats://[::1]:4222",
        b"nats://s3cretX@demo:4222",
        b"localhost",
        b"nats://a.example,b.example:7422",
    ]

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        no_secret = any(SECRET in part.rpartition("@")[2] for part in text.split(","))
        assert no_secret or SECRET not in _refusal(text), "a secret is shown"

    return Target(samples=samples, run=run)


def _send(books: Ledger) -> None:
    runs, room = books.next_runs(), books.room()
    if runs is not None and room > 0:
        batch = books.batch
        books.sent(PlainEncoder().encode(runs, batch.reply, batch.sent + 1, room))


def _answer(books: Ledger, data: bytes) -> None:
    tail, _, answer = data.partition(b"\n")
    batch_id = books.batch.prefix.rpartition(".")[2].encode()
    subject = f"{books.batch.prefix}.{tail.decode('utf-8', 'replace')}"
    books.receive(subject, answer.replace(_BATCH, batch_id) if answer else None)


def _refusal(text: str) -> str:
    try:
        resolve(ConnectOptions(url=text))
    except ConfigurationError as error:
        return str(error)
    return ""
