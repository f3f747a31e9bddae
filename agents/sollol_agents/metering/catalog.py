"""Every metric of this software, for documents and tests."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from sollol_agents.metering.requests import RequestMeter
from sollol_agents.metering.state import families
from sollol_agents.metering.tallies import Count, Spread


class Listed(msgspec.Struct, frozen=True, order=True):
    """One metric."""

    name: str
    """As a query names it; of a histogram without `_bucket`, `_sum` and `_count`."""
    kind: str
    labels: tuple[str, ...]
    help: str


def of_actors() -> list[Listed]:
    """What `--metrics-port` serves."""
    registry = CollectorRegistry(auto_describe=False)
    meter = RequestMeter(registry)
    state = [Listed(f.name, "counter" if f.is_counter else "gauge", f.labels, f.help) for f in families()]
    return sorted([*state, *counted_by(meter)])


def counted_by(holder: object) -> Iterator[Listed]:
    """The metrics that an object keeps in its attributes, one by one or in a dict."""
    for value in vars(holder).values():
        for metric in value.values() if isinstance(value, dict) else (value,):
            if isinstance(metric, (MetricWrapperBase, Count, Spread)):
                told = next(iter(metric.describe()))
                name = f"{told.name}_total" if told.type == "counter" else told.name
                labels = metric._labelnames if isinstance(metric, MetricWrapperBase) else metric.labels  # noqa: SLF001 nowhere else
                yield Listed(name, told.type, tuple(labels), told.documentation)
