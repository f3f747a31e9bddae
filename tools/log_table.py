"""The table of log lines, read off the source: every `action`, its level and its text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

import sollol_agents
import sollol_bus

_ACTION: Final = "action"
_LEVELS: Final = {"debug", "info", "warning", "error", "exception", "log"}
_LOGGERS: Final = {"log", "_requests", "_prompts"}


class LogLine(msgspec.Struct, frozen=True, order=True):
    """One call of a logger."""

    action: str
    """Empty for a line without one."""
    level: str
    text: str
    fields: tuple[str, ...]
    where: str


@cache
def log_lines() -> tuple[LogLine, ...]:
    """Every log line of the two packages, sorted by action."""
    roots = [Path(package.__path__[0]) for package in (sollol_agents, sollol_bus)]
    lines = (
        line
        for root in roots
        for path in sorted(root.rglob("*.py"))
        for line in _lines_of(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(root.parent)))
    )
    return tuple(sorted(lines))


def markdown() -> str:
    """One row for each action and text; lines for debugging are left out."""
    rows = ["| action | level | line | fields |", "|---|---|---|---|"]
    shown = {(line.action, line.level, line.text, line.fields): None for line in log_lines() if line.level != "debug"}
    for action, level, text, fields in shown:
        names = ", ".join(f"`{name}`" for name in fields)
        rows.append(f"| `{action}` | {level} | {text.replace('|', '/')} | {names} |")
    return "\n".join(rows)


def _lines_of(tree: ast.Module, where: str) -> Iterator[LogLine]:
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for call in _own_nodes(function):
            if isinstance(call, ast.Call) and _is_log_call(call):
                yield _line(call, function, f"{where}:{call.lineno}")


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, less what is in functions inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from _own_nodes(child)


def _is_log_call(call: ast.Call) -> bool:
    target = call.func
    return (
        isinstance(target, ast.Attribute)
        and target.attr in _LEVELS
        and isinstance(target.value, ast.Name)
        and target.value.id in _LOGGERS
    )


def _line(call: ast.Call, function: ast.AST, where: str) -> LogLine:
    assert isinstance(call.func, ast.Attribute)
    level = {"exception": "error", "log": "by kind"}.get(call.func.attr, call.func.attr)
    text = call.args[1] if call.func.attr == "log" else call.args[0]
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    fields = _fields(extra, function)
    return LogLine(
        action=fields.pop(_ACTION, ""),
        level=level,
        text=str(text.value) if isinstance(text, ast.Constant) else ast.unparse(text),
        fields=tuple(sorted(fields)),
        where=where,
    )


def _fields(extra: ast.expr | None, function: ast.AST) -> dict[str, str]:
    """Names of the fields, the action's with its value; `extra` may be a dict, a name for one, or a call that adds."""
    if isinstance(extra, ast.Name):
        named = [
            n.value
            for n in ast.walk(function)
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and n.targets[0].id == extra.id
        ]
        extra = named[0] if named else None
    if isinstance(extra, ast.Call) and extra.args and isinstance(extra.args[0], ast.Constant):
        return {_ACTION: str(extra.args[0].value), "request_id": "", "attempt_id": ""}
    if not isinstance(extra, ast.Dict):
        return {}
    return {
        str(key.value): str(value.value) if isinstance(value, ast.Constant) else ""
        for key, value in zip(extra.keys, extra.values, strict=True)
        if isinstance(key, ast.Constant)
    }
