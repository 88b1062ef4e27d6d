"""When a standby takes over, by what it reads of leases."""

from __future__ import annotations

import pytest

from ingestor.runtime.live_run import TAKEOVER_S, LeaseWatch
from ingestor.runtime.run_records import Holder, Lease

HOLDER = Holder("run", "host", 1, 0)


def leases(*revisions: int) -> dict[str, Lease]:
    return {f"S.{at}": Lease(revision, HOLDER) for at, revision in enumerate(revisions)}


def test_what_nobody_holds_is_free() -> None:
    assert LeaseWatch().is_free({}, 0.0)


def test_a_lease_that_stands_still_for_long_enough_is_free() -> None:
    watch = LeaseWatch()
    assert not watch.is_free(leases(5), 10.0)
    assert not watch.is_free(leases(5), 9.99 + TAKEOVER_S)
    assert watch.is_free(leases(5), 10.0 + TAKEOVER_S)


def test_a_renewed_lease_is_waited_for_anew() -> None:
    watch = LeaseWatch()
    watch.is_free(leases(5), 10.0)
    assert not watch.is_free(leases(6), 10.0 + TAKEOVER_S)
    assert not watch.is_free(leases(6), 10.0 + 1.9 * TAKEOVER_S)
    assert watch.is_free(leases(6), 10.0 + 2 * TAKEOVER_S)


def test_all_leases_must_stand_still() -> None:
    watch = LeaseWatch()
    watch.is_free(leases(5, 6), 10.0)
    assert not watch.is_free(leases(5, 7), 10.0 + TAKEOVER_S)


def test_who_could_not_ask_begins_anew() -> None:
    watch = LeaseWatch()
    watch.is_free(leases(5), 10.0)
    watch.forget()
    assert not watch.is_free(leases(5), 100.0)
    assert watch.is_free(leases(5), 100.0 + TAKEOVER_S)


def test_what_a_dead_process_of_this_machine_held_is_free_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ingestor.runtime.run_records._place", lambda: "here")
    dead = Holder("run", "host", 1, 0, place="here", start_ticks=1)
    assert LeaseWatch().is_free({"S.0": Lease(5, dead)}, 0.0)
