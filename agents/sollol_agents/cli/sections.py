"""Every section of settings: its name, its config Struct and where its names differ from the fields'."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from sollol_agents.cli.settings import Section

T = TypeVar("T", bound=msgspec.Struct)


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """Where a section's Struct is, and names that are not simply the field's own."""

    kind: str
    """Import path of the config Struct, so that listing sections imports no actor."""
    title: str
    flags: dict[str, str] = {}
    envs: dict[str, str] = {}
    hidden: tuple[str, ...] = ()
    flag_prefix: str = ""


SECTIONS: Mapping[str, Names] = {
    "nats": Names(
        kind="sollol_bus.connection:BusConfig",
        title="The connection to NATS, for every command",
        flags={"url": "--nats"},
        envs={"url": "SOLLOL_NATS"},
        hidden=("name", "inbox_prefix"),
        flag_prefix="nats-",
    ),
    "log": Names(kind="sollol_agents.cli.logs:LogConfig", title="Logging, for every command", flag_prefix="log-"),
    "up": Names(kind="sollol_agents.cli.up:UpConfig", title="`sollol up`"),
    "node": Names(
        kind="sollol_agents.node.config:NodeConfig",
        title="`sollol node`",
        flags={"node_id": "--id", "labels": "--label"},
    ),
    "scorer": Names(kind="sollol_agents.scorer.config:ScorerConfig", title="`sollol scorer`"),
    "dispatcher": Names(kind="sollol_agents.dispatcher.config:DispatcherConfig", title="`sollol dispatcher`"),
    "recorder": Names(kind="sollol_agents.recorder.config:RecorderConfig", title="`sollol recorder`"),
    "emulate": Names(kind="sollol_agents.emulator.config:EmulatorConfig", title="`sollol emulate`"),
    "engine": Names(kind="sollol_agents.engine.server:EngineConfig", title="`sollol engine`"),
}


def section(name: str, kind: type[T], *, flag_prefix: str | None = None) -> Section[T]:
    """The section called `name`, whose Struct is `kind`.

    Args:
        name: A key of `SECTIONS`.
        kind: The Struct, given again so that the result is typed.
        flag_prefix: Another prefix of its flags, where several sections share a command.
    """
    names = SECTIONS[name]
    return Section(
        name,
        kind,
        flags=names.flags,
        envs=names.envs,
        hidden=names.hidden,
        flag_prefix=names.flag_prefix if flag_prefix is None else flag_prefix,
    )


def all_sections() -> list[Section[Any]]:
    """Every section, with its actor's module imported."""
    return [section(name, _load(names.kind)) for name, names in SECTIONS.items()]


def _load(path: str) -> type[msgspec.Struct]:
    module, _, name = path.partition(":")
    kind: type[msgspec.Struct] = getattr(importlib.import_module(module), name)
    return kind
