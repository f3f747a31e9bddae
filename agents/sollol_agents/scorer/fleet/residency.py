"""Which models are believed to be in a node's memory, what a load there would push out, and what fits at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sollol_agents.scorer.knowledge.priors import weight_bytes
from sollol_schemas.telemetry import EngineKind, InstalledModel, LoadedModel, Telemetry

MIB = 1024 * 1024
SAFETY_BYTES = 200 * MIB
"""Memory that a fit leaves free."""
_DEFAULT_CONTEXT = 4096
_MODELS_PER_GPU = 3  # Ollama's own limit


class Resident:
    """A model in memory, or on its way there."""

    __slots__ = ("evicts", "loader", "name", "ready_at", "size_bytes")

    def __init__(self, name: str, size_bytes: float) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.ready_at = 0.0
        """When its load is expected to end; 0 once it is in memory."""
        self.loader = ""
        """The attempt whose grant caused the load."""
        self.evicts: tuple[str, ...] = ()

    @property
    def is_loading(self) -> bool:
        """Whether it is not in memory yet."""
        return bool(self.loader)


class Budget(NamedTuple):
    """Memory that models may take on a node, counting what may be evicted; 0 and 0 when unknown."""

    vram_bytes: float
    ram_bytes: float

    @property
    def is_known(self) -> bool:
        """Whether the node told its memory at all."""
        return self.vram_bytes > 0 or self.ram_bytes > 0

    @property
    def device_bytes(self) -> float:
        """Memory of the device that models should lie in: video memory where there is any."""
        return self.vram_bytes or self.ram_bytes


def budget_of(telemetry: Telemetry) -> Budget:
    """What all models together may take on this node.

    Where a GPU shares the machine's memory there is one pool, and whatever lies in it may be evicted.
    """
    loaded_vram = sum(m.vram_bytes for m in telemetry.loaded)
    loaded_ram = sum(max(0, m.size_bytes - m.vram_bytes) for m in telemetry.loaded)
    free_mib = sum(
        min(g.memory_total_mib, _free_mib(g.memory_total_mib, g.memory_used_mib, g.memory_free_mib))
        for g in telemetry.gpus
        if not g.shares_ram
    )
    if any(g.shares_ram for g in telemetry.gpus):
        pool = (free_mib + telemetry.ram_available_mib) * MIB + loaded_vram + loaded_ram - SAFETY_BYTES
        return Budget(max(0.0, pool) if telemetry.ram_total_mib else 0.0, 0.0)
    vram = free_mib * MIB + loaded_vram - SAFETY_BYTES if telemetry.gpus else 0.0
    ram = telemetry.ram_available_mib * MIB + loaded_ram - SAFETY_BYTES if telemetry.ram_total_mib else 0.0
    return Budget(max(0.0, vram), max(0.0, ram))


def _free_mib(total: float, used: float, free: float) -> float:
    return free if free > 0 or used > 0 else total


def need_bytes(model: InstalledModel, slots: int, num_ctx: int | None) -> float:
    """Memory a model needs: weights, and the key-value cache of every slot."""
    usual = model.usual_context_length or _DEFAULT_CONTEXT
    context = min(num_ctx or usual, model.context_length or num_ctx or usual)
    return weight_bytes(model) + float(model.kv_bytes_per_token) * context * max(1, slots)


def twins_of(installed: Mapping[str, InstalledModel]) -> dict[str, tuple[str, ...]]:
    """The other names of the same weights, for each model that has any: whichever is loaded, all of them are."""
    by_weights: dict[str, list[str]] = {}
    for name, model in installed.items():
        if weights := model.blob or model.digest:
            by_weights.setdefault(weights, []).append(name)
    shared = [names for names in by_weights.values() if len(names) > 1]
    return {name: tuple(other for other in names if other != name) for names in shared for name in names}


def max_models(telemetry: Telemetry) -> int:
    """How many models the engine keeps in memory at a time."""
    if telemetry.engine.kind is not EngineKind.OLLAMA:
        return max(1, len(telemetry.installed))
    return _MODELS_PER_GPU * max(1, len(telemetry.gpus))


class Residents:
    """The believed memory of one node: what it reported, and the loads that were granted since."""

    __slots__ = ("by_name", "version")

    def __init__(self) -> None:
        self.by_name: dict[str, Resident] = {}
        self.version = 0
        """Changes whenever a model comes, goes, or ends its load."""

    def report(self, loaded: dict[str, LoadedModel], live_loaders: set[str]) -> bool:
        """Takes over the node's own list; returns whether the set of models in memory changed.

        A load that was granted stays believed while its attempt lives, and what it evicts stays out: the list
        may be older than the load.
        """
        loading = {
            name: r
            for name, r in self.by_name.items()
            if r.loader in live_loaders and r.is_loading and name not in loaded
        }
        going = {victim for r in loading.values() for victim in r.evicts}
        after: dict[str, Resident] = {}
        for name, told in loaded.items():
            if name not in going:
                resident = after[name] = Resident(name, float(told.size_bytes))
                known = self.by_name.get(name)
                if known is not None and resident.size_bytes <= 0:
                    resident.size_bytes = known.size_bytes
        after.update(loading)
        is_changed = {n: r.is_loading for n, r in after.items()} != {n: r.is_loading for n, r in self.by_name.items()}
        self.by_name = after
        self.version += is_changed
        return is_changed

    def begin_load(
        self, name: str, size_bytes: float, *, loader: str, ready_at: float, evicts: tuple[str, ...]
    ) -> None:
        """Notes that a granted attempt loads `name` and pushes out `evicts`."""
        self.version += 1
        for victim in evicts:
            self.by_name.pop(victim, None)
        resident = self.by_name[name] = Resident(name, size_bytes)
        resident.loader, resident.ready_at, resident.evicts = loader, ready_at, evicts

    def end_load(self, loader: str, *, is_loaded: bool) -> bool:
        """The attempt `loader` ended or made a token: its model is in memory, or is not coming."""
        for name, resident in self.by_name.items():
            if resident.loader == loader:
                self.version += 1
                if is_loaded:
                    resident.loader, resident.ready_at, resident.evicts = "", 0.0, ()
                else:
                    del self.by_name[name]
                return True
        return False
