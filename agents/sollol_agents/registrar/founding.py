"""How a fleet begins: its keys, its certificates, and the members on its first machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sollol_agents.registrar import config as files
from sollol_agents.registrar.config import write_secret
from sollol_bus.trust.authority import claims_of_member, enrolled, new_authority, server_config, tls_config
from sollol_bus.trust.certificates import new_ca, new_server
from sollol_bus.trust.claims import Kind, creds_text, new_seed, public_key, user_claims
from sollol_schemas.instants import instant
from sollol_schemas.members import Member
from sollol_schemas.subjects import Role


def found(folder: Path, hosts: Sequence[str], port: int, node_id: str, *, now: float) -> str:
    """Writes the files of a new fleet, each readable for its owner alone.

    Args:
        folder: For them; it is there and empty.
        hosts: Names and addresses under which members reach the server, beside those of this machine itself.
        port: Of the server.
        node_id: Of the node beside the server.
        now: Unix seconds.

    Returns:
        What its NATS server is configured with.
    """
    ca = new_ca(now=now)
    own = new_server(ca, list(dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"])), now=now)
    authority = new_authority([f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts])
    for name, role, file in (
        (files.CONTROL, Role.CONTROL, files.CONTROL_CREDENTIALS),
        (node_id, Role.NODE, files.NODE_CREDENTIALS),
    ):
        seed = new_seed(Kind.USER)
        member = Member(
            name=name, role=role, key=public_key(seed), machine=socket.gethostname()[:64], joined_at=instant(now)
        )
        authority = enrolled(authority, member)
        write_secret(folder / file, creds_text(claims_of_member(authority, member, now=now), seed))
    seed = new_seed(Kind.USER)
    system = user_claims(authority.system_seed, public_key(seed), "registrar", now=now)
    write_secret(folder / files.SYSTEM_CREDENTIALS, creds_text(system, seed))
    write_secret(folder / files.CA, ca.certificate)
    write_secret(folder / files.CA_KEY, ca.key)
    write_secret(folder / files.SERVER_CERTIFICATE, own.certificate)
    write_secret(folder / files.SERVER_KEY, own.key)
    write_secret(folder / files.AUTHORITY, msgspec.json.encode(authority).decode())
    tls = tls_config(str(folder / files.SERVER_CERTIFICATE), str(folder / files.SERVER_KEY))
    return server_config(authority, folder=str(folder / files.PUSHED)) + tls
