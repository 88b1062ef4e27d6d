"""Market-data ingestor: vendor feeds in, canonical events in NATS JetStream out.

The names below are imported when they are first asked for: ``import ingestor`` alone costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` would be a third of what comes before the first line
if TYPE_CHECKING:
    from typing import Any, Final

    from ingestor.feeds.databento.ingestor import DBNIngestor
    from ingestor.feeds.polygon.strikes import StrikeManager
    from ingestor.model.blocks import Source as EventSource
    from ingestor.runtime.live_run import StreamIngestor
    from ingestor.runtime.replay_run import ReplayPublisher

__version__ = "0.1.0"

__all__ = [
    "DBNIngestor",
    "EventSource",
    "ReplayPublisher",
    "StreamIngestor",
    "StrikeManager",
    "__version__",
]

_LAZY: Final = {
    "DBNIngestor": ("ingestor.feeds.databento.ingestor", "DBNIngestor"),
    "EventSource": ("ingestor.model.blocks", "Source"),
    "ReplayPublisher": ("ingestor.runtime.replay_run", "ReplayPublisher"),
    "StreamIngestor": ("ingestor.runtime.live_run", "StreamIngestor"),
    "StrikeManager": ("ingestor.feeds.polygon.strikes", "StrikeManager"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
