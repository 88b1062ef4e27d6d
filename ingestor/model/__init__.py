"""Records, events, blocks, symbols, time, errors: what all rooms speak of. Imports no other."""
