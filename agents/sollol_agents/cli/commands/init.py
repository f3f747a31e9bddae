"""`sollol init`: a first settings file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.output import say
from sollol_agents.cli.settings.annotations import Shape
from sollol_agents.cli.settings.section import Section, Setting
from sollol_agents.cli.settings.sections import SECTIONS, all_sections
from sollol_bus.errors import ConfigError

_STDOUT = Path("-")
DEFAULT_NAME = "sollol.toml"
_HEAD = """\
# Settings of SOLLOL Bus. Every line shows a default; remove the # to change it.
# Flags win over the environment, the environment over this file: sollol up --config {name}
"""


def init(
    path: Annotated[Path, Parameter(help="File to write; `-` prints it.")] = Path(DEFAULT_NAME),
    *,
    stdout: Annotated[bool, Parameter(has_negative=False, show_default=False, help="Print it instead.")] = False,
    force: Annotated[
        bool, Parameter(has_negative=False, show_default=False, help="Overwrite a file that exists.")
    ] = False,
) -> int:
    """Writes a settings file with every setting, its meaning, its range and its default."""
    text = _HEAD.format(name=DEFAULT_NAME if path == _STDOUT else path) + "\n".join(_lines())
    if stdout or path == _STDOUT:
        say(text)
        return 0
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; --force overwrites it")
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    say(f"wrote {path}; use it with: sollol up --config {path}")
    return 0


def _lines() -> Iterator[str]:
    for section in all_sections():
        yield ""
        yield f"# {SECTIONS[section.name].title}"
        yield f"[{section.name}]"
        yield from _settings(section)


def _settings(section: Section[Any]) -> Iterator[str]:
    for setting in section.settings:
        note = f"{setting.description} ({setting.allowed}; {setting.env})"
        yield f"# {' '.join(note.split())}"
        yield f"#{setting.key} = {_toml(setting)}"


def _toml(setting: Setting) -> str:
    """The default as a TOML value; for none, an empty value of the right form."""
    value = setting.default
    if setting.shape is Shape.MAP:
        return "{" + ", ".join(f"{_text(k)} = {_text(v)}" for k, v in (value or {}).items()) + "}"
    if setting.shape is Shape.LIST:
        return "[" + ", ".join(_text(v) for v in value or ()) + "]"
    if isinstance(value, (bool, int, float)):
        return msgspec.json.encode(value).decode()
    return _text("" if value is None else value)


def _text(value: object) -> str:
    return msgspec.json.encode(str(value)).decode()
