"""Every limit of a live feed that somebody may want to change, with its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ingestor.model.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How long things may take in the conversation with the vendor, and how often it is begun.

    Attributes:
        handshake_ns: From an open socket to ``auth_success``; then the socket is given up.
        ack_ns: From a subscription to its acknowledgement; then there is an alarm.
        unfollowed_ns: How long an options feed may stream in an open market and follow no
            contract; then there is an alarm.
        survival_ns: A socket that streamed so long lets the delays between attempts begin anew.
        cool_down_ns: After an eviction; two processes with one key would else evict each other
            for ever.
        backoff_base_ns: The first delay between two attempts; each further one is doubled.
        backoff_cap_ns: The longest delay between two attempts.
        unreachable_delay_ns: The delay where nobody is there, which costs the vendor nothing.
        unreachable_patience_ns: So long that delay holds; then it doubles like the others.
    """

    handshake_ns: int = 10 * NS_PER_S
    ack_ns: int = 10 * NS_PER_S
    unfollowed_ns: int = 60 * NS_PER_S
    survival_ns: int = 10 * NS_PER_S
    cool_down_ns: int = 60 * NS_PER_S
    backoff_base_ns: int = NS_PER_S // 2
    backoff_cap_ns: int = 30 * NS_PER_S
    unreachable_delay_ns: int = 3 * NS_PER_S // 4
    unreachable_patience_ns: int = 300 * NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """How long a socket may take, and how large what it brings may be.

    Attributes:
        open_s: From the name of the host to an open WebSocket.
        ping_s: Pause between two pings; without a single byte between them the connection is dead.
        close_s: From our close frame to the server's; then the connection is cut.
        message_bytes: A longer message ends the connection (1009). The vendor names no maximum;
            its own clients take 1 to 4 MB.
        message_fragments: A message in more fragments ends the connection.
        control_frames: More pings and pongs than these between two pings of ours end it.
        unread_bytes: What may wait for a server that does not read; more ends the connection.
    """

    open_s: float = 10.0
    ping_s: float = 20.0
    close_s: float = 1.0
    message_bytes: int = 16 * 1024 * 1024
    message_fragments: int = 65_536
    control_frames: int = 10_000
    unread_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogLimits:
    """How many records may wait for an sink that is full; whichever is reached first."""

    rows: int = 256 * 1024
    bytes: int = 16 * 1024 * 1024


MAX_BLOCK_ROWS: Final = 1024
"""Records that are handed on in one block; at most 80 KB."""
