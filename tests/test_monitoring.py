"""Alarms and dashboard: they name what there is, raise when they should, and load in Prometheus."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest

from tests import live_cli, replay_cli
from tests.dbn_files import dbn_path, depth, write_dbn
from tests.docs.metrics_page import metrics_page
from tests.docs.pages import ROOT
from tests.docs.test_references import anchors
from tests.live_cli import feeds_of
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.runtime.http import fetch, fetch_when_up

ALERTS: Final = ROOT / "configs" / "alerts.yml"
DASHBOARD: Final = ROOT / "configs" / "grafana" / "ingestor.json"
PATIENCE_S: Final = 40.0

PROMETHEUS: Final = shutil.which("prometheus")
PROMTOOL: Final = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool here")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="there is no prometheus here")

_MADE_BY_PROMETHEUS: Final = {"bucket", "count", "sum"}


def alarms() -> dict[str, str]:
    """The expression of each alarm; each stands on a line of its own."""
    found = re.findall(r"^ +- alert: (\w+)\n +expr: (.+)$", ALERTS.read_text(), re.M)
    return dict(found)


def panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in made if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """Each panel's title and expressions, as Grafana asks them of all runs."""
    return [
        (panel["title"], asked(target["expr"])) for panel in panels() for target in panel["targets"]
    ]


def asked(expression: str) -> str:
    return expression.replace("$instance", ".*").replace("$__rate_interval", "10s")


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"ingestor_\w+", expression))


def known() -> set[str]:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) ", metrics_page(), re.M)
    parts = {
        f"{name}_{part}"
        for name, kind in rows
        for part in _MADE_BY_PROMETHEUS
        if kind == "histogram"
    }
    return {name for name, _ in rows} | parts


def test_every_metric_that_is_asked_for_is_one_that_there_is() -> None:
    wanted = [*alarms().values(), *(expression for _, expression in queries())]
    for expression in wanted:
        assert metrics_in(expression), expression
        assert metrics_in(expression) <= known(), expression


def test_what_each_alarm_means_is_written_down_under_its_name() -> None:
    text = ALERTS.read_text()
    names = re.findall(r"- alert: (\w+)", text)
    assert sorted(names) == sorted(alarms())
    assert len(names) == len(set(names)) >= 15
    assert {name.lower() for name in names} <= anchors(ROOT / "docs" / "operating.md")
    links = re.findall(r"runbook_url: docs/operating\.md#(\w+)", text)
    assert links == [name.lower() for name in names]


def test_the_panels_lie_beside_each_other_and_are_numbered() -> None:
    made = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in made}) == len(made) > 20
    for one, other in combinations((panel["gridPos"] for panel in made), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in made) == 24


@needs_promtool
def test_each_alarm_is_raised_by_what_it_is_for_and_by_nothing_else() -> None:
    assert PROMTOOL is not None
    for command, file in (("check", ALERTS), ("test", ROOT / "tests" / "alerts_test.yml")):
        ended = subprocess.run(
            [PROMTOOL, command, "rules", str(file)], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
    tested = re.findall(
        r'alertname="(\w+)"\}\', value', (ROOT / "tests" / "alerts_test.yml").read_text()
    )
    assert set(tested) == set(alarms())


class Prometheus:
    """A real one, which looks at runs every second."""

    def __init__(self, folder: Path, *runs: int) -> None:
        assert PROMETHEUS is not None
        targets = json.dumps([f"127.0.0.1:{port}" for port in runs])
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{ALERTS}]\n"
            f"scrape_configs: [{{job_name: ingestor, static_configs: [{{targets: {targets}}}]}}]\n"
        )
        self.port = free_port()
        self._process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        fetch_when_up(self.port, "/-/healthy")
        until(self.is_ready, self.is_ready)

    def is_ready(self) -> bool:
        return fetch(self.port, "/-/ready").code == 200

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples that an expression has now."""
        got = fetch(self.port, f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        answer = json.loads(got.text)
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        [group] = json.loads(fetch(self.port, "/api/v1/rules").text)["data"]["groups"]
        found: list[dict[str, Any]] = group["rules"]
        return found

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def until(condition: Callable[[], object], told: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.2)


@contextlib.contextmanager
def ended_with(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)


@needs_prometheus
@pytest.mark.slow
def test_a_real_prometheus_has_an_answer_for_every_panel_and_raises_an_alarm(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    live_port, replay_port = free_port(), free_port()
    for name, port in (("live", live_port), ("replay", replay_port)):
        (tmp_path / f"{name}.toml").write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n')
    write_dbn(dbn_path(tmp_path / "data", "mbp-10"), depth(60_000, step_ns=10**8), schema="mbp-10")
    with contextlib.ExitStack() as stack:
        vendor = stack.enter_context(live_cli.simulator("--rate", "500", "--options-rate", "100"))
        where = ("--nats", nats_server.url)
        live = live_cli.start(
            *where,
            "--config",
            "live.toml",
            "--record",
            "journal",
            cwd=tmp_path,
            env=feeds_of(vendor),
        )
        stack.enter_context(ended_with(live))
        replay = replay_cli.start(
            *where, "--config", "replay.toml", "--data-dir", "data", "--feeds", "mbp10",
            "--speed", "20", cwd=tmp_path,
        )  # fmt: skip
        stack.enter_context(ended_with(replay))
        for port in (live_port, replay_port):
            fetch_when_up(port, "/metrics")
        prometheus = Prometheus(tmp_path, live_port, replay_port)
        stack.callback(prometheus.stop)

        def unanswered() -> list[tuple[str, str]]:
            return [(title, query) for title, query in queries() if not prometheus.ask(query)]

        until(lambda: not unanswered(), unanswered)
        assert {rule["name"] for rule in prometheus.rules()} == set(alarms())
        assert {rule["health"] for rule in prometheus.rules()} <= {"ok", "unknown"}
        os.kill(vendor.pid, signal.SIGKILL)
        pending = 'ALERTS{alertname="IngestorVendorAway", process="stocks"}'
        until(lambda: prometheus.ask(pending), prometheus.rules)
