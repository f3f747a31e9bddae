"""Settings of the registrar, and the files of a fleet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta


class RegistrarConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the fleet's authority is kept."""

    folder: Annotated[
        str, Meta(description="Folder that `sollol fleet init` made; empty: this fleet knows no members.")
    ] = ""

    @classmethod
    def beside(cls, creds_file: str | None) -> RegistrarConfig:
        """The authority that lies beside the credentials of the first machine, if it does."""
        folder = Path(creds_file).expanduser().parent if creds_file else None
        return cls(folder=str(folder)) if folder is not None and (folder / AUTHORITY).exists() else cls()

    @property
    def certificate(self) -> tuple[Path, Path] | None:
        """The server's certificate and its key, on the machine where the fleet was made."""
        return (self.file(SERVER_CERTIFICATE), self.file(SERVER_KEY)) if self.folder else None

    def file(self, name: str) -> Path:
        """A file of the fleet."""
        return Path(self.folder) / name


CONTROL = "control"
"""Name of the member that the actors of the first machine are."""
AUTHORITY = "authority.json"
CA = "ca.pem"
CA_KEY = "ca.key"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"
CONTROL_CREDENTIALS = "control.creds"
SYSTEM_CREDENTIALS = "system.creds"
NODE_CREDENTIALS = "node.creds"
"""Of the node beside the server."""
PUSHED = "pushed"
"""Folder in which the server keeps what was pushed to it."""


def write_secret(path: Path, text: str) -> None:
    """Replaces a file whole, so that no reader meets a half of it and nobody but its owner may read it."""
    beside = path.with_name(f".{path.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
