"""Draws the result file of the validation.

    python -m bench.validation.plots bench/results/validation.json bench/results/validation-curves.json

Writes one picture beside the first file, of what all of them hold: latencies against nginx, throughput by number of
machines, a cold start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.validation.claims import OURS, RIVAL
from bench.validation.curves import Block, Size
from bench.validation.figures import Row

_BAR = 0.38


class Results(msgspec.Struct):
    """The part of the result file that is drawn."""

    rows: list[Row]
    sizes: list[Size]
    cold_start: list[Block]


def draw(results: Results, path: Path) -> None:
    """Writes the picture."""
    import matplotlib as mpl  # noqa: PLC0415 a large library that only pictures need

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(2, 2, figsize=(11, 7.2))
    (means, tails), (sizes, cold) = panels
    _bars(means, results.rows, "mean_s", "mean latency in s")
    _bars(tails, results.rows, "p95_s", "P95 latency in s")
    _sizes(sizes, results.sizes)
    _cold(cold, results.cold_start)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _bars(panel: Any, rows: Sequence[Row], field: str, title: str) -> None:  # noqa: ANN401 of a library without types
    cells = list(dict.fromkeys((r.scenario, r.machines) for r in rows))
    for number, name in enumerate((RIVAL, OURS)):
        found = {(r.scenario, r.machines): getattr(r, field) for r in rows if r.system == name}
        places = [place + (number - 0.5) * _BAR for place, cell in enumerate(cells) if cell in found]
        values = [found[cell] for cell in cells if cell in found]
        label = "nginx, round robin" if name == RIVAL else "SOLLOL Bus"
        panel.bar(places, values, width=_BAR, label=label, color="#9aa5b1" if name == RIVAL else "#2563eb")
    panel.set(title=title, yscale="log")
    panel.set_xticks(range(len(cells)), [f"{scenario}\n{machines}" for scenario, machines in cells], fontsize=8)
    panel.grid(axis="y", linewidth=0.4, alpha=0.6)
    panel.legend(frameon=False)


def _sizes(panel: Any, sizes: Sequence[Size]) -> None:  # noqa: ANN401 of a library without types
    if not sizes:
        return
    machines = [s.machines for s in sizes]
    one = sizes[0].throughput_rps
    panel.plot(machines, [n * one for n in machines], color="grey", linewidth=0.8, linestyle="--", label="linear")
    panel.plot(machines, [s.throughput_rps for s in sizes], marker="o", color="#2563eb", label="SOLLOL Bus")
    panel.set(title="throughput in requests/s by equal machines", xlabel="machines")
    panel.set_xticks(machines)
    panel.grid(linewidth=0.4, alpha=0.6)
    panel.legend(frameon=False)


def _cold(panel: Any, blocks: Sequence[Block]) -> None:  # noqa: ANN401 of a library without types
    middles = [(b.first + b.last) / 2 for b in blocks]
    panel.plot(middles, [b.over_warm_ratio for b in blocks], marker="o", color="#2563eb")
    panel.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    panel.set(title="latency after a cold start / the same when warm", xlabel="request", ylim=(0, None))
    panel.grid(linewidth=0.4, alpha=0.6)


def main() -> int:
    """Draws what the files named on the command line hold."""
    files = [Path(name) for name in sys.argv[1:]]
    held = [msgspec.json.decode(file.read_bytes(), type=Results) for file in files]
    results = Results(
        rows=[row for one in held for row in one.rows],
        sizes=[size for one in held for size in one.sizes],
        cold_start=[block for one in held for block in one.cold_start],
    )
    draw(results, files[0].with_suffix(".png"))
    print(f"wrote {files[0].with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
