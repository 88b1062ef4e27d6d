"""Databento DBN files to records."""
