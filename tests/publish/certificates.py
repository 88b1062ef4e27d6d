"""Certificates for tests, made by the openssl command: an authority, a server, a client."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificates:
    """Files, each with a private key of the same name ending in .key."""

    ca: Path
    server: Path
    client: Path


def make_certificates(directory: Path) -> Certificates:
    """Make them, the server's for 127.0.0.1; skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with")
    ca = directory / "ca.pem"
    # Python 3.13 wants a key usage in whatever may sign, which openssl makes of all of them.
    may_sign = ("-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign")
    authority = ("-subj", "/CN=test authority", "-days", "2", *may_sign)
    _openssl("req", "-x509", *_KEY, *_out(ca), *authority)
    for name in ("server", "client"):
        path = directory / f"{name}.pem"
        signed = ("-CA", ca, "-CAkey", ca.with_suffix(".key"), "-days", "2")
        extension = ("-addext", "subjectAltName=IP:127.0.0.1", *may_sign)
        _openssl("req", "-x509", *_KEY, *_out(path), "-subj", f"/CN={name}", *signed, *extension)
    return Certificates(ca, directory / "server.pem", directory / "client.pem")


def _out(path: Path) -> tuple[object, ...]:
    return ("-out", path, "-keyout", path.with_suffix(".key"))


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
