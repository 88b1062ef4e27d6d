"""Ordered runs of records to finished frames."""

from ingestor.encode.fast import ENCODINGS, make_encoder

__all__ = ["ENCODINGS", "make_encoder"]
