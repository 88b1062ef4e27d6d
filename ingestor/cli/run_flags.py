"""Flags and environment of live runs and replays, which commands about these take as well."""

from __future__ import annotations

from typing import Final

from ingestor.cli.command_line import NO_LEASE, Flag, commas

LIVE_ENVIRONMENT: Final = {
    "NATS_URL": "nats.url",
    "POLYGON_API_KEY": "polygon.api_key",
    "POLYGON_STANDBY_API_KEY": "polygon.standby_api_key",
    "POLYGON_STOCKS_URL": "polygon.stocks_url",
    "POLYGON_OPTIONS_URL": "polygon.options_url",
}

REPLAY_ENVIRONMENT: Final = {
    "NATS_URL": "nats.url",
    "REPLAY_SPEED": "replay.speed",
    "REPLAY_DATE": "replay.dates",
    "DBN_DATA_DIR": "replay.data_dir",
}

RECORD: Final = Flag(
    "--record", "record.dir", "DIR", "write all that the vendor sends to a journal there"
)

FILES: Final = (
    Flag("replay.files", "replay.files", "FILE", "DBN files or folders, instead of --data-dir"),
)

REPLAY_WHAT: Final = (
    Flag("--data-dir", "replay.data_dir", "DIR", "folder of DBN files, in any layout; or a file"),
    Flag("--journal", "replay.journal_dir", "DIR", "folder that a live run recorded into"),
    Flag(
        "--date",
        "replay.dates",
        "YYYY-MM-DD",
        "a day; again, or with commas, for more; none means every day there is",
        commas,
        repeated=True,
    ),
    Flag(
        "--feeds",
        "replay.feeds",
        "A,B",
        "of trades, mbp10, stocks, options (default: the first two; with --journal what there is)",
        commas,
    ),
    Flag(
        "--symbols", "replay.symbols", "A,B", "only these; an underlying means its options", commas
    ),
    Flag("--start", "replay.start", "HH:MM", "New York time from which to replay"),
    Flag("--end", "replay.end", "HH:MM", "New York time before which to replay"),
)

REPLAY_HOW: Final = (
    Flag("--speed", "replay.speed", "X", "0 as fast as possible, 1 real time, 2, 0.5 ..."),
    Flag("--paused", "replay.paused", "", "wait before the first event (see ctl)", const=True),
    Flag("--no-control", "replay.control", "", "offer no service to steer it by", const=False),
    Flag("--max-gap", "replay.max_gap_s", "SECONDS", "shorten holes in event time to this"),
    Flag("--encoding", "publish.encoding", "json|packed", "one event a message, or many"),
    Flag(
        "--existing",
        "replay.existing",
        "resume|again|fresh|refuse",
        "where the stream holds this already: go on behind it (default), publish it again, remove"
        " it first, or refuse",
    ),
    Flag("--again", "replay.existing", "", "short for --existing again", const="again"),
    Flag("--fresh", "replay.existing", "", "short for --existing fresh", const="fresh"),
    NO_LEASE,
)
