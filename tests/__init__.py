"""The tests mirror the modules of `ingestor`; shared parts: `conftest`, `nats_servers`."""
