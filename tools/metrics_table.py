"""The tables of metrics, read off the code."""

from __future__ import annotations

from collections.abc import Iterable

from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.metering.catalog import Listed, counted_by, of_actors


def of_gateway() -> list[Listed]:
    """What a gateway adds, and serves at `/metrics` too."""
    return sorted(counted_by(Metrics()))


def markdown() -> str:
    """One table for the actors, one for the gateway."""
    parts = (("Every actor", of_actors()), ("The gateway, with the fleet", of_gateway()))
    return "\n\n".join(f"### {title}\n\n{_table(listed)}" for title, listed in parts)


def _table(listed: Iterable[Listed]) -> str:
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in listed:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows)
