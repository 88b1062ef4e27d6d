from __future__ import annotations

from itertools import islice

from tests.faults.plan import KILL, PAUSE, STOP, WITHIN_S, rounds
from tests.faults.runs import Tally

TARGETS = {"stocks": (KILL, STOP, PAUSE), "publisher": (KILL,), "nats": (KILL, PAUSE), "run": ()}
SOME = {name: hows for name, hows in TARGETS.items() if hows}


def test_a_plan_depends_on_its_seed_alone() -> None:
    first, again, other = (list(islice(rounds(seed, SOME), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_every_fault_comes_alone_and_at_once_with_others() -> None:
    plan = list(islice(rounds(3, SOME), 400))
    wanted = {f"{target} {how}" for target, hows in SOME.items() for how in hows}
    assert {one.faults[0].label for one in plan if len(one.faults) == 1} == wanted
    assert {fault.label for one in plan if len(one.faults) > 1 for fault in one.faults} == wanted


def test_faults_at_once_meet_others_each_and_within_their_time() -> None:
    for one in islice(rounds(4, SOME), 400):
        assert len({fault.target for fault in one.faults}) == len(one.faults) <= 3
        assert all(0 <= fault.at_s <= WITHIN_S for fault in one.faults)


def test_one_target_alone_is_hit_by_one_fault_at_a_time() -> None:
    plan = islice(rounds(5, {"nats": (KILL,)}, (0.0, 0.1)), 50)
    assert {(len(one.faults), one.pause_s <= 0.1) for one in plan} == {(1, True)}


def test_deaths_are_those_of_processes_and_runs() -> None:
    tally = Tally()
    tally.faults.update({"run kill": 2, "stocks stop": 1, "stocks pause": 4, "nats kill": 8})
    tally.faults["vendor drop"] = 16
    assert tally.deaths == 3
