"""From configuration to a publisher."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from ingestor.config.schema import Config, Embedded, Nats
from ingestor.encode import make_encoder
from ingestor.model.errors import ConfigurationError, IngestorError
from ingestor.nats.connection import OPEN_TIMEOUT_S
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions, resolve, without_secrets
from ingestor.nats.stream import ConsumerSettings, StreamSettings, unreached_filter
from ingestor.publish.publisher import Publisher
from ingestor.publish.status import STATUS_SETTINGS
from ingestor.runtime.embedded_server import Server, local_server
from ingestor.runtime.log import STDERR
from ingestor.runtime.machine import program
from ingestor.runtime.run_keeper import Keeping, connected

DEMO_DIR: Final = Path(".data/demo")
"""What demos make up, and where they publish it."""

LONGEST_OPEN_S: Final = 10 * 86_400.0
"""For ever, as far as an event loop can tell."""

log = logging.getLogger(__name__)


def checked_options(nats: Nats, url: str | Sequence[str]) -> ConnectOptions:
    """Return how to reach the server at `url`, and warn of what is unsafe about it.

    Raises ConfigurationError if it cannot work, or a consumer would never get a message.
    """
    if nats.status_stream == nats.stream:
        raise ConfigurationError(
            f"nats.status_stream and nats.stream are both {nats.stream!r}: "
            "statuses need a stream of their own"
        )
    options = nats.connect_options(url)
    for caution in resolve(options).cautions:
        log.warning("%s", caution)
    _check_consumers(nats, options)
    return options


def server_of(config: Config, *, demo: bool) -> AbstractContextManager[Server]:
    """Return the server of a run; a demo has one of its own, and a store, unless one is named.

    Entering raises EmbeddedServerError.
    """
    # What is made up must not stand among a user's real days.
    store = config.embedded.data_dir
    if demo and store == Embedded().data_dir:
        store = DEMO_DIR / "nats"
    return local_server(config.nats.url, store, own=demo)


def tell_demo(url: str | Sequence[str]) -> None:
    """Say how to look at what a demo publishes; on a terminal it goes on until Ctrl-C."""
    ends = ", and Ctrl-C here to end it" if is_watched() else ""
    look = f"{program()} tail --nats {without_secrets(url)}"
    log.info("demo: type in another terminal: %s%s", look, ends)


def is_watched() -> bool:
    """Whether a person sees what is said while running."""
    return os.isatty(STDERR)


def make_publisher(
    config: Config,
    options: ConnectOptions,
    keeping: Keeping | None,
    *,
    give_up_after_s: float,
    again: bool = False,
) -> Publisher:
    """Return a publisher as the configuration wants it; made in the process that runs it.

    `give_up_after_s` holds where the configuration says nothing; `again` one that follows another
    that died also waits that long for a server at first. A run that keeps leases is fenced.
    """
    give_up_after_s = config.nats.give_up_after_s or give_up_after_s
    publisher = Publisher(
        make_encoder(config.publish.encoding),
        connect_options=options,
        stream=stream_settings(config.nats),
        give_up_after_s=give_up_after_s,
        open_timeout_s=min(give_up_after_s, LONGEST_OPEN_S) if again else OPEN_TIMEOUT_S,
        check_lease=keeping.check_lease if keeping is not None and keeping.leases else None,
    )
    publisher.statuses.stream = replace(
        STATUS_SETTINGS, name=config.nats.status_stream, replicas=config.nats.replicas
    )
    return publisher


def stream_settings(nats: Nats) -> StreamSettings:
    """Return the stream as the configuration wants it."""
    return StreamSettings(
        name=nats.stream,
        max_age_s=nats.max_age_s,
        max_bytes=nats.max_bytes,
        replicas=nats.replicas,
        storage=nats.storage,
        discard=nats.discard,
        persist_mode=nats.persist_mode,
        consumers=tuple(
            ConsumerSettings(
                name=consumer.name,
                filter_subjects=(consumer.filter_subject,),
                deliver_subject=consumer.deliver_subject,
                deliver_policy=consumer.deliver_policy,
            )
            for consumer in nats.consumers
        ),
    )


def _check_consumers(nats: Nats, options: ConnectOptions) -> None:
    """Refuse a consumer that no message can reach, before there is any process.

    A stream that is there may hold more than we publish, or under other subjects: where that
    decides, it is asked. Where nobody answers, the publisher asks once somebody does.
    """
    stream = stream_settings(nats)
    if unreached_filter(stream, {}) is None:
        return
    try:
        ask = connected(options, lambda there: JetStreamApi(there).stream_info(stream.name))
        info = asyncio.run(ask)
    except (IngestorError, TimeoutError) as error:
        log.debug("stream %s cannot be asked yet: %s", stream.name, error)
        return
    unreached = unreached_filter(stream, info["config"] if info else {})
    if unreached is not None:
        raise ConfigurationError(unreached)
