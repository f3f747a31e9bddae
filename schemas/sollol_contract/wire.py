"""Which Structs travel on the bus, found from the subject table."""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from typing import Any, Final

import msgspec

import sollol_schemas
from sollol_schemas.stores import KEPT
from sollol_schemas.subjects import ENGINE, SUBJECTS

IN_HEADERS: Final = ("Exec", "Decision", "Figures", "JobStatus")
"""Structs that travel in headers as JSON."""
BESIDE_SUBJECTS: Final = ("RequestNews", "ErrorBody", "Routing", "ContinueFrom")
"""To the caller's control inbox, on every reply inbox, in bodies and headers of requests, and in or behind bodies."""


def modules() -> list[types.ModuleType]:
    """Every module of the contract."""
    names = sorted(info.name for info in pkgutil.iter_modules(sollol_schemas.__path__))
    return [importlib.import_module(f"sollol_schemas.{name}") for name in names]


def structs() -> dict[str, type[msgspec.Struct]]:
    """Every Struct of the contract by name."""
    return {
        name: value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
    }


def unions() -> dict[str, tuple[str, ...]]:
    """Every named union of Structs, with its members' names."""
    return {
        name: tuple(member.__name__ for member in typing.get_args(value))
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, types.UnionType) and all(_is_struct(m) for m in typing.get_args(value))
    }


def members(payload: str) -> tuple[str, ...]:
    """The Structs that a payload of the subject table may be."""
    return unions().get(payload, (payload,))


def messages() -> list[str]:
    """Names of all Structs that travel or are kept by themselves, sorted."""
    named = {name for subject in SUBJECTS for name in (subject.payload, subject.reply)} - {"", ENGINE}
    return sorted({m for name in (*named, *IN_HEADERS, *BESIDE_SUBJECTS, *kept()) for m in members(name)})


def kept() -> set[str]:
    """Names of all Structs that lie under keys of buckets."""
    return {row.value for row in KEPT} - {""}


def _is_struct(value: Any) -> bool:  # noqa: ANN401 a member of any union
    return isinstance(value, type) and issubclass(value, msgspec.Struct)
