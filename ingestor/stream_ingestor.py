"""`StreamIngestor`: the live feeds of a configuration, published to JetStream.

``python -m ingestor.main`` is the command ``bin/ingestor-live``.
"""

from __future__ import annotations

from ingestor.runtime.live_run import StreamIngestor

__all__ = ["StreamIngestor"]
