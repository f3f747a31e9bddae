"""Says to which part of the work a sampled stack belongs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

BUS: Final = "bus"
JSON: Final = "JSON"
LOOP: Final = "event loop and system calls"
_PREFIXES: Final = (
    ("/sollol_bus/transport/messages.py:encode", JSON),
    ("/sollol_bus/transport/messages.py:decode", JSON),
    ("/sollol_bus/transport/", BUS),
    ("/nats/", BUS),
    ("/sollol_bus/jetstream/", "JetStream"),
    ("/sollol_bus/sdk/", "caller"),
    ("/sollol_schemas/", "messages built"),
    ("/sollol_agents/node/engines/", "engine's HTTP"),
    ("/sollol_agents/requests/", "request read"),
    ("/logging/", "log"),
    ("/sollol_bus/logs", "log"),
    ("/uvicorn/", "gateway's HTTP"),
    ("/sqlite3/", "SQLite"),
    ("/aiosqlite/", "SQLite"),
)


def area_of(stack: str) -> str:
    """The part of the work that the innermost frame with a name does; the standard library works for its caller.

    Args:
        stack: `file:function` of each frame, from the outermost, parted by semicolons.
    """
    for frame in reversed(stack.split(";")):
        for prefix, area in _PREFIXES:
            if prefix in frame:
                return area
        if "/sollol_agents/cli/" in frame:
            return LOOP
        _, found, path = frame.partition("/sollol_agents/")
        if found:
            return "/".join(path.partition(":")[0].removesuffix(".py").split("/")[:2])
        if "/sollol_bus/" in frame:
            return BUS
    return LOOP


def by_area(lines: Iterable[str]) -> dict[str, float]:
    """The share of each area in the samples, the largest first; lines are `stack count`."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        counts[area_of(stack)] += int(count)
    total = counts.total() or 1
    return {area: count / total for area, count in counts.most_common()}


def by_function(lines: Iterable[str], *, most: int) -> dict[str, float]:
    """The share of the innermost function in the samples, the largest first."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        file, _, function = stack.rpartition(";")[2].rpartition(":")
        counts[f"{'/'.join(file.split('/')[-2:])}:{function}"] += int(count)
    total = counts.total() or 1
    return {name: count / total for name, count in counts.most_common(most)}
