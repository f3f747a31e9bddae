"""Turns sections of settings into the flags of a command.

`with_settings` takes a plain function and one section for each of its parameters that is a config Struct; the
command line sees a flag for every setting, the function gets the finished, checked Structs.
"""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.settings.annotations import Shape
from sollol_agents.cli.settings.section import ConfigFile, Section, Setting
from sollol_bus.errors import ConfigError

_CONFIG_HELP = "TOML file with settings, a table for each section."
CONFIG_ENV = "SOLLOL_CONFIG"
_FLAGS_SHOWN: Final = 9
OFTEN: Final[Mapping[str, tuple[str, ...]]] = {
    "routing": ("routing_mode", "priority", "node_id", "strict", "deadline_s", "soft"),
    "node": ("node_id", "engine", "url", "slots", "labels", "weight", "vram_gb", "ram_gb", "engine_api_key"),
    "gateway": ("host", "port", "cors_origins", "hosts", "require_key", "deadline_s", "max_body_bytes"),
}
"""Settings that `--help` shows of sections where it does not show the first ones."""
_LAST = ("nats", "log", "metrics", "tracing")
"""Sections that every command has: shown below its own."""


def with_settings(
    known: tuple[str, ...] = (),
    displaced: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType({}),
    /,
    **sections: Section[Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that replaces parameters which are config Structs by the flags that fill them.

    Args:
        known: Names of all sections that a settings file may have; others in it are an error.
        displaced: Settings (parameter and setting) that the flag of another displaces, environment and file included.
        sections: The section of each parameter to fill.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function, include_extras=True)
        own = [p.replace(annotation=hints[n]) for n, p in signature.parameters.items() if n not in sections]
        made = {
            _slot(name, s): (name, s)
            for name, section in sections.items()
            if section.is_flagged
            for s in section.settings
        }
        flags = [
            flag for name, section in sections.items() if section.is_flagged for flag in _parameters(name, section)
        ]

        @functools.wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 whatever the function takes
            path = kwargs.pop("config", None) or os.environ.get(CONFIG_ENV)
            file = ConfigFile(Path(path)) if path else ConfigFile.of_this_machine()
            if file is not None and known:
                file.refuse_unknown_sections(known)
            given: dict[str, dict[str, object]] = {name: {} for name in sections}
            for slot, (name, setting) in made.items():
                given[name][setting.key] = kwargs.pop(slot, None)
            gone = _displaced(displaced, given, sections)
            for name, section in sections.items():
                without = [key for place, key in gone if place == name]
                kwargs[name] = section.load(given[name], _environ(), file, displaced=without)
            return function(*args, **kwargs)

        config = inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_config_annotation()
        )
        # the command line reads the signature, and the wrapped function's own must not shine through
        parameters = [*own, *flags, config]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        del command.__wrapped__
        return command

    return decorate


def _displaced(
    displaced: Mapping[tuple[str, str], tuple[str, str]],
    given: Mapping[str, Mapping[str, object]],
    sections: Mapping[str, Section[Any]],
) -> list[tuple[str, str]]:
    """The settings whose place another's flag takes.

    Raises:
        ConfigError: Both are given as flags.
    """
    gone = []
    for (name, key), (other, by) in displaced.items():
        if given[other].get(by) is None:
            continue
        gone.append((name, key))
        if given[name].get(key) is not None:
            flags = [s.flag for n, k in ((name, key), (other, by)) for s in sections[n].settings if s.key == k]
            raise ConfigError(f"{' and '.join(flags)} exclude each other; give one of them")
    return gone


def _environ() -> Mapping[str, str]:
    return os.environ


def _shown(section: Section[Any]) -> set[str]:
    """The settings of a section that `--help` shows; the others come with `--help-all`."""
    if section.name in _LAST:
        return set()
    often = OFTEN.get(section.name)
    return {s.key for s in section.settings[:_FLAGS_SHOWN]} if often is None else set(often)


def _slot(name: str, setting: Setting) -> str:
    return f"{name}__{'__'.join(setting.path)}"


def _group(section: str) -> tuple[str, int]:
    return f"Settings of {section}", _LAST.index(section) + 2 if section in _LAST else 1


@functools.cache
def _parameters(name: str, section: Section[Any]) -> tuple[inspect.Parameter, ...]:
    """The flags of a section that fills the parameter `name`; made once for all commands of a module."""
    shown = _shown(section)
    return tuple(_parameter(_slot(name, s), s, section.name, is_shown=s.key in shown) for s in section.settings)


def _parameter(slot: str, setting: Setting, section: str, *, is_shown: bool) -> inspect.Parameter:
    kind: Any = str | None
    if setting.shape is Shape.SWITCH:
        kind = bool | None
    elif setting.shape in (Shape.LIST, Shape.MAP):
        kind = list[str] | None
    parameter = Parameter(
        name=setting.flag,
        help=_help(setting),
        show_default=False,
        show=is_shown,
        group=_group(section),
        allow_leading_hyphen=setting.shape is Shape.SCALAR,
    )
    return inspect.Parameter(slot, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, parameter])


def _help(setting: Setting) -> str:
    facts = [] if setting.allowed in ("text", "true or false") else [setting.allowed]
    if setting.default_text and not setting.is_secret:
        facts.append(f"default {setting.default_text}")
    if setting.env:
        facts.append(f"env {setting.env}")
    return f"{setting.description} ({'; '.join(facts)})" if facts else setting.description


def _config_annotation() -> Any:  # noqa: ANN401 a type form
    return Annotated[str | None, Parameter(name="--config", show=False, help=f"{_CONFIG_HELP} (env {CONFIG_ENV})")]
