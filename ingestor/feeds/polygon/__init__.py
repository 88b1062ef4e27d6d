"""Polygon/Massive WebSocket frames to records."""
