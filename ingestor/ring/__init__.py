"""The shared-memory ring of blocks between a feed process and the publisher process."""
