from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ingestor.errors import ConfigurationError
from ingestor.publish.access import Access, prepare

if TYPE_CHECKING:
    from pathlib import Path

CREDENTIALS = """-----BEGIN NATS USER JWT-----
eyJ0eXAi.e30.sig
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""
SEED = "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
"""The example of the client library's own documentation; it opens nothing."""


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://one:4333", ["nats://one:4333"]),
        ("one", ["nats://one:4222"]),
        ("nats://[::1]:4222", ["nats://[::1]:4222"]),
        ("nats://a:1, tls://b:2", ["nats://a:1", "tls://b:2"]),
    ],
)
def test_urls_may_be_short_and_several(url: str, servers: list[str]) -> None:
    assert prepare(Access(url=url)).servers == servers


@pytest.mark.parametrize(
    ("url", "user", "password", "token"),
    [
        ("nats://jo:p%40ss@one", "jo", "p@ss", None),
        ("nats://jo:@one", "jo", "", None),
        ("nats://t0ken@one", None, None, "t0ken"),
        ("nats://one,nats://jo:pw@two", "jo", "pw", None),
    ],
)
def test_secrets_are_taken_out_of_the_url(
    url: str, user: str | None, password: str | None, token: str | None
) -> None:
    login = prepare(Access(url=url))
    assert (login.user, login.password, login.token) == (user, password, token)
    assert all("@" not in server for server in login.servers)


def test_settings_beat_what_stands_in_the_url() -> None:
    login = prepare(Access(url="nats://jo:pw@one", token="t"))
    assert (login.user, login.password, login.token) == (None, None, "t")


def test_no_secret_is_shown() -> None:
    access = Access(user="jo", password="s3cret", token="t0ken")
    assert "s3cret" not in repr(access) + repr(prepare(access))
    assert "t0ken" not in repr(access) + repr(prepare(access))


@pytest.mark.parametrize(
    "url", ["", " , ", "http://one", "nats://", "nats://one:port", "nats://one:0", "nats://u:p@"]
)
def test_a_url_that_cannot_work_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        prepare(Access(url=url))


def test_a_bad_url_is_told_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="one:port") as raised:
        prepare(Access(url="nats://jo:s3cret@one:port"))
    assert "s3cret" not in str(raised.value)


def test_a_credentials_file_is_read_before_the_client_would_hang_on_it(tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        prepare(Access(credentials_file=path))
    path.write_text("nothing of use\n")
    with pytest.raises(ConfigurationError, match="holds no JWT and seed"):
        prepare(Access(credentials_file=path))
    path.write_text(CREDENTIALS.format(seed="SUABROKEN"))
    with pytest.raises(ConfigurationError, match="seed"):
        prepare(Access(credentials_file=path))
    path.write_text(CREDENTIALS.format(seed=SEED))
    assert prepare(Access(credentials_file=path)).credentials_file == path


def test_a_tls_file_that_is_missing_or_no_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(ConfigurationError, match=str(path)):
        prepare(Access(tls_ca_file=path))
    path.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=str(path)):
        prepare(Access(tls_ca_file=path))


def test_a_key_without_a_certificate_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="certificate"):
        prepare(Access(tls_key_file=tmp_path / "key.pem"))


def test_tls_is_set_up_only_where_it_is_asked_for() -> None:
    assert prepare(Access(url="nats://one")).tls is None
    assert prepare(Access(url="tls://one")).tls is not None
