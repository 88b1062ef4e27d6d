"""Polygon and Massive WebSocket frames to records: socket, session, decoder, sink.

`feed` wires one connection. What `socket` reads goes to `frame_handler`, through `decode` (`frames`
and `messages`) and over `spill_queue` to the `sink`. `session` (`subscriptions`, `commands`) holds
the conversation without any I/O; `option_follower` and `strikes` choose what it subscribes to.
`spool`, `read_back` and `relay` are what goes before: of a journal, and of another connection.
`hours` tells when silence is a fault, and `status_reporter` tells people. `journal_feed` plays a
journal through the decoder.
"""
