"""Order of events over feeds, and the pace they are published at."""
