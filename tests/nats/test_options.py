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
from ingestor.nats.options import Access, prepare, without_secrets

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
    for access in (
        Access(user="jo", password="s3cret"),
        Access(token="s3cret"),
        Access(url="nats://jo:s3cret@one,nats://s3cret@two"),
    ):
        assert "s3cret" not in repr(access) + repr(prepare(access)) + prepare(access).names


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
        prepare(Access(url=url))
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
    login = prepare(Access(url=url))
    assert (login.user, login.password) == (user, password)
    assert login.servers == [f"nats://host:{port}"]


@settings(max_examples=100)
@given(st.text(max_size=60) | st.text(alphabet="nats:/@?#,%[].01 -", max_size=40))
def test_any_text_is_a_url_or_a_mistake_in_the_configuration(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        login = prepare(Access(url=text))
        assert all(re.fullmatch(r"(nats|tls)://[^@/]+:\d+", server) for server in login.servers)
    assert without_secrets(text) == printable(without_secrets(text), 1000)


def test_every_url_keeps_its_own_secret() -> None:
    login = prepare(Access(url="nats://a:1,nats://jo:pw@b:2,nats://tok@c:3"))
    assert login.secrets_for("b:2") == ("jo", "pw", None)
    assert login.secrets_for("c:3") == (None, None, "tok")
    assert login.secrets_for("a:1") == login.secrets_for("d:4") == ("jo", "pw", None)


@pytest.mark.parametrize(
    ("access", "sentence"),
    [
        (Access(token="t", credentials_file=Path("c")), "token and credentials file"),
        (Access(user="u", password="p", nkey_file=Path("c")), "user and nkey file"),
        (Access(user="u"), "the password is missing"),
        (Access(password="p"), "the user is missing"),
        (Access(jetstream_domain="a", api_prefix="b"), "name one of them"),
        (Access(jetstream_domain="a.b"), "holds a dot"),
        (Access(inbox_prefix="a.>"), "inbox prefix"),
        (Access(inbox_prefix="a..b"), "inbox prefix"),
        (Access(inbox_prefix="a" * 200), "inbox prefix"),
        (Access(api_prefix="$JS.API."), "API prefix"),
        (Access(url=["nats://h"] * 65), "allowed are 64"),
    ],
)
def test_what_contradicts_itself_is_refused(access: Access, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        prepare(access)


def test_an_nkey_file_is_read_and_its_seed_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "user.nk"
    for text in ("", "SUABROKEN", "\xff", "x" * 70_000):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ConfigurationError) as raised:
            prepare(Access(nkey_file=path))
        assert str(path) in str(raised.value)
        assert len(text) < 5 or text not in str(raised.value)
    path.write_text(f"{SEED}\n")
    assert prepare(Access(nkey_file=path)).nkey_file == path


@settings(max_examples=100)
@given(st.text(alphabet="SUAOIDPBNKEY234567", max_size=70) | st.binary(max_size=70).map(str))
def test_any_seed_is_taken_or_named_as_broken(text: str) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        with contextlib.suppress(ConfigurationError):
            prepare(Access(nkey_file=Path(file.name)))


def test_a_file_that_is_a_folder_or_a_pipe_does_not_keep_us(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        ways = (Access(credentials_file=path), Access(nkey_file=path), Access(tls_ca_file=path))
        for access in ways:
            with pytest.raises(ConfigurationError, match=str(path)):
                prepare(access)


@pytest.mark.parametrize(
    ("access", "warned"),
    [
        (Access(url="nats://jo:pw@db.example"), True),
        (Access(url="db.example", token="t"), True),
        (Access(url="nats://127.0.0.1,nats://db.example", user="u", password="p"), True),
        (Access(url="nats://jo:pw@127.0.0.1,nats://localhost,nats://[::1]"), False),
        (Access(url="tls://jo:pw@db.example"), False),
        (Access(url="nats://jo:pw@db.example", tls_first=True), False),
        (Access(url="nats://db.example"), False),
    ],
)
def test_a_secret_that_goes_unencrypted_over_a_network_is_warned_of(
    access: Access, *, warned: bool
) -> None:
    cautions = prepare(access).cautions
    assert bool(cautions) == warned
    assert "pw" not in "".join(cautions)


def test_a_key_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "user.nk"
    path.write_text(SEED)
    path.chmod(0o644)
    (sentence,) = prepare(Access(nkey_file=path)).cautions
    assert str(path) in sentence
    path.chmod(0o600)
    assert prepare(Access(nkey_file=path)).cautions == ()


def test_the_api_is_where_the_domain_or_the_prefix_says() -> None:
    assert prepare(Access()).api_prefix == "$JS.API"
    assert prepare(Access(jetstream_domain="hub")).api_prefix == "$JS.hub.API"
    assert prepare(Access(api_prefix="js.team")).api_prefix == "js.team"
