"""docker-compose.yml and what it mounts: profiles, ports, health checks, files that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from ingestor.cli.command_line import LIVE_ENVIRONMENT, REPLAY_ENVIRONMENT
from ingestor.config.load import SECRET_FILES, file_layer, load
from tests.conftest import StartNatsServer
from tests.ports import free_port
from tests.test_monitoring import Prometheus, needs_prometheus

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
    assert "healthcheck: *healthz" in service("live")
    assert "stop_grace_period: 40s" in service("ingestor")
    assert "stop_grace_period: 40s" in service("live")


@pytest.mark.parametrize("name", ["ingestor", "live"])
def test_a_run_is_started_with_what_there_is(name: str) -> None:
    text = service(name)
    entry = re.search(r"entrypoint: \[python, -m, (.*)\]", text) or re.search(
        r'ENTRYPOINT \["python", "-m", "(.*)"\]', (ROOT / "Dockerfile").read_text()
    )
    assert entry is not None
    assert find_spec(entry[1]) is not None
    given = re.search(r"command: \[--config, (.*)\]", text)
    assert given is not None
    assert f"- ./configs/compose.toml:{given[1]}:ro" in text
    environment = re.search(r"environment:\n((?:      .*\n)+)", text)
    assert environment is not None
    names = set(re.findall(r"^      (\w+):", environment[1], re.M))
    heeded = REPLAY_ENVIRONMENT if name == "ingestor" else {**LIVE_ENVIRONMENT, **SECRET_FILES}
    assert "NATS_URL" in names
    assert names <= {*heeded}


def healthy(name: str, **other: str) -> subprocess.CompletedProcess[str]:
    """Run a service's health check; `other` ports and programs stand for those of its container."""
    text = service(name)
    if found := re.search(r"test: \[CMD, (.*)\]", text):
        command = [word.strip('"') for word in found[1].split(", ")]
    else:
        found = re.search(
            r"test:\n        - CMD\n        - (\w+)\n        - -c\n        - \|\n", text
        )
        assert found is not None
        script = re.match(r"(?: {10}.*\n)+", text[found.end() :])
        assert script is not None
        command = [found[1], "-c", textwrap.dedent(script[0])]
    for one, another in other.items():
        command = [re.sub(rf"\b{one.strip('_')}\b", another, word) for word in command]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


class Answer(BaseHTTPRequestHandler):
    """Answers as the /healthz of a run does."""

    code = HTTPStatus.OK

    def do_GET(self) -> None:
        assert self.path == "/healthz"
        self.send_response(self.code)
        self.end_headers()
        self.wfile.write(b"ok" if self.code == HTTPStatus.OK else b"silent: publisher for 3.0 s")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_container_is_as_healthy_as_its_run_and_says_why_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = {"_9464": str(server.server_port), "python": sys.executable}
        well = healthy("ingestor", **here)
        assert (well.returncode, well.stdout) == (0, "ok\n")
        monkeypatch.setattr(Answer, "code", HTTPStatus.SERVICE_UNAVAILABLE)
        unwell = healthy("ingestor", **here)
        assert (unwell.returncode, unwell.stdout) == (1, "silent: publisher for 3.0 s\n")
        server.shutdown()
    assert healthy("ingestor", **here).returncode == 1


needs_wget = pytest.mark.skipif(shutil.which("wget") is None, reason="there is no wget here")


@needs_wget
def test_the_server_is_healthy_while_it_answers(start_nats_server: StartNatsServer) -> None:
    port = str(free_port())
    server = start_nats_server(extra_config=f'http: "127.0.0.1:{port}"')
    assert healthy("nats", _8222=port).returncode == 0
    server.stop()
    assert healthy("nats", _8222=port).returncode != 0


@needs_wget
@needs_prometheus
def test_prometheus_is_healthy_while_it_answers(tmp_path: Path) -> None:
    prometheus = Prometheus(tmp_path)
    try:
        assert healthy("prometheus", _9090=str(prometheus.port)).returncode == 0
    finally:
        prometheus.stop()
    assert healthy("prometheus", _9090=str(prometheus.port)).returncode != 0


def test_prometheus_accepts_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here")
    command = [promtool, "check", "config", str(ROOT / "configs" / "prometheus.yml")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
