from ingestor.blocks import Frames, Reply, Runs

ROW_BYTES: dict[int, int]

class FastJsonEncoder:
    def encode(
        self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int
    ) -> Frames: ...

class FastPackedEncoder:
    def encode(
        self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int
    ) -> Frames: ...
