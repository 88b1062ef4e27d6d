"""Market-data ingestor: vendor feeds in, canonical events in NATS JetStream out."""

__version__ = "0.1.0"
