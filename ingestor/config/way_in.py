"""From the table [nats] to what lets a publisher or a consumer in."""

from __future__ import annotations

from collections.abc import Sequence

from ingestor.config.schema import Nats
from ingestor.nats.options import Access


def access_to(nats: Nats, url: str | Sequence[str]) -> Access:
    """Return how to reach the servers at `url`; not checked yet."""
    return Access(
        url=url,
        user=nats.user,
        password=nats.password,
        token=nats.token,
        credentials_file=nats.credentials_file,
        nkey_file=nats.nkey_file,
        tls_ca_file=nats.tls_ca_file,
        tls_cert_file=nats.tls_cert_file,
        tls_key_file=nats.tls_key_file,
        tls_first=nats.tls_first,
        inbox_prefix=nats.inbox_prefix,
        jetstream_domain=nats.jetstream_domain,
        api_prefix=nats.api_prefix,
    )
