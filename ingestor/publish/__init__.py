"""Finished frames into a JetStream stream, and what the stream has acknowledged."""
