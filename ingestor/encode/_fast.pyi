from ingestor.blocks import Frames, Reply, Runs
from ingestor.encode.packer import Headers

ROW_BYTES: dict[int, int]

class FastJsonEncoder:
    def encode(
        self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int
    ) -> Frames: ...

class FastPackedEncoder:
    headers: Headers
    def encode(
        self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int
    ) -> Frames: ...
