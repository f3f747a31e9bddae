"""Lines through samples, and their picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Series = Mapping[str, Sequence[float]]
"""Values by name, one for each instant."""

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 420, 190, 64, 28, 56
_COLOURS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
_LEGEND = 130


def slope(at_s: Sequence[float], values: Sequence[float]) -> float:
    """How much a value grows in an hour, by least squares; 0 with fewer than two instants."""
    count = len(at_s)
    if count < 2:
        return 0.0
    middle_s, mean = sum(at_s) / count, sum(values) / count
    spread = sum((at - middle_s) ** 2 for at in at_s)
    if not spread:
        return 0.0
    return 3600.0 * sum((at - middle_s) * (v - mean) for at, v in zip(at_s, values, strict=True)) / spread


def settled(at_s: Sequence[float], share: float = 1 / 3) -> int:
    """Index of the first sample that counts: what comes before is the start, in which everything grows."""
    ends_s = at_s[0] + share * (at_s[-1] - at_s[0]) if at_s else 0.0
    return next((number for number, at in enumerate(at_s) if at >= ends_s), 0)


def picture(at_s: Sequence[float], panels: Mapping[str, Series]) -> str:
    """An SVG with one panel for each quantity, and one line in it for each name."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    rows = -(-len(panels) // 2)
    width = 2 * (_LEFT + _WIDTH) + _LEGEND
    height = rows * (_HEIGHT + _GAP) + _TOP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        "<style>text { font: 11px sans-serif }</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (title, panel) in enumerate(panels.items()):
        x, y = _LEFT + number % 2 * (_LEFT + _WIDTH), _TOP + number // 2 * (_HEIGHT + _GAP)
        parts += _panel(title, at_s, panel, colours, (x, y))
    for number, name in enumerate(names):
        y = _TOP + 10 + 16 * number
        parts.append(f'<text x="{width - _LEGEND + 20}" y="{y}" fill="{colours[name]}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    title: str, at_s: Sequence[float], panel: Series, colours: Mapping[str, str], corner: tuple[int, int]
) -> list[str]:
    left, top = corner
    most = max((max(values, default=0.0) for values in panel.values()), default=0.0) or 1.0
    last_s = max(at_s, default=1.0) or 1.0
    bottom = top + _HEIGHT
    parts = [
        f'<text x="{left}" y="{top - 8}">{escape(title)}</text>',
        f'<path d="M{left} {top}V{bottom}H{left + _WIDTH}" fill="none" stroke="#999"/>',
        f'<text x="{left - 6}" y="{top + 8}" text-anchor="end">{most:.4g}</text>',
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{left + _WIDTH}" y="{bottom + 14}" text-anchor="end">{last_s / 60:.3g} min</text>',
    ]
    for name, values in panel.items():
        points = " ".join(
            f"{left + _WIDTH * at / last_s:.1f},{bottom - _HEIGHT * value / most:.1f}"
            for at, value in zip(at_s, values, strict=True)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="1.5"/>')
    return parts
