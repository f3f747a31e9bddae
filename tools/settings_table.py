"""The tables of settings, made from the config Structs."""

from __future__ import annotations

from typing import Any, Final

from sollol_agents.cli.commands.engines import EMULATE, ENGINE
from sollol_agents.cli.settings.section import Section, Setting
from sollol_agents.cli.settings.sections import SECTIONS, all_sections

_MOST_USED: Final = (
    "SOLLOL_NATS",
    "SOLLOL_UP_HTTP_PORT",
    "SOLLOL_UP_STORE_DIR",
    "SOLLOL_NODE_URL",
    "SOLLOL_NODE_SLOTS",
    "SOLLOL_GATEWAY_HOST",
    "SOLLOL_GATEWAY_REQUIRE_KEY",
    "SOLLOL_LOG_LEVEL",
)
"""What people set who set anything."""


def markdown() -> str:
    """One table a section: flag, environment, allowed values, default and meaning of each setting."""
    sections = all_sections()
    count = sum(len(section.settings) for section in sections)
    options = (_options(section) for section in (EMULATE, ENGINE))
    return "\n\n".join([f"There are {count} settings.", *map(_table, sections), *options])


def most_used() -> str:
    """The settings that people use, in one table."""
    by_env = {setting.env: (section.name, setting) for section in all_sections() for setting in section.settings}
    rows = ["| setting | flag of | default | meaning |", "|---|---|---|---|"]
    for section, setting in map(by_env.__getitem__, _MOST_USED):
        command = {"nats": "every command", "log": "every command"}.get(section, f"`sollol {section}`")
        names = f"`{setting.flag}`, `{setting.env}`"
        rows.append(_row(names, command, _code(setting.default_text), setting.description))
    return "\n".join(rows)


def _table(section: Section[Any]) -> str:
    names = SECTIONS[section.name]
    rows = [f"## {names.title}: `[{section.name}]`", ""]
    rows += ["| flag | environment | allowed | default | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *(_whole_row(setting, is_flagged=names.is_flagged) for setting in section.settings)])


def _options(section: Section[Any]) -> str:
    rows = [f"## `sollol {section.name}`, options for an occasion: neither environment nor file has them", ""]
    rows += ["| flag | allowed | default | meaning |", "|---|---|---|---|"]
    return "\n".join(
        [*rows, *(_row(_code(s.flag), s.allowed, _code(s.default_text), s.description) for s in section.settings)]
    )


def _whole_row(setting: Setting, *, is_flagged: bool) -> str:
    flag = _code(setting.flag) if is_flagged else ""
    env = ", also ".join(_code(name) for name in (setting.env, setting.also_env) if name)
    return _row(flag, env, setting.allowed, _code(setting.default_text), setting.description)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
