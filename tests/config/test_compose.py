"""docker-compose.yml and what it mounts: profiles, ports, health checks, files that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ingestor.config.load import file_layer, load

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()


def service(name: str) -> str:
    """The lines of a service."""
    found = re.search(rf"(?ms)^  {name}:\n(.*?)(?=^  \w|^\w)", TEXT)
    assert found is not None, name
    return found[1]


@pytest.mark.parametrize(
    ("name", "profiles"),
    [
        ("nats", None),
        ("ingestor", "replay"),
        ("live", "live"),
        ("prometheus", "replay, live"),
        ("grafana", "replay, live"),
    ],
)
def test_each_service_has_its_profile_and_a_health_check(name: str, profiles: str | None) -> None:
    found = re.search(r"profiles: \[(.*)\]", service(name))
    assert (found[1] if found else None) == profiles
    assert "healthcheck:" in service(name)


@pytest.mark.parametrize("name", ["nats", "ingestor", "live", "prometheus", "grafana"])
def test_a_port_is_published_on_the_loopback_alone(name: str) -> None:
    ports = re.findall(r'^      - "(.*:\d+)"$', service(name), re.M)
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_two_services_publish_one_port() -> None:
    ports = re.findall(r'"127.0.0.1:(\d+):\d+"', TEXT)
    assert len(ports) == len(set(ports)) == 5


def test_what_is_mounted_from_the_project_is_there() -> None:
    mounted = re.findall(r"- \./(configs[\w./-]*):", TEXT)
    assert len(mounted) == 5
    for path in mounted:
        assert (ROOT / path).exists(), path


def test_the_runs_show_their_health_where_it_is_asked_for() -> None:
    config = load([file_layer(ROOT / "configs" / "compose.toml")]).config
    assert config.metrics.listen == "0.0.0.0:9464"
    assert "http://127.0.0.1:9464/healthz" in service("ingestor")
    assert "healthcheck: *healthz" in service("live")
    assert "stop_grace_period: 40s" in service("ingestor")
    assert "stop_grace_period: 40s" in service("live")


def test_prometheus_accepts_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here")
    command = [promtool, "check", "config", str(ROOT / "configs" / "prometheus.yml")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
