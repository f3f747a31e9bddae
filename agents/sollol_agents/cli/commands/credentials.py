"""`sollol credentials`: settings files with users, passwords and permissions for every member of a fleet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sollol_agents.cli.output import say
from sollol_bus.errors import ConfigError
from sollol_bus.server.rights import Credential, TlsFiles, make_credentials, server_config
from sollol_schemas.subjects import MEMBERS, Role

Names = Annotated[list[str] | None, Parameter(negative="", help="Repeat it for several.")]


def credentials(
    folder: Annotated[Path, Parameter(help="Folder for the files; made when missing, must be empty.")],
    *,
    node: Names = None,
    client: Names = None,
    host: Annotated[str, Parameter(help="Address on which the NATS server of `sollol up` shall listen.")] = "127.0.0.1",
    url: Annotated[str, Parameter(help="Address under which the others reach it.")] = "nats://127.0.0.1:4222",
    tls_cert: Annotated[str, Parameter(help="Certificate of the server, for an encrypted listener.")] = "",
    tls_key: Annotated[str, Parameter(help="Key of that certificate.")] = "",
    tls_ca: Annotated[str, Parameter(help="CA certificate that the others check the server's with.")] = "",
) -> int:
    """Writes one settings file per member: `up.toml` for `sollol up`, one per node, one per client, one observer.

    Each holds a fresh password and is readable for its owner alone. Hand every machine its own file and nothing else:
    with them the NATS server lets a node speak under its own id only, and a client see its own answers only. An
    `accounts.conf` for a NATS server of your own is written too.
    """
    if bool(tls_cert) != bool(tls_key):
        raise ConfigError("--tls-cert and --tls-key belong together")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name a new folder, so that no password is overwritten")
    made = make_credentials(node or [], clients=client or ["client"])
    tls = TlsFiles(cert_file=tls_cert, key_file=tls_key) if tls_cert else None
    accounts = server_config(made, tls=tls)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / "accounts.conf", accounts)
    for credential in made:
        name = "up" if credential.role is Role.CONTROL else credential.user
        text = "\n".join(_settings(credential, url, host, accounts, tls_ca))
        _write(folder / f"{name}.toml", text + "\n")
    say(f"wrote {len(made) + 1} files to {folder}")
    say(f"start the system with: sollol up --config {folder / 'up.toml'}")
    for credential in made:
        if credential.role is Role.NODE:
            say(f"and the node with: sollol node --config {credential.user}.toml")
    return 0


def _settings(credential: Credential, url: str, host: str, accounts: str, tls_ca: str) -> Iterator[str]:
    yield f"# {credential.role.value} credentials: keep this file to yourself."
    yield "[nats]"
    if credential.role is not Role.CONTROL:
        yield f"url = {json.dumps(url)}"
    yield f"user = {json.dumps(credential.user)}"
    yield f"password = {json.dumps(credential.password)}"
    if credential.role in MEMBERS:
        yield f"caller = {json.dumps(credential.user)}"
    if tls_ca:
        yield f"tls_ca_file = {json.dumps(tls_ca)}"
    match credential.role:
        case Role.NODE:
            yield f"\n[node]\nnode_id = {json.dumps(credential.node_id)}"
        case Role.CONTROL:
            yield f'\n[server]\nhost = {json.dumps(host)}\nextra_config = """\n{accounts}"""'
        case _:
            return


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
