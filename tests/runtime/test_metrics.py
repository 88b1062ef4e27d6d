"""Where metrics are served: bound before anything starts."""

from __future__ import annotations

import socket

import pytest

from ingestor.config.schema import Metrics
from ingestor.model.errors import ConfigurationError
from ingestor.runtime.metrics import listening


def test_it_is_off_unless_told() -> None:
    with listening(Metrics()) as plan:
        assert plan is None


def test_a_run_that_can_be_steered_tells_its_address_with_a_token_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    tokens = set()
    for _ in range(2):
        with listening(Metrics(listen="127.0.0.1:0"), steerable=True) as plan:
            assert plan is not None
            assert plan.token is not None
            host, port = plan.listener.getsockname()
            assert f"http://{host}:{port}/?token={plan.token}" in caplog.text
            tokens.add(plan.token)
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 32
    with listening(Metrics(listen="127.0.0.1:0")) as plan:
        assert plan is not None
        assert plan.token is None
    assert caplog.text.endswith("/\n")


def test_an_address_that_cannot_be_had_is_a_wrong_configuration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        sentence = f"metrics.listen = '{listen}' cannot be listened on: Address already in use"
        with pytest.raises(ConfigurationError, match=sentence), listening(Metrics(listen=listen)):
            pass
    for listen in ("127.0.0.1:65536", "192.0.2.1:80", "no.such.host.invalid:80"):
        with pytest.raises(ConfigurationError, match=listen), listening(Metrics(listen=listen)):
            pass


def test_a_demo_takes_another_port_where_its_own_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with listening(Metrics(listen=listen), demo=True) as plan:
            assert plan is not None
            assert plan.listener.getsockname() != taken.getsockname()
