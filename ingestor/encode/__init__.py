"""Ordered runs of records to finished frames."""
