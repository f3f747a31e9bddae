"""Draws a result file of the profile.

    python -m bench.profile.plots bench/results/profile.json

Writes one picture beside it: what stands between a caller and its engine, and where processor time goes.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.profile.areas import BUS, JSON, LOOP

_SHARED: Final = (BUS, JSON, LOOP)
_COLOURS: Final = ("#2563eb", "#7c9bf0", "#c3d2fb", "#0f766e", "#d97706", "#9aa5b1")
_THINKS: Final = "its own decisions"
_OTHERS: Final = "engine's HTTP, JetStream, SQLite"
_REST: Final = "messages built, log"


class Percentiles(msgspec.Struct):
    """The part that is drawn."""

    p50_ms: float


class Floor(msgspec.Struct):
    """What hops cost that only pass a request on."""

    engine: Percentiles
    nats_round_trip: Percentiles
    bare_path: Percentiles


class System(msgspec.Struct):
    """What the system costs."""

    one_caller: Percentiles


class Actor(msgspec.Struct):
    """Processor time of one request in one actor."""

    us_per_request: float
    areas_us: dict[str, float]


class Results(msgspec.Struct):
    """The part of the result file that is drawn."""

    callers: int
    floor: Floor
    system: System
    actors: dict[str, Actor]


def kinds_us(actor: Actor) -> dict[str, float]:
    """The areas of an actor as few kinds, which all actors share."""
    found: dict[str, float] = defaultdict(float)
    for area, us in actor.areas_us.items():
        found[area if area in _SHARED else _kind_of(area)] += us
    return {kind: found[kind] for kind in (*_SHARED, _THINKS, _OTHERS, _REST)}


def _kind_of(area: str) -> str:
    if "/" in area or area == "request read":
        return _THINKS
    return _REST if area in ("messages built", "log", "caller") else _OTHERS


def draw(results: Results, path: Path) -> None:
    """Writes the picture."""
    import matplotlib as mpl  # noqa: PLC0415 a large library that only pictures need

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (way, work) = plt.subplots(2, 1, figsize=(9, 5.6), height_ratios=(1, 2))
    _way(way, results)
    _work(work, results)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _way(panel: Any, results: Results) -> None:  # noqa: ANN401 of a library without types
    engine, bare = results.floor.engine.p50_ms, results.floor.bare_path.p50_ms
    parts = {
        "engine": engine,
        "hops that only pass it on": bare - engine,
        "what the actors do": results.system.one_caller.p50_ms - bare,
    }
    left = 0.0
    for (name, ms), colour in zip(parts.items(), ("#9aa5b1", "#7c9bf0", "#2563eb"), strict=True):
        panel.barh([0], [ms], left=left, color=colour, label=f"{name}, {ms:.2f} ms")
        left += ms
    panel.set(title="one request, one caller, p50 in ms", yticks=[])
    panel.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35), frameon=False)


def _work(panel: Any, results: Results) -> None:  # noqa: ANN401
    names = list(results.actors)
    left = [0.0] * len(names)
    for number, kind in enumerate((*_SHARED, _THINKS, _OTHERS, _REST)):
        us = [kinds_us(results.actors[name])[kind] for name in names]
        panel.barh(range(len(names)), us, left=left, color=_COLOURS[number], label=kind)
        left = [before + more for before, more in zip(left, us, strict=True)]
    panel.set(title=f"processor time of one request in us, {results.callers} callers")
    panel.set_yticks(range(len(names)), [f"{n}, {results.actors[n].us_per_request:.0f} us" for n in names])
    panel.invert_yaxis()
    panel.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)


def main() -> None:
    """Reads the file that is named, and draws beside it."""
    source = Path(sys.argv[1])
    draw(msgspec.json.decode(source.read_bytes(), type=Results), source.with_suffix(".png"))


if __name__ == "__main__":
    main()
