"""Makes ``docs/metrics.md`` of what the program itself says of its metrics.

``python -m tests.docs.metrics_page > docs/metrics.md``
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from prometheus_client.metrics_core import Metric

from ingestor.runtime.counters import Counter, CounterTable, Role
from ingestor.runtime.latency import Hop
from ingestor.runtime.metrics import RunFacts
from ingestor.runtime.run_view import FIRST_EDGE, LAST_EDGE, RunCollector, RunView, series_of

_HEAD: Final = f"""\
# Metrics

<!-- Made by `python -m tests.docs.metrics_page > docs/metrics.md`. -->

`listen = "127.0.0.1:9464"` under `[metrics]` in the configuration turns on `/metrics`, `/healthz`
and a page for people ([metrics and health](../ingestor/INTERFACES.md#metrics-and-health)).
Prometheus scrapes `/metrics`; every run has an address of its own.

`process` is `stocks`, `options`, `trades`, `mbp10`, `publisher`, `metrics`, `records` or
`supervisor`. A metric is there only where it means something: of the processes in the column `of`,
and once there is something to tell. Histograms have a bucket for each power of two from
2^{FIRST_EDGE} ns ({2**FIRST_EDGE / 1e3:.0f} µs) to 2^{LAST_EDGE} ns ({2**LAST_EDGE / 1e9:.0f} s).

| metric | type | labels | of | meaning |
|---|---|---|---|---|
"""
_NAMES: Final = {
    Role.FILES: "feeds of files",
    Role.LIVE: "live feeds",
    Role.FEED: "feeds",
    Role.PUBLISHER: "publisher",
    Role.LIVE | Role.PUBLISHER: "live feeds, publisher",
    Role.FEED | Role.PUBLISHER: "feeds, publisher",
    Role.ANY: "all",
}
_HOPS: Final = {
    Hop.VENDOR_TO_RECEIVE: "live feeds",
    Hop.RECEIVE_TO_RING: "live feeds",
    Hop.RING_TO_PUBLISH: "publisher, live",
    Hop.PUBLISH_TO_STORED: "publisher",
    Hop.DUE_TO_SENT: "publisher, paced replay",
}


def metrics_page() -> str:
    """Return the page."""
    # With a journal, since some are there only with one.
    facts = RunFacts(mode="live", stream="", server="", started_ns=0, pid=0, journal_dir=Path.cwd())
    view = RunView([], [], CounterTable(1), facts)
    whose = {series_of(counter).name: _NAMES[counter.whose] for counter in Counter}
    whose |= {f"ingestor_{hop.name.lower()}_seconds": of for hop, of in _HOPS.items()}
    families = RunCollector(view, None, time.monotonic_ns()).families()
    return _HEAD + "".join(_row(family, whose) for family in families)


def _row(family: Metric, whose: dict[str, str]) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
    of = whose.get(name, _OTHERS.get(name, "the run"))
    about = family.documentation.replace("|", "\\|")
    return f"| `{name}` | {family.type} | {labels} | {of} | {about} |\n"


_OTHERS: Final = {
    "ingestor_unwell": "all",
    "ingestor_connected": "live feeds, publisher",
    "ingestor_heartbeat_age_seconds": "all",
    "ingestor_away_seconds": "live feeds, publisher",
    "ingestor_stalled_seconds": "publisher",
    "ingestor_skipped_by_cause_total": "feeds",
    "ingestor_process_cpu_seconds_total": "all, supervisor",
    "ingestor_process_resident_memory_bytes": "all, supervisor",
    "ingestor_replay_wanted_speed": "replay",
    "ingestor_replay_paused": "replay",
    "ingestor_replay_speed": "replay",
    "ingestor_replay_done_ratio": "replay",
    "ingestor_replay_left_seconds": "replay",
    "ingestor_reference_price": "stocks",
    "ingestor_last_status_time_seconds": "live feeds",
    "ingestor_backlog_limit": "live run",
    "ingestor_journal_free_bytes": "live run with a journal",
}


if __name__ == "__main__":
    print(metrics_page(), end="")
