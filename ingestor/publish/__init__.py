"""Finished frames into a JetStream stream, acknowledged."""
