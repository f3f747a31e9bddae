"""A fleet that knows its members, for tests: keys for each of them without anybody who was invited."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import nkeys

from sollol_bus.server.rights import inbox_prefix
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import BusConfig
from sollol_bus.trust.authority import Authority, claims_of_member, enrolled, new_authority, server_config, tls_config
from sollol_bus.trust.certificates import new_ca, new_server
from sollol_bus.trust.claims import Kind, creds_text, new_seed, public_key
from sollol_schemas.instants import instant
from sollol_schemas.members import Member
from sollol_schemas.subjects import Role


class Members:
    """Members of a new fleet and what each of them shows.

    Args:
        folder: For their credentials and what is pushed to the server.
        roles: Of each name; a node's name is its id.
    """

    def __init__(self, folder: Path, roles: dict[str, Role]) -> None:
        self._folder = folder
        self.authority: Authority = new_authority()
        self.ca_file: str | None = None
        """Certificate of the authority that signed the server's; None: it has none."""
        self._seeds: dict[str, str] = {}
        self._claims: dict[str, str] = {}
        now = wall_s()
        for name, role in roles.items():
            seed = self._seeds[name] = new_seed(Kind.USER)
            member = Member(name=name, role=role, key=public_key(seed), joined_at=instant(now))
            self.authority = enrolled(self.authority, member)
            self._claims[name] = claims_of_member(self.authority, member, now=now)
            (folder / f"{name}.creds").write_text(creds_text(self._claims[name], seed))

    @property
    def server_config(self) -> str:
        """For a server that knows them, without encryption."""
        return server_config(self.authority, folder=str(self._folder / "pushed"))

    @property
    def encrypted_server_config(self) -> str:
        """For a server that knows them, with a certificate of an authority of its own; see `ca_file`."""
        ca = new_ca(now=wall_s())
        own = new_server(ca, ["localhost", "127.0.0.1"], now=wall_s())  # as in every fleet
        for name, text in (("ca.pem", ca.certificate), ("server.pem", own.certificate), ("server.key", own.key)):
            (self._folder / name).write_text(text)
        self.ca_file = str(self._folder / "ca.pem")
        return self.server_config + tls_config(str(self._folder / "server.pem"), str(self._folder / "server.key"))

    def bus_config(self, name: str, url: str) -> BusConfig:
        """How one of them connects."""
        role = self.authority.members[name].role
        prefix = inbox_prefix(role, name)
        return BusConfig(
            url=url,
            name=name,
            user=name,
            creds_file=self.creds_file(name),
            tls_ca_file=self.ca_file,
            inbox_prefix=prefix,
        )

    def creds_file(self, name: str) -> str:
        """The file with the credentials of one of them."""
        return str(self._folder / f"{name}.creds")

    def options(self, name: str, info: bytes) -> dict[str, Any]:
        """What one of them says in CONNECT after the server's first line; nobody's is that of a newcomer."""
        if not name:
            return {}
        nonce = msgspec.json.decode(info.removeprefix(b"INFO "))["nonce"].encode()
        signed = nkeys.from_seed(bytearray(self._seeds[name].encode())).sign(nonce)
        return {"jwt": self._claims[name], "sig": base64.urlsafe_b64encode(signed).decode().rstrip("=")}
