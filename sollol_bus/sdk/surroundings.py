"""How the bus is reached from here: what the environment and the settings file of this machine say.

They are those of the command line: `SOLLOL_NATS` and `SOLLOL_NATS_*`, and the table `[nats]` of the file that
`SOLLOL_CONFIG` names, or of the one that `sollol join` wrote. The environment wins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from sollol_bus.errors import ConfigError
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.plain_words import in_plain_words

_OF_PROGRAMS: Final = frozenset({"name", "inbox_prefix", "connect_timeout_s", "stream_bytes"})
"""What a program says itself."""


def settings_file(environ: Mapping[str, str]) -> Path | None:
    """The settings file of this machine; None where there is none and none is named."""
    named = environ.get("SOLLOL_CONFIG")
    if named:
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config"
    path = Path(home) / "sollol" / "sollol.toml"
    return path if path.exists() else None


def bus_config_here(name: str, environ: Mapping[str, str] | None = None) -> BusConfig:
    """The settings of a connection called `name`.

    Raises:
        ConfigError: The file cannot be read, or a value is unusable.
    """
    environ = os.environ if environ is None else environ
    path = settings_file(environ)
    given: dict[str, Any] = _table(path) if path is not None else {}
    for field in BusConfig.__struct_fields__:
        text = environ.get("SOLLOL_NATS" if field == "url" else f"SOLLOL_NATS_{field.upper()}")
        if text is not None and field not in _OF_PROGRAMS:
            given[field] = text
    try:
        return msgspec.convert({**given, "name": name}, BusConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"SOLLOL_NATS_* or [nats] in {path}: {in_plain_words(str(error))}") from error


def is_fleet_named(environ: Mapping[str, str]) -> bool:
    """Whether the environment or the settings file of this machine says where a fleet is.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = settings_file(environ)
    return bool(environ.get("SOLLOL_NATS")) or (path is not None and bool(_table(path).get("url")))


def _table(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 most machines have no such file

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("nats", {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [nats] must be a table")
    return dict(table)
