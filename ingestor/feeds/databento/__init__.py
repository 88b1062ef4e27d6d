"""Databento DBN files to records."""

from ingestor.feeds.databento.files import DbnFile, DbnSchema, available_dates, find_files
from ingestor.feeds.databento.ingestor import BLOCK_BYTES, DBNIngestor
from ingestor.feeds.databento.progress import Progress

__all__ = [
    "BLOCK_BYTES",
    "DBNIngestor",
    "DbnFile",
    "DbnSchema",
    "Progress",
    "available_dates",
    "find_files",
]
