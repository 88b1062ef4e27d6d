"""One way to a NATS server: options, connection, JetStream, streams, answers."""
