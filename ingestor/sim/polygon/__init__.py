"""A simulator of the Polygon stocks and options WebSocket feeds, for demos and tests."""
