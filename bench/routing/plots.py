"""Draws a result file of the routing benchmark.

    python -m bench.routing.plots bench/results/routing.json

Writes one picture beside the file: mean latency over the clairvoyant oracle's, by load, one panel per scenario.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import msgspec

SHOWN = (
    "plan",
    "weighted_least_connections",
    "peak_ewma",
    "least_connections",
    "seven_factor_1s",
    "p2c",
    "round_robin",
)
_TICKS = (1, 2, 5, 10, 20, 50)
Means = dict[tuple[str, str], dict[float, float]]


class Cell(msgspec.Struct):
    """One cell of the result file."""

    scenario: str
    fleet: str
    load: float | None
    policy: str
    mean_s: Annotated[float, msgspec.Meta(ge=0)]


class Results(msgspec.Struct):
    """The part of the result file that is drawn."""

    cells: list[Cell]


def means_over_oracle(results: Results) -> Means:
    """Mean latency divided by the oracle's, over the seeds, by (scenario and fleet, policy) and load."""
    samples: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for cell in results.cells:
        if cell.load is not None:
            samples[f"{cell.scenario} on {cell.fleet}", cell.policy, cell.load].append(cell.mean_s)
    means: Means = defaultdict(dict)
    for (scenario, policy, load), values in samples.items():
        oracle = samples.get((scenario, "oracle", load))
        if oracle:
            means[scenario, policy][load] = fmean(values) / fmean(oracle)
    return means


def draw(means: Means, path: Path) -> None:
    """Writes the picture."""
    import matplotlib as mpl  # noqa: PLC0415 a large library that only pictures need

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter  # noqa: PLC0415

    scenarios = sorted({scenario for scenario, _ in means})
    columns = min(4, len(scenarios))
    rows = -(-len(scenarios) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False, sharey=True)
    flat: list[Any] = list(panels.flat)
    for panel, scenario in zip(flat, scenarios, strict=False):
        for policy in SHOWN:
            points = sorted(means.get((scenario, policy), {}).items())
            if points:
                width, layer = (2.5, 3) if policy == "plan" else (1.2, 2)
                x, y = zip(*points, strict=True)
                panel.plot(x, y, marker="o", markersize=3, linewidth=width, zorder=layer, label=policy)
        panel.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
        panel.set(title=scenario, yscale="log", xlabel="load")
        panel.yaxis.set_major_locator(FixedLocator(_TICKS))
        panel.yaxis.set_major_formatter(ScalarFormatter())
        panel.yaxis.set_minor_locator(NullLocator())
        panel.grid(axis="y", linewidth=0.4, alpha=0.6)
    for panel in flat[len(scenarios) :]:
        panel.set_visible(False)
    for row in panels:
        row[0].set_ylabel("mean latency / oracle")
    handles, labels = flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(SHOWN), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> int:
    """Draws every file named on the command line."""
    for name in sys.argv[1:]:
        file = Path(name)
        results = msgspec.json.decode(file.read_bytes(), type=Results)
        picture = file.with_suffix(".png")
        draw(means_over_oracle(results), picture)
        print(f"wrote {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
