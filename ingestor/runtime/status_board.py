"""The last status of each feed, in shared memory beside the counters.

One slot per feed, written by the publisher process and read by whoever serves the status page.

    offset 0  u4   bytes of JSON that follow, 0 while there are none
    offset 4  u4   CRC-32 of these bytes, by which a reader knows that it read no half of two
    offset 8       the JSON of the status
"""

from __future__ import annotations

import mmap
import struct
import zlib
from typing import Final

from ingestor.model.feed_status import FeedStatus, decode_status, encode_status, shortened

SLOT_BYTES: Final = 8_192
"""A status with the longest text, every character escaped, and a feed's name."""

_HEAD: Final = struct.Struct("<II")
_READ_TRIES: Final = 3


class StatusBoard:
    """Slots for `feeds` feeds; made before the processes fork."""

    def __init__(self, feeds: int) -> None:
        self._memory = mmap.mmap(-1, max(feeds, 1) * SLOT_BYTES)

    def put(self, feed: int, status: FeedStatus) -> bool:
        """Show a status, its text shortened; False when it does not fit. For one process only."""
        data = encode_status(shortened(status))
        if len(data) > SLOT_BYTES - _HEAD.size:
            return False
        at = feed * SLOT_BYTES
        self._memory[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, at, len(data), zlib.crc32(data))
        return True

    def get(self, feed: int) -> FeedStatus | None:
        """Return the last status; None when there is none, or when it changes all the time."""
        for _ in range(_READ_TRIES):
            slot = self._memory[feed * SLOT_BYTES : (feed + 1) * SLOT_BYTES]
            size, checksum = _HEAD.unpack_from(slot)
            data = slot[_HEAD.size : _HEAD.size + size]
            if not size:
                return None
            if zlib.crc32(data) == checksum:
                return decode_status(data)
        return None
