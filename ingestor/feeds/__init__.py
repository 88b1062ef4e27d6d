"""Vendors' bytes to records; one package a vendor, none knows of another.

What is beside the packages serves several of them: windows of time.
"""
