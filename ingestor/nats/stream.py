"""The stream and its durable consumers: made where missing, brought up to what is asked for.

Only what the configuration names is enforced on a stream that exists: everything else is its
operator's choice and stays. What cannot be changed is named in the log and left as it is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Literal

from ingestor.model.bounds import MAX_JSON_EVENT_BYTES, MAX_PAYLOAD_BYTES
from ingestor.model.errors import ConfigurationError, StreamError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, covers, overlap
from ingestor.model.units import NS_PER_S
from ingestor.nats.answers import INVALID_JSON, SUBJECTS_OVERLAP, RefusedError
from ingestor.nats.jetstream import JetStreamApi, Json, leader_of

DEFAULT_STREAM: Final = "MARKET_DATA"
DEFAULT_SUBJECTS: Final = ("market.>",)
DEFAULT_MAX_AGE_S: Final = 86_400.0

FIXED: Final = ("storage", "persist_mode")
"""Settings of a stream that the server never changes."""

_OURS: Final = tuple(event.subject for event in EVENT_TYPE_BY_RTYPE.values())

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """A durable consumer with explicit acknowledgement; pull unless `deliver_subject` is set."""

    name: str
    filter_subjects: tuple[str, ...] = ()
    deliver_subject: str | None = None
    deliver_policy: Literal["all", "new", "last"] = "all"


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """The stream that is published to. None: as it is, or the default where it is made anew.

    Defaults are file storage, 24 hours, one replica, no limit of size, limits retention that
    discards the oldest. `persist_mode` ``async`` lets the server acknowledge before it writes.
    `batched` is for fast ingest. What begins with `new_` counts only where the stream is made anew.
    """

    name: str = DEFAULT_STREAM
    subjects: tuple[str, ...] = DEFAULT_SUBJECTS
    max_age_s: float | None = None
    max_bytes: int | None = None
    max_msgs: int | None = None
    replicas: int | None = None
    storage: Literal["file", "memory"] | None = None
    discard: Literal["old", "new"] | None = None
    persist_mode: Literal["default", "async"] | None = None
    batched: bool = True
    new_max_age_s: float = DEFAULT_MAX_AGE_S
    new_duplicate_window_s: float | None = None
    """For how long a message id is remembered; None is the server's two minutes."""
    consumers: tuple[ConsumerSettings, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a publisher needs to know of the stream: which it is, where it ends, what it can do.

    `identity` is the time at which it was made: one made anew under the same name has another.
    """

    name: str
    last_seq: int
    fast_ingest: bool
    identity: str
    max_message_bytes: int = MAX_PAYLOAD_BYTES
    leader: str = ""
    """See `leader_of`."""


async def set_up(api: JetStreamApi, settings: StreamSettings) -> StreamState:
    """Make or update the stream and its consumers.

    Raises ConfigurationError, before anything is changed, for a consumer that no message of the
    stream can reach; StreamError when JetStream refuses or is off, TimeoutError without an answer.
    """
    info = await api.stream_info(settings.name)
    _check_filters(settings, info["config"] if info else {})
    made = info is None
    info = await _create(api, settings) if info is None else await _update(api, settings, info)
    if made:
        log.info("stream %s is made for %s", settings.name, ", ".join(settings.subjects))
    config = info["config"]
    # Without acknowledgements every message would be sent again and again.
    if config.get("no_ack"):
        raise StreamError(
            f"stream {settings.name} has no_ack set: nothing can be known to be stored"
        )
    if config.get("sealed"):
        raise StreamError(f"stream {settings.name} is sealed: it takes no messages")
    for consumer in settings.consumers:
        await _set_up_consumer(api, settings.name, consumer)
    if not settings.consumers:
        _warn_of_loss(settings.name, info)
    fast_ingest = bool(info["config"].get("allow_batched"))
    return StreamState(
        settings.name,
        int(info["state"]["last_seq"]),
        fast_ingest,
        str(info["created"]),
        _max_message_bytes(settings.name, info["config"]),
        leader_of(info),
    )


async def _create(api: JetStreamApi, settings: StreamSettings) -> Json:
    config: Json = {
        "name": settings.name,
        "subjects": list(settings.subjects),
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "max_age": int(settings.new_max_age_s * NS_PER_S),
        "num_replicas": 1,
        # For readers: a direct get is answered by any replica.
        "allow_direct": True,
    }
    if settings.new_duplicate_window_s is not None:
        config["duplicate_window"] = int(settings.new_duplicate_window_s * NS_PER_S)
    return await _change(api, "CREATE", config | _wanted(settings))


async def _update(api: JetStreamApi, settings: StreamSettings, info: Json) -> Json:
    existing: Json = info["config"]
    changes = planned_changes(settings, existing)
    for key in FIXED:
        if key in changes:
            log.warning(
                "stream %s has %s %r and cannot be changed to %r: it stays",
                *(settings.name, key, existing.get(key), changes.pop(key)),
            )
    if not changes:
        return info
    updated = await _change(api, "UPDATE", existing | changes)
    for key in changes.keys() - _differences(updated["config"], changes).keys():
        log.info(
            "stream %s: %s changed from %r to %r",
            *(settings.name, key, existing.get(key), changes[key]),
        )
    return updated


def planned_changes(settings: StreamSettings, existing: Json) -> Json:
    """Return what to change in a stream's configuration; what is `FIXED` cannot change."""
    wanted = _wanted(settings)
    # Its operator's subjects stay: another program may publish to them.
    wanted["subjects"] = _joined(existing.get("subjects") or [], settings.subjects)
    return _differences(existing, wanted)


def _wanted(settings: StreamSettings) -> Json:
    named: Json = {
        "max_age": None if settings.max_age_s is None else int(settings.max_age_s * NS_PER_S),
        "max_bytes": settings.max_bytes,
        "max_msgs": settings.max_msgs,
        "num_replicas": settings.replicas,
        "storage": settings.storage,
        "discard": settings.discard,
        "persist_mode": settings.persist_mode,
        "allow_batched": settings.batched or None,
    }
    return {key: value for key, value in named.items() if value is not None}


def _differences(existing: Json, wanted: Json) -> Json:
    # The server leaves out a setting that has its default.
    return {
        key: value
        for key, value in wanted.items()
        if existing.get(key, "default" if key == "persist_mode" else None) != value
    }


async def _change(api: JetStreamApi, verb: str, config: Json) -> Json:
    name, subjects = config["name"], config["subjects"]
    what = f"stream {name} cannot be {verb.lower()}d"
    try:
        return await api.call(what, f"STREAM.{verb}.{name}", config)
    except RefusedError as refused:
        # The server does not say whose they are.
        if refused.error.err_code == SUBJECTS_OVERLAP:
            names: list[str] = []
            for subject in subjects:
                answer = await api.call(
                    f"streams of {subject}", "STREAM.NAMES", {"subject": subject}
                )
                names += [other for other in answer.get("streams") or [] if other != name]
            holders = f"stream {', '.join(sorted(set(names)))}"
            raise StreamError(f"{what}: {holders} already takes {', '.join(subjects)}") from None
        if refused.error.err_code == INVALID_JSON and config.pop("allow_batched", None):
            # A strict server that is older than fast ingest.
            return await _change(api, verb, config)
        raise


def _joined(existing: list[str], wanted: tuple[str, ...]) -> list[str]:
    """Add the wanted subjects that no existing one covers, and drop those they cover."""
    new = [subject for subject in wanted if not any(covers(had, subject) for had in existing)]
    return [had for had in existing if not any(covers(one, had) for one in new)] + new


def unreached_filter(settings: StreamSettings, existing: Json) -> str | None:
    """Say which filter matches no subject of the stream, whose configuration is `existing`.

    None where each does; what is mirrored or transformed may have any subject.
    """
    if _holds_any(existing):
        return None
    subjects = _joined(existing.get("subjects") or [], settings.subjects)
    for consumer in settings.consumers:
        for wanted in consumer.filter_subjects:
            if not any(overlap(wanted, subject) for subject in subjects):
                return (
                    f"nats.consumers: filter_subject = {wanted!r} of {consumer.name!r} is not "
                    f"allowed: it matches none of the subjects of stream {settings.name}, "
                    f"{', '.join(subjects)}"
                )
    return None


def _check_filters(settings: StreamSettings, existing: Json) -> None:
    if (unreached := unreached_filter(settings, existing)) is not None:
        raise ConfigurationError(unreached)
    if _holds_any(existing):
        return
    for consumer in settings.consumers:
        for wanted in consumer.filter_subjects:
            if not any(overlap(wanted, ours) for ours in _OURS):
                log.warning("consumer %s: no event is ever published on %s", consumer.name, wanted)


def _holds_any(existing: Json) -> bool:
    return any(existing.get(key) for key in ("mirror", "sources", "subject_transform"))


def _max_message_bytes(name: str, config: Json) -> int:
    """Return the bound that the stream itself has; it counts headers and payload as well."""
    # Unlimited is -1, or left out by older servers.
    bound = int(config.get("max_msg_size") or -1)
    if bound < 0:
        return MAX_PAYLOAD_BYTES
    if bound < MAX_JSON_EVENT_BYTES:
        raise StreamError(
            f"stream {name} takes messages of at most {bound} bytes (max_msg_size); "
            f"events need {MAX_JSON_EVENT_BYTES}"
        )
    return min(bound, MAX_PAYLOAD_BYTES)


def _warn_of_loss(name: str, info: Json) -> None:
    """Say it when the stream drops at once what it has just acknowledged."""
    # The server acknowledges what it then drops, so nothing else would tell.
    if info["config"].get("retention") == "interest" and not info["state"].get("consumer_count"):
        log.warning(
            "stream %s has interest retention and no consumer: it keeps nothing of what is "
            "published until it has one",
            name,
        )


async def _set_up_consumer(api: JetStreamApi, stream: str, settings: ConsumerSettings) -> None:
    info = await api.consumer_info(stream, settings.name)
    wanted = _consumer(settings)
    existing: Json = info["config"] if info else {}
    if info and not _differences(existing, wanted):
        return
    try:
        await api.call(
            f"consumer {settings.name} of stream {stream} cannot be set up",
            f"CONSUMER.CREATE.{stream}.{settings.name}",
            {"stream_name": stream, "config": existing | wanted},
        )
    except RefusedError as refused:
        if not info:
            raise
        log.warning("%s; it stays as it is", refused)


def _consumer(settings: ConsumerSettings) -> Json:
    config: Json = {
        "name": settings.name,
        "durable_name": settings.name,
        "ack_policy": "explicit",
        "deliver_policy": settings.deliver_policy,
    }
    if settings.deliver_subject is not None:
        config["deliver_subject"] = settings.deliver_subject
    if len(settings.filter_subjects) == 1:
        config["filter_subject"] = settings.filter_subjects[0]
    elif settings.filter_subjects:
        config["filter_subjects"] = list(settings.filter_subjects)
    return config
