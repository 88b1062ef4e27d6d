from ingestor.model.blocks import Frames, Reply, Runs

ROW_BYTES: dict[int, int]

class FastJsonEncoder:
    max_payload_bytes: int

    def encode(
        self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int
    ) -> Frames: ...

class FastPackedEncoder:
    max_payload_bytes: int

    def encode(
        self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int
    ) -> Frames: ...
