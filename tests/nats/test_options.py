from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.model.bounds import printable
from ingestor.model.errors import ConfigurationError
from ingestor.nats.options import MAX_SERVERS, ConnectOptions, resolve, without_secrets

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
    assert resolve(ConnectOptions(url=url)).servers == servers


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
    credentials = resolve(ConnectOptions(url=url))
    assert (credentials.user, credentials.password, credentials.token) == (user, password, token)
    assert all("@" not in server for server in credentials.servers)


def test_settings_beat_what_stands_in_the_url() -> None:
    credentials = resolve(ConnectOptions(url="nats://jo:pw@one", token="t"))
    assert (credentials.user, credentials.password, credentials.token) == (None, None, "t")


def test_no_secret_is_shown() -> None:
    for options in (
        ConnectOptions(user="jo", password="s3cret"),
        ConnectOptions(token="s3cret"),
        ConnectOptions(url="nats://jo:s3cret@one,nats://s3cret@two"),
    ):
        assert "s3cret" not in repr(options) + repr(resolve(options)) + resolve(options).names


@pytest.mark.parametrize(
    "url", ["", " , ", "http://one", "nats://", "nats://one:port", "nats://one:0", "nats://u:p@"]
)
def test_a_url_that_cannot_work_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        resolve(ConnectOptions(url=url))


def test_a_bad_url_is_told_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="one:port") as raised:
        resolve(ConnectOptions(url="nats://jo:s3cret@one:port"))
    assert "s3cret" not in str(raised.value)


def test_a_credentials_file_is_read_before_the_client_would_hang_on_it(tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        resolve(ConnectOptions(credentials_file=path))
    path.write_text("nothing of use\n")
    with pytest.raises(ConfigurationError, match="holds no JWT and seed"):
        resolve(ConnectOptions(credentials_file=path))
    path.write_text(CREDENTIALS.format(seed="SUABROKEN"))
    with pytest.raises(ConfigurationError, match="seed"):
        resolve(ConnectOptions(credentials_file=path))
    path.write_text(CREDENTIALS.format(seed=SEED))
    assert resolve(ConnectOptions(credentials_file=path)).credentials_file == path


def test_a_tls_file_that_is_missing_or_no_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(ConfigurationError, match=str(path)):
        resolve(ConnectOptions(tls_ca_file=path))
    path.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=str(path)):
        resolve(ConnectOptions(tls_ca_file=path))


def test_a_key_without_a_certificate_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="certificate"):
        resolve(ConnectOptions(tls_key_file=tmp_path / "key.pem"))


def test_tls_is_set_up_only_where_it_is_asked_for() -> None:
    assert resolve(ConnectOptions(url="nats://one")).tls is None
    assert resolve(ConnectOptions(url="tls://one")).tls is not None


SECRET = "s3cret"
TORN = [
    f"nats://jo:{SECRET}\udcff@one:4333",
    f"nats://jo:a/{SECRET}@one:4333",
    f"nats://jo:a?{SECRET}@one:4333",
    f"nats://jo:a#{SECRET}@one:4333",
    f"nats://jo:a@{SECRET}@one:4333",
    f"nats://jo:a:{SECRET}@one:4333",
    f"nats://jo:{SECRET} x@one:4333",
    f"nats://{SECRET}/x@one:4333",
    f"nats://jo:{SECRET}",
    f"nats://jo:1,{SECRET}@one:4333",
    f"nats://jo:{SECRET},x@one:4333",
    f"http://jo:{SECRET}@one:4333",
    f"nats://jo:{SECRET}@",
    f"nats://jo:{SECRET}@[::1",
    f"nats://jo:%ff{SECRET}@one",
    f"nats://jo:{SECRET}@one:99999",
    f"nats://{SECRET}@one,nats://two:x",
    f"nats://jo:{SECRET}@one/path",
    f"nats://jo:{SECRET}@ho\x1b[2Jst",
]


@pytest.mark.parametrize("url", TORN)
def test_a_url_that_cannot_be_read_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        resolve(ConnectOptions(url=url))
    told = f"{raised.value} {raised.value!r} {raised.value.__cause__} {raised.value.__context__}"
    assert SECRET not in told
    assert SECRET not in without_secrets(url)
    assert "\x1b" not in told


@settings(max_examples=50)
@given(
    user=st.text(min_size=1, max_size=10),
    password=st.text(max_size=10),
    port=st.integers(1, 65_535),
)
def test_whatever_is_written_in_percents_is_read_back(user: str, password: str, port: int) -> None:
    url = f"nats://{quote(user, safe='')}:{quote(password, safe='')}@host:{port}"
    credentials = resolve(ConnectOptions(url=url))
    assert (credentials.user, credentials.password) == (user, password)
    assert credentials.servers == [f"nats://host:{port}"]


@settings(max_examples=100)
@given(st.text(max_size=60) | st.text(alphabet="nats:/@?#,%[].01 -", max_size=40))
def test_any_text_is_a_url_or_a_mistake_in_the_configuration(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        credentials = resolve(ConnectOptions(url=text))
        assert all(
            re.fullmatch(r"(nats|tls)://[^@/]+:\d+", server) for server in credentials.servers
        )
    assert without_secrets(text) == printable(without_secrets(text), 1000)


def test_every_url_keeps_its_own_secret() -> None:
    credentials = resolve(ConnectOptions(url="nats://a:1,nats://jo:pw@b:2,nats://tok@c:3"))
    assert credentials.secrets_for("b:2") == ("jo", "pw", None)
    assert credentials.secrets_for("c:3") == (None, None, "tok")
    assert credentials.secrets_for("a:1") == credentials.secrets_for("d:4") == ("jo", "pw", None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (ConnectOptions(token="t", credentials_file=Path("c")), "token and credentials file"),
        (ConnectOptions(user="u", password="p", nkey_file=Path("c")), "user and nkey file"),
        (ConnectOptions(user="u"), "the password is missing"),
        (ConnectOptions(password="p"), "the user is missing"),
        (ConnectOptions(jetstream_domain="a", api_prefix="b"), "name one of them"),
        (ConnectOptions(jetstream_domain="a.b"), "holds a dot"),
        (ConnectOptions(inbox_prefix="a.>"), "inbox prefix"),
        (ConnectOptions(inbox_prefix="a..b"), "inbox prefix"),
        (ConnectOptions(inbox_prefix="a" * 200), "inbox prefix"),
        (ConnectOptions(api_prefix="$JS.API."), "API prefix"),
        (ConnectOptions(url=["nats://h"] * 65), "allowed are 64"),
    ],
)
def test_what_contradicts_itself_is_refused(options: ConnectOptions, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        resolve(options)


def test_an_nkey_file_is_read_and_its_seed_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "user.nk"
    for text in ("", "SUABROKEN", "\xff", "x" * 70_000):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ConfigurationError) as raised:
            resolve(ConnectOptions(nkey_file=path))
        assert str(path) in str(raised.value)
        assert len(text) < 5 or text not in str(raised.value)
    path.write_text(f"{SEED}\n")
    assert resolve(ConnectOptions(nkey_file=path)).nkey_file == path


@settings(max_examples=100)
@given(st.text(alphabet="SUAOIDPBNKEY234567", max_size=70) | st.binary(max_size=70).map(str))
def test_any_seed_is_taken_or_named_as_broken(text: str) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        with contextlib.suppress(ConfigurationError):
            resolve(ConnectOptions(nkey_file=Path(file.name)))


def test_a_file_that_is_a_folder_or_a_pipe_does_not_keep_us(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        ways = (
            ConnectOptions(credentials_file=path),
            ConnectOptions(nkey_file=path),
            ConnectOptions(tls_ca_file=path),
        )
        for options in ways:
            with pytest.raises(ConfigurationError, match=str(path)):
                resolve(options)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        (ConnectOptions(url="nats://jo:pw@db.example"), True),
        (ConnectOptions(url="db.example", token="t"), True),
        (ConnectOptions(url="nats://127.0.0.1,nats://db.example", user="u", password="p"), True),
        (ConnectOptions(url="nats://jo:pw@127.0.0.1,nats://localhost,nats://[::1]"), False),
        (ConnectOptions(url="tls://jo:pw@db.example"), False),
        (ConnectOptions(url="nats://jo:pw@db.example", tls_first=True), False),
        (ConnectOptions(url="nats://db.example"), False),
    ],
)
def test_a_secret_that_goes_unencrypted_over_a_network_is_warned_of(
    options: ConnectOptions, *, warned: bool
) -> None:
    cautions = resolve(options).cautions
    assert bool(cautions) == warned
    assert "pw" not in "".join(cautions)


def test_a_key_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "user.nk"
    path.write_text(SEED)
    path.chmod(0o644)
    (sentence,) = resolve(ConnectOptions(nkey_file=path)).cautions
    assert str(path) in sentence
    path.chmod(0o600)
    assert resolve(ConnectOptions(nkey_file=path)).cautions == ()


def test_the_api_is_where_the_domain_or_the_prefix_says() -> None:
    assert resolve(ConnectOptions()).api_prefix == "$JS.API"
    assert resolve(ConnectOptions(jetstream_domain="hub")).api_prefix == "$JS.hub.API"
    assert resolve(ConnectOptions(api_prefix="js.team")).api_prefix == "js.team"


def test_as_many_servers_as_are_allowed_are_taken_and_no_more() -> None:
    urls = [f"nats://n{number}" for number in range(MAX_SERVERS + 1)]
    assert len(resolve(ConnectOptions(url=urls[:-1])).servers) == MAX_SERVERS
    with pytest.raises(ConfigurationError, match=f"allowed are {MAX_SERVERS}"):
        resolve(ConnectOptions(url=urls))
