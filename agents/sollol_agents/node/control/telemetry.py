"""Assembles what a node says about itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from sollol_agents.node.config import NodeConfig, price_of
from sollol_agents.node.engines.view import EngineView
from sollol_agents.node.machine.host import HostSample
from sollol_agents.node.machine.remote import STATED
from sollol_bus.transport.endpoints import Endpoint
from sollol_bus.version import VERSION
from sollol_schemas.contract import CONTRACT
from sollol_schemas.prices import NodePrice, Power
from sollol_schemas.telemetry import Asked, EngineKind, Gpu, InFlight, LearnedSpeed, LoadedModel, Sleeper, Telemetry

_MIB: Final = 1024 * 1024


class Standing(msgspec.Struct, kw_only=True):
    """What an operator may change while the node runs."""

    weight: float
    labels: dict[str, str]
    price: NodePrice = NodePrice()

    @classmethod
    def of(cls, config: NodeConfig) -> Standing:
        """As configured."""
        return cls(weight=config.weight, labels=dict(config.labels), price=price_of(config))

    def change(self, weight: float | None, labels: dict[str, str], price: NodePrice | None = None) -> None:
        """Takes in a change; a label set to the empty string is removed."""
        if weight is not None:
            self.weight = weight
        if price is not None:
            self.price = price
        merged = self.labels | labels
        self.labels = {name: value for name, value in merged.items() if value}


class Identity(msgspec.Struct, kw_only=True):
    """Who speaks."""

    node_id: str
    instance: str
    revision: int = 0
    """Of the claim of the node's id; 0 until it is claimed."""
    seq: int = 0
    """Of the telemetry and load messages so far."""

    def next_seq(self) -> int:
        """The number of the next message."""
        self.seq += 1
        return self.seq


def gpus_of(view: EngineView, machine_gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The node's GPUs: those of the machine, or those that an emulated engine pretends to have.

    Of a stated GPU nothing is measured: what the engine says it put there is taken.
    """
    if view.pretended is not None:
        return view.pretended.gpus
    if not machine_gpus or machine_gpus[0].driver != STATED:
        return machine_gpus
    used_mib = sum(one.vram_bytes for one in with_vram(view.loaded, view.kind, machine_gpus)) / _MIB
    total_mib = machine_gpus[0].memory_total_mib
    free_mib = max(0.0, total_mib - used_mib)
    return (msgspec.structs.replace(machine_gpus[0], memory_used_mib=total_mib - free_mib, memory_free_mib=free_mib),)


def drawn_w(gpus: tuple[Gpu, ...]) -> float | None:
    """What the GPUs draw together; None where one of them does not tell, or there is none."""
    told = [gpu.power_w for gpu in gpus if gpu.power_w is not None]
    return sum(told) if gpus and len(told) == len(gpus) else None


def loaded_of(view: EngineView, machine_gpus: tuple[Gpu, ...]) -> tuple[LoadedModel, ...]:
    """The loaded models with what is known of their place."""
    return with_vram(view.loaded, view.kind, gpus_of(view, machine_gpus))


def with_vram(loaded: tuple[LoadedModel, ...], kind: EngineKind, gpus: tuple[Gpu, ...]) -> tuple[LoadedModel, ...]:
    """The loaded models; those of an engine that does not tell where they lie are taken to lie on the GPU, if any."""
    if kind is EngineKind.OLLAMA or not gpus:
        return loaded
    return tuple(msgspec.structs.replace(one, vram_bytes=one.size_bytes) for one in loaded)


def ram_of(view: EngineView, host: HostSample, machine_gpus: tuple[Gpu, ...] = ()) -> tuple[float, float]:
    """Total and available main memory in MiB; models leave less of memory that is pretended or stated."""
    if view.pretended is None and not host.is_remote:
        return host.ram_total_mib, host.ram_available_mib
    total = host.ram_total_mib if view.pretended is None else view.pretended.ram_total_mib
    in_ram_mib = sum(one.size_bytes - one.vram_bytes for one in loaded_of(view, machine_gpus)) / _MIB
    return total, max(0.0, total - in_ram_mib)


def telemetry_of(
    *,
    identity: Identity,
    config: NodeConfig,
    standing: Standing,
    power: Power,
    view: EngineView,
    host: HostSample,
    machine_gpus: tuple[Gpu, ...],
    gpu_problem: str,
    slots: int,
    in_flight: tuple[InFlight, ...],
    speeds: tuple[LearnedSpeed, ...],
    is_draining: bool,
    takes_rests: bool,
    bus_rtt_s: float,
    uptime_s: float,
    engine_silent_s: float,
    sent_at: str,
    endpoints: Iterable[Endpoint],
) -> Telemetry:
    """The full heartbeat."""
    ram_total_mib, ram_available_mib = ram_of(view, host, machine_gpus)
    return Telemetry(
        node_id=identity.node_id,
        instance=identity.instance,
        revision=identity.revision,
        seq=identity.next_seq(),
        engine=view.info(engine_silent_s),
        slots=slots,
        in_flight=in_flight,
        is_draining=is_draining,
        takes_rests=takes_rests,
        gpus=gpus_of(view, machine_gpus),
        gpu_problem=gpu_problem,
        cpu_count=host.cpu_count,
        cpu_load_ratio=host.cpu_load_ratio,
        ram_total_mib=ram_total_mib,
        ram_available_mib=ram_available_mib,
        installed=view.installed,
        loaded=loaded_of(view, machine_gpus),
        speeds=speeds,
        bus_rtt_s=bus_rtt_s,
        uptime_s=uptime_s,
        labels=standing.labels,
        weight=standing.weight,
        price=standing.price,
        power=power,
        preferred_task_types=config.preferred_task_types,
        host_priority=config.host_priority,
        version=VERSION,
        contract=CONTRACT,
        host=host.name,
        addresses=host.addresses,
        sent_at=sent_at,
        asked=tuple(map(_asked, endpoints)),
        sleeper=sleeper_of(config),
        is_waker=config.waker or bool(config.wake_commands),
    )


def sleeper_of(config: NodeConfig) -> Sleeper | None:
    """What the fleet is told of how this machine sleeps; None: it does not."""
    if not config.sleep_command:
        return None
    return Sleeper(mac=config.wake_mac, broadcast=config.wake_broadcast, min_awake_s=config.min_awake_s)


def _asked(one: Endpoint) -> Asked:
    return Asked(
        what=one.name,
        requests=one.requests,
        errors=one.errors,
        last_error=one.last_error[:64],
        processing_s=one.processing_ns / 1e9,
    )
