"""The models of the whole fleet as one engine would list them. Pure."""

from __future__ import annotations

import calendar
import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sollol_agents.gateway.management.group_rows import MARK
from sollol_agents.requests.names import canonical
from sollol_schemas.instants import instant
from sollol_schemas.queries import NodeView
from sollol_schemas.telemetry import EngineKind, InstalledModel, LoadedModel, NodeState

Row = dict[str, Any]

_EPOCH: Final = "1970-01-01T00:00:00Z"
_BILLION: Final = 1_000_000_000
_GONE: Final = (NodeState.DOWN,)


def present(nodes: Iterable[NodeView]) -> list[NodeView]:
    """The nodes that are there."""
    return [view for view in nodes if view.state not in _GONE]


def listed(nodes: Iterable[NodeView]) -> list[NodeView]:
    """The nodes whose models can be asked for: those that are there, and those that a request wakes."""
    return [view for view in nodes if view.state not in _GONE or view.is_asleep]


def having(nodes: Iterable[NodeView], model: str) -> list[NodeView]:
    """The nodes that are there and have a model, those that hold it in memory first."""
    wanted = canonical(model)
    found = [v for v in present(nodes) if any(canonical(m.name) == wanted for m in v.telemetry.installed)]
    return sorted(found, key=lambda v: not any(canonical(m.name) == wanted for m in v.telemetry.loaded))


def known_names(nodes: Iterable[NodeView]) -> list[str]:
    """The names of all models."""
    return sorted({model.name for view in listed(nodes) for model in view.telemetry.installed})


def tags(nodes: Iterable[NodeView], said: Mapping[str, list[Row]]) -> list[Row]:
    """The models on all disks, once each, with the nodes that have them.

    Args:
        nodes: The fleet.
        said: What each engine listed itself, by node; the others are told from telemetry.
    """
    rows: dict[str, Row] = {}
    for view in listed(nodes):
        own = said.get(view.node_id)
        for row in own if own is not None else [tag_of(view, m) for m in view.telemetry.installed]:
            known = rows.setdefault(canonical(str(row.get("name", ""))), {**row, "nodes": []})
            known["nodes"].append(view.node_id)
    return sorted(rows.values(), key=lambda row: _instant(row.get("modified_at")), reverse=True)


def running(nodes: Iterable[NodeView], said: Mapping[str, list[Row]], now: dt.datetime) -> list[Row]:
    """The models in all memories, one row for each node that holds one, also where a node is a fleet itself."""
    rows = {
        (view.node_id, row.get("name")): {**row, "node_id": view.node_id}
        for view in present(nodes)
        for row in (said[view.node_id] if view.node_id in said else _loaded_rows(view, now))
    }
    return sorted(rows.values(), key=lambda row: _instant(row.get("expires_at")), reverse=True)


def tag_of(view: NodeView, model: InstalledModel) -> Row:
    """A row of `/api/tags`, from what a node tells of its engine."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": _EPOCH,
        "size": model.size_bytes,
        "digest": digest_of(view, model),
        "details": _details(view, model),
    } | ({"capabilities": list(model.capabilities)} if model.capabilities else {})


def digest_of(view: NodeView, model: InstalledModel) -> str:
    """The engine's own digest; for one that has none a made-up one, the same as long as the model is.

    Ollama's command line shows the first twelve digits without looking whether there are any.
    """
    known = f"{view.telemetry.engine.kind} {canonical(model.name)} {model.size_bytes}"
    return model.digest or hashlib.sha256(known.encode()).hexdigest()


def show_of(view: NodeView, name: str) -> Row:
    """The answer of `/api/show` for a model of an engine that has no such path."""
    wanted = canonical(name)
    model = next(m for m in view.telemetry.installed if canonical(m.name) == wanted)
    info: Row = {"general.architecture": model.family} if model.family else {}
    if model.parameter_count:
        info["general.parameter_count"] = model.parameter_count
    if context_length := _context_length(view, model):  # clients look for a key that ends so
        info[f"{model.family or 'general'}.context_length"] = context_length
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(view, model),
        "model_info": info,
        "tensors": [],
        "capabilities": list(model.capabilities) or ["completion"],
        "modified_at": _EPOCH,
    }


def openai_model(row: Row) -> Row:
    """A row of `/v1/models`, from one of `/api/tags`."""
    group = {MARK: row[MARK]} if MARK in row else {}
    return {
        "id": row["name"],
        "object": "model",
        "created": _seconds(str(row.get("modified_at", ""))),
        "owned_by": "sollol" if group else "library",
        "nodes": row["nodes"],
        **group,
    }


def lowest_version(nodes: Iterable[NodeView], otherwise: str) -> str:
    """The oldest Ollama of the fleet: what every node can do."""
    versions = [
        view.telemetry.engine.version
        for view in present(nodes)
        if view.telemetry.engine.kind is EngineKind.OLLAMA and view.telemetry.engine.version
    ]
    return min(versions, key=_version_key, default=otherwise)


def _version_key(version: str) -> tuple[int, ...]:
    numbers = version.partition("-")[0].split(".")
    return tuple(int(n) if n.isdigit() else 0 for n in numbers)


def _details(view: NodeView, model: InstalledModel) -> Row:
    is_gguf = view.telemetry.engine.kind is EngineKind.OLLAMA or "llama.cpp" in view.telemetry.engine.version
    return {
        "parent_model": "",
        "format": "gguf" if is_gguf else "",
        "family": model.family,
        "families": [model.family] if model.family else None,
        "parameter_size": _parameter_size(model.parameter_count),
        "quantization_level": model.quantization,
        "context_length": _context_length(view, model),
    }


def _context_length(view: NodeView, model: InstalledModel) -> int:
    """What a request may use: the context that the model is loaded with, which may be less than it was trained for."""
    wanted = canonical(model.name)
    loaded = (one.context_length for one in view.telemetry.loaded if canonical(one.name) == wanted)
    return next((length for length in loaded if length), model.context_length)


def _parameter_size(count: int) -> str:
    if not count:
        return ""
    return f"{count / _BILLION:.1f}B" if count >= _BILLION else f"{count / 1e6:.2f}M"


def _loaded_rows(view: NodeView, now: dt.datetime) -> list[Row]:
    installed = {canonical(m.name): m for m in view.telemetry.installed}
    rows = [(m, installed.get(canonical(m.name))) for m in view.telemetry.loaded]
    bare = [(m, known or InstalledModel(name=m.name, size_bytes=m.size_bytes)) for m, known in rows]
    return [_loaded_row(view, m, known, now) for m, known in bare]


def _loaded_row(view: NodeView, loaded: LoadedModel, model: InstalledModel, now: dt.datetime) -> Row:
    left_s = loaded.expires_in_s if loaded.expires_in_s is not None else 300 * 365.25 * 86_400
    return {
        "name": loaded.name,
        "model": loaded.name,
        "size": loaded.size_bytes,
        "digest": digest_of(view, model),
        "details": _details(view, model),
        "expires_at": instant(now + dt.timedelta(seconds=left_s)),
        "size_vram": loaded.vram_bytes,
        "context_length": loaded.context_length,
    }


def _instant(text: object) -> float:
    """An RFC 3339 instant, of whatever zone, to compare by; minus infinity for what is none."""
    try:
        # nanoseconds, which Python 3.11 reads as far as microseconds
        instant_at = dt.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(text)))
        return (instant_at - dt.datetime.fromtimestamp(0, instant_at.tzinfo or dt.UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return float("-inf")


def _seconds(text: str) -> int:
    """Seconds since 1970 of an RFC 3339 instant; 0 for what is none."""
    try:
        return calendar.timegm(dt.datetime.fromisoformat(text[:19]).timetuple())
    except ValueError:
        return 0
