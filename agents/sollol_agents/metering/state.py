"""What actors are at the moment of asking, as metrics: read when somebody asks, and costing nothing until then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sollol_bus.actor import Actor
from sollol_bus.version import VERSION
from sollol_schemas.telemetry import Gpu, Telemetry

_MIB: Final = 1 << 20


class Family(msgspec.Struct, frozen=True):
    """One metric: what it is called, what it means, and its labels."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def is_counter(self) -> bool:
        """Whether it only ever grows."""
        return self.name.endswith("_total")


_INFO: Final = Family(
    "sollol_actor_info", "1 for every actor of the process.", ("actor", "actor_instance", "version", "state")
)
_IN_FLIGHT: Final = Family("sollol_actor_in_flight_requests", "Work that the actor would finish first.", ("actor",))
_CONNECTED: Final = Family("sollol_bus_connections", "1 while the actor is connected to the bus.", ("actor",))
_RECONNECTS: Final = Family("sollol_bus_reconnects_total", "How often the connection came back.", ("actor",))

OF_STATISTICS: Final[dict[str, dict[str, Family]]] = {
    "scorer": {
        "is_leader": Family("sollol_scorer_held_offices", "1 while this scorer is in office."),
        "nodes": Family("sollol_scorer_known_nodes", "Nodes that the scorer knows."),
        "queued": Family("sollol_scorer_queued_requests", "Requests that wait for a slot."),
        "in_flight": Family("sollol_scorer_in_flight_attempts", "Attempts in slots, by the scorer's count."),
        "granted": Family("sollol_scorer_grants_total", "Slots given."),
        "refused": Family("sollol_scorer_refusals_total", "Requests refused a slot."),
        "priority_cuts": Family("sollol_scorer_priority_cuts_total", "Answers moved for a request of higher rank."),
        "rebalance_cuts": Family("sollol_scorer_rebalance_cuts_total", "Answers moved to where they end sooner."),
        "refused_cuts": Family("sollol_scorer_refused_cuts_total", "Answers that a node did not let go."),
        "sleeping_nodes": Family("sollol_scorer_sleeping_nodes", "Nodes that sleep, or are being woken."),
        "short_models": Family("sollol_scorer_short_models", "Models that have too few slots."),
        "saved_s": Family("sollol_scorer_slot_saving_seconds", "What one more slot would save, the best model's."),
        "spare_slots": Family("sollol_scorer_spare_slots", "Slots that idled for 15 minutes, the least model's."),
        "open_breakers": Family("sollol_scorer_open_breakers", "Circuit breakers that are open."),
    },
    "dispatcher": {
        "in_flight": Family("sollol_dispatcher_in_flight_requests", "Requests that are not answered yet."),
        "taken": Family("sollol_dispatcher_taken_requests_total", "Requests taken."),
        "rejected": Family("sollol_dispatcher_refused_requests_total", "Requests that could not be used."),
        "abandoned": Family("sollol_dispatcher_abandoned_attempts", "Attempts given up whose node may still ask."),
        "jobs_in_hand": Family("sollol_dispatcher_taken_jobs", "Durable jobs in hand."),
        "jobs_settled": Family("sollol_dispatcher_ended_jobs_total", "Durable jobs ended."),
    },
    "recorder": {
        "is_in_office": Family("sollol_recorder_held_offices", "1 while this recorder is in office."),
        "written": Family("sollol_recorder_written_events_total", "Events written since it took office."),
        "waiting": Family("sollol_recorder_waiting_events", "Events received and not written yet."),
    },
}
"""Metrics of each kind of actor, by field of what its `statistics()` returns."""

_NODE: Final = ("node",)
_GPU: Final = ("node", "gpu")
OF_TELEMETRY: Final[tuple[tuple[Family, Callable[[Telemetry], float]], ...]] = (
    (Family("sollol_node_slots", "Attempts that the node runs at a time.", _NODE), lambda t: t.slots),
    (Family("sollol_node_in_flight_attempts", "Attempts in slots.", _NODE), lambda t: len(t.in_flight)),
    (Family("sollol_node_draining_nodes", "1 while the node takes no new work.", _NODE), lambda t: t.is_draining),
    (
        Family("sollol_node_reachable_engines", "1 while the engine answers.", _NODE),
        lambda t: t.engine.is_reachable,
    ),
    (Family("sollol_node_loaded_models", "Models in memory.", _NODE), lambda t: len(t.loaded)),
    (Family("sollol_node_cpu_load_ratio", "Load average over a minute per core.", _NODE), lambda t: t.cpu_load_ratio),
    (Family("sollol_node_memory_total_bytes", "Main memory.", _NODE), lambda t: t.ram_total_mib * _MIB),
    (
        Family("sollol_node_memory_available_bytes", "Main memory that may be used.", _NODE),
        lambda t: t.ram_available_mib * _MIB,
    ),
    (Family("sollol_node_bus_round_trip_seconds", "To the NATS server and back.", _NODE), lambda t: t.bus_rtt_s),
)
OF_GPU: Final[tuple[tuple[Family, Callable[[Gpu], float | None]], ...]] = (
    (Family("sollol_node_gpu_memory_total_bytes", "Video memory.", _GPU), lambda g: g.memory_total_mib * _MIB),
    (Family("sollol_node_gpu_memory_used_bytes", "Video memory in use.", _GPU), lambda g: g.memory_used_mib * _MIB),
    (Family("sollol_node_gpu_utilisation_ratio", "How busy the GPU is.", _GPU), lambda g: g.utilisation_ratio),
    (Family("sollol_node_gpu_temperature_celsius", "Temperature of the GPU.", _GPU), lambda g: g.temperature_c),
    (Family("sollol_node_gpu_power_watts", "Power that the GPU draws.", _GPU), lambda g: g.power_w),
)


def families() -> list[Family]:
    """Every metric that this module can give."""
    of_actors = [family for fields in OF_STATISTICS.values() for family in fields.values()]
    of_nodes = [family for family, _ in (*OF_TELEMETRY, *OF_GPU)]
    return [_INFO, _IN_FLIGHT, _CONNECTED, _RECONNECTS, *of_actors, *of_nodes]


class StateCollector(Collector):
    """Reads the actors of this process.

    Args:
        actors: Gives the actors that run now.
    """

    def __init__(self, actors: Callable[[], Iterable[Actor[Any]]]) -> None:
        self._actors = actors

    def collect(self) -> Iterator[Metric]:
        """Every metric of every actor, one family each."""
        made: dict[str, Metric] = {}
        for actor in self._actors():
            for family, labels, value in _readings(actor):
                if family.name not in made:
                    kind = CounterMetricFamily if family.is_counter else GaugeMetricFamily
                    made[family.name] = kind(family.name, family.help, labels=family.labels)
                made[family.name].add_metric(labels, value)  # type: ignore[attr-defined]  # both kinds have it
        yield from made.values()


def _readings(actor: Actor[Any]) -> Iterator[tuple[Family, Sequence[str], float]]:
    yield _INFO, (actor.name, actor.instance, VERSION, actor.state.value), 1.0
    if not actor.is_open:
        return
    yield _IN_FLIGHT, (actor.name,), len(actor.in_flight())
    yield _CONNECTED, (actor.name,), float(actor.bus.is_connected)
    yield _RECONNECTS, (actor.name,), float(actor.bus.reconnects)
    fields = OF_STATISTICS.get(actor.name)
    if fields:
        statistics = actor.statistics()
        for field, family in fields.items():
            yield family, (), float(getattr(statistics, field))
    telemetry = getattr(actor, "telemetry", None)
    if telemetry is not None:
        yield from _readings_of_node(telemetry())


def _readings_of_node(told: Telemetry) -> Iterator[tuple[Family, Sequence[str], float]]:
    for family, read in OF_TELEMETRY:
        yield family, (told.node_id,), float(read(told))
    for gpu in told.gpus:
        for family, read_gpu in OF_GPU:
            value = read_gpu(gpu)
            if value is not None:
                yield family, (told.node_id, str(gpu.index)), float(value)
