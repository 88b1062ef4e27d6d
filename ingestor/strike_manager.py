"""`StrikeManager`: which option contracts a live run follows while the price moves."""

from __future__ import annotations

from ingestor.feeds.polygon.strikes import Focus, StrikeManager, StrikePlan

__all__ = ["Focus", "StrikeManager", "StrikePlan"]
