"""Settings of a connection to the bus."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sollol_bus.transport.address import read_address

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
"""Where `sollol up` listens unless it is told otherwise."""


class BusConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the bus. A user that stands in the address becomes `user` and `password`, a token `password`.

    Raises:
        ConfigError: The address cannot be one.
    """

    url: Annotated[str, Meta(description="Address of the NATS server, or several separated by commas.")] = DEFAULT_URL
    name: Annotated[str, Meta(description="Name of the connection, as the server shows it.")] = "sollol"
    inbox_prefix: Annotated[str, Meta(description="First token of this connection's inboxes.")] = "_INBOX"
    user: Annotated[str | None, Meta(description="User name on the NATS server.")] = None
    password: Annotated[str | None, Meta(description="Password on the NATS server; without a user, its token.")] = None
    creds_file: Annotated[str | None, Meta(description="File with NATS credentials.")] = None
    tls_ca_file: Annotated[str | None, Meta(description="CA certificate that signed the server's.")] = None
    connect_timeout_s: Annotated[float, Meta(gt=0, description="Seconds to wait for the first connection.")] = 5.0
    jetstream_domain: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]*$(?!\n)",
            description="Domain of the JetStream that keeps everything; empty: the server's own.",
        ),
    ] = ""
    stream_replicas: Annotated[
        int, Meta(ge=1, le=5, description="Copies of each stream that an actor makes: 1 on one server, 3 on a cluster.")
    ] = 1

    stream_bytes: Annotated[
        int, Meta(ge=1, description="Bytes that a stream of bounded size may have at most where it is made.")
    ] = 1 << 30

    def __post_init__(self) -> None:
        """Takes the user out of the address, so that nobody who shows that shows a password."""
        if not self.url:
            return
        found = read_address(self.url)
        msgspec.structs.force_setattr(self, "url", found.url)
        if self.password is None and self.user in (None, found.user):
            msgspec.structs.force_setattr(self, "user", found.user)
            msgspec.structs.force_setattr(self, "password", found.password)

    @property
    def jetstream_api(self) -> str:
        """What every request to JetStream begins with."""
        return f"$JS.{self.jetstream_domain}.API" if self.jetstream_domain else "$JS.API"

    def kept_under(self, subject: str) -> str:
        """Where to publish a write to a bucket, so that it reaches the bucket of that domain."""
        return f"{self.jetstream_api}.{subject}" if self.jetstream_domain else subject

    def __repr__(self) -> str:
        """The settings without the password."""
        return f"BusConfig(url={self.url!r}, name={self.name!r}, user={self.user!r})"
