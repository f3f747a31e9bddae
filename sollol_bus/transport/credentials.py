"""What a connection shows the NATS server, from the settings and the files that they name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from sollol_bus.errors import ConfigError
from sollol_bus.transport.config import BusConfig


def credentials_of(config: BusConfig) -> dict[str, Any]:
    """The client library's options.

    Raises:
        ConfigError: A file cannot be read, or is not what it should be.
    """
    shown: dict[str, Any] = {}
    if config.creds_file is not None:
        _check("creds_file", config.creds_file)
        shown["user_credentials"] = config.creds_file
    elif config.user is not None:
        shown |= {"user": config.user, "password": config.password or ""}
    elif config.password is not None:
        shown["token"] = config.password
    if config.tls_ca_file is not None:
        _check("tls_ca_file", config.tls_ca_file)
        try:
            shown["tls"] = ssl.create_default_context(cafile=config.tls_ca_file)
        except ssl.SSLError as error:
            raise ConfigError(f"tls_ca_file={config.tls_ca_file!r} holds no certificate: {error.reason}") from error
    return shown


def _check(field: str, path: str) -> None:
    """Looks whether a file can be read, since the libraries that read it do not say which one cannot."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{field}={path!r} cannot be read: {error.strerror}") from error
