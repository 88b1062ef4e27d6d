"""Vendors' bytes to records; one package a vendor, none knows of another."""
