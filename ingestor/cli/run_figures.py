"""What /metrics of a run says, in figures: rates, fills and quantiles between two looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from ingestor.model.bounds import printable
from ingestor.model.errors import BadDataError
from ingestor.model.units import NS_PER_S
from ingestor.runtime.latency import Hop


class Scrape:
    """One answer of /metrics, taken at `at_s` of a monotonic clock.

    Raises BadDataError for a text that is not Prometheus', or none of ours.
    """

    def __init__(self, text: str, at_s: float) -> None:
        self.at_s = at_s
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    held = self._samples.setdefault(sample.name, [])
                    held.append((sample.labels, sample.value))
        except ValueError as error:
            raise BadDataError(f"these are no metrics: {printable(str(error))}") from None
        if "ingestor_run_info" not in self._samples:
            raise BadDataError("these are not the metrics of a run of ours")

    def by(self, name: str, label: str = "process") -> dict[str, float]:
        """Return the values of a metric by one of its labels."""
        found = self._samples.get(name, ())
        return {printable(labels.get(label, "")): value for labels, value in found}

    def one(self, name: str) -> float | None:
        """Return the value of a metric that there is once; None where there is none."""
        found = self._samples.get(name)
        return found[0][1] if found else None

    @property
    def info(self) -> dict[str, str]:
        """What runs, and where to."""
        return {
            key: printable(text) for key, text in self._samples["ingestor_run_info"][0][0].items()
        }

    def buckets(self, hop: Hop) -> list[tuple[float, float]]:
        """Return a hop's upper edges in seconds, and how many events were within each, ascending.

        Those of several processes are added up.
        """
        name, counted = f"ingestor_{hop.name.lower()}_seconds_bucket", dict[float, float]()
        for labels, value in self._samples.get(name, ()):
            edge = float(labels.get("le", "inf"))
            counted[edge] = counted.get(edge, 0.0) + value
        return sorted(counted.items())


def quantile_s(
    before: Sequence[tuple[float, float]], now: Sequence[tuple[float, float]], share: float
) -> float | None:
    """Return the latency that a share of the events since `before` did not exceed.

    It lies between two powers of two and is taken to be evenly spread there, as Prometheus' own
    `histogram_quantile` does. None where no event has come since.
    """
    earlier = dict(before)
    counted = [(edge, count - earlier.get(edge, 0.0)) for edge, count in now]
    if not counted or counted[-1][1] <= 0:
        return None
    wanted, below, lower = share * counted[-1][1], 0.0, 0.0
    for edge, count in counted:
        if count >= wanted:
            # Nobody knows how long those beyond the last edge took: at least as long as that.
            return (
                lower
                if edge == float("inf")
                else lower + (edge - lower) * ((wanted - below) / (count - below))
            )
        below, lower = count, edge
    return lower


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One process; None is what means nothing in it."""

    name: str
    state: str
    rate: float | None
    """Events a second."""
    events: float | None
    age_ns: int | None
    """Since its newest event happened."""
    ring: float | None
    """How full its ring is, 0 to 1."""
    cpu: float | None
    """Of one CPU, 0 to 1."""
    memory_bytes: float | None
    restarts: float


def processes(before: Scrape, now: Scrape, wall_ns: int) -> list[ProcessFigures]:
    """Return the figures of every process at the moment of `now`, with rates since `before`."""
    passed_s = max(now.at_s - before.at_s, 1e-9)
    live = now.info.get("mode", "").startswith("live")

    def rates(name: str) -> dict[str, float]:
        # A counter that is smaller than it was belongs to a run that began since.
        earlier = before.by(name)
        return {
            process: max(value - earlier.get(process, 0.0), 0.0) / passed_s
            for process, value in now.by(name).items()
        }

    event_rates, cpu = rates("ingestor_records_total"), rates("ingestor_process_cpu_seconds_total")
    events, memory = (
        now.by("ingestor_records_total"),
        now.by("ingestor_process_resident_memory_bytes"),
    )
    times, restarts = now.by("ingestor_event_time_seconds"), now.by("ingestor_restarts_total")
    used, held = now.by("ingestor_ring_used_bytes"), now.by("ingestor_ring_bytes")
    states = _states(now)
    return [
        ProcessFigures(
            name,
            states.get(name, "runs"),
            event_rates.get(name),
            events.get(name),
            wall_ns - int(times[name] * NS_PER_S) if live and name in times else None,
            used.get(name, 0.0) / held[name] if held.get(name) else None,
            cpu.get(name),
            memory.get(name),
            restarts.get(name, 0.0),
        )
        for name in dict.fromkeys((*now.by("ingestor_ended"), *memory))
    ]


def _states(now: Scrape) -> dict[str, str]:
    states = {
        name: "connected" if value else "away"
        for name, value in now.by("ingestor_connected").items()
    }
    states |= {name: "stalled" for name, age in now.by("ingestor_stalled_seconds").items() if age}
    return states | {name: "ended" for name, value in now.by("ingestor_ended").items() if value}
