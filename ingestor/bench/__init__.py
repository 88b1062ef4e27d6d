"""Benchmarks that anyone can run: our replay beside the server's own limit and plain Python."""
