from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ingestor.config.schema import Config, Metrics
from ingestor.merge.ordering import WatermarkMerge
from ingestor.merge.steering import Steering
from ingestor.model.blocks import Source
from ingestor.nats.options import ConnectOptions
from ingestor.publish.publisher import Publisher
from ingestor.runtime.controller import Controller, Steered
from ingestor.runtime.counters import CounterTable, Role
from ingestor.runtime.feed_process import FeedContext
from ingestor.runtime.metrics import MetricsPlan
from ingestor.runtime.progress_reporter import LiveProgress
from ingestor.runtime.run import FeedPlan, RunPlan, _service_children
from ingestor.runtime.run_keeper import Keeping
from ingestor.runtime.run_records import new_record
from tests.runtime.views import FACTS


def ends_at_once(_context: FeedContext) -> None:
    return None


def no_publisher(_again: bool) -> Publisher:
    raise AssertionError("a plan makes no publisher")


PLAN = RunPlan(
    feeds=[
        FeedPlan("trades", ends_at_once, Source.REPLAY),
        FeedPlan("mbp10", ends_at_once, Source.REPLAY),
    ],
    config=Config(),
    publisher=no_publisher,
    merge=WatermarkMerge(2),
    progress=LiveProgress,
)


@pytest.fixture
def full() -> Iterator[RunPlan]:
    """All that may run beside the data path does."""
    controller = Controller()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield replace(
            PLAN,
            steered=Steered(Steering(), controller, lambda _table, _feeds, _row: None),
            metrics=(MetricsPlan(listener, Metrics()), FACTS),
            keeping=Keeping(ConnectOptions("nats://127.0.0.1"), new_record("replay", "S")),
        )
    controller.close()


def test_a_plan_without_services_has_its_feeds_and_a_publisher() -> None:
    assert PLAN.processes == [
        ("trades", Role.FILES),
        ("mbp10", Role.FILES),
        ("publisher", Role.PUBLISHER),
    ]
    assert list(_service_children(PLAN, CounterTable(3))) == []


def test_feeds_of_a_live_run_are_live() -> None:
    assert [role for _, role in replace(PLAN, live=True).processes[:2]] == [Role.LIVE, Role.LIVE]


def test_every_process_has_the_row_of_its_place(full: RunPlan) -> None:
    services = list(_service_children(full, CounterTable(len(full.processes))))
    names = [name for name, _ in full.processes]
    assert names == ["trades", "mbp10", "publisher", "metrics", "records", "control"]
    assert [child.name for child in services] == names[3:]
    # What a service is given last: the number of feeds, and its own row.
    assert [child.main.args[-2:] for child in services[1:]] == [(2, 4), (2, 5)]  # type: ignore[attr-defined]


def test_a_service_that_is_left_out_moves_the_rows_behind_it(full: RunPlan) -> None:
    plan = replace(full, metrics=None)
    services = list(_service_children(plan, CounterTable(len(plan.processes))))
    assert [child.main.args[-1] for child in services] == [3, 4]  # type: ignore[attr-defined]


def test_a_run_goes_on_without_its_services(full: RunPlan) -> None:
    assert all(child.optional for child in _service_children(full, CounterTable(6)))
