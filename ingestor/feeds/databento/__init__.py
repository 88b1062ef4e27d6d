"""Databento DBN files to records."""

from ingestor.feeds.databento.files import DbnFile, DbnSchema
from ingestor.feeds.databento.ingestor import BLOCK_BYTES, DBNIngestor
from ingestor.feeds.databento.record_filter import FileProgress
from ingestor.feeds.databento.selection import Catalog, available_dates, find_files

__all__ = [
    "BLOCK_BYTES",
    "Catalog",
    "DBNIngestor",
    "DbnFile",
    "DbnSchema",
    "FileProgress",
    "available_dates",
    "find_files",
]
