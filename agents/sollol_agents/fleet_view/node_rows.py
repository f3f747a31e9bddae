"""What a node's card and its own page show."""

from __future__ import annotations

import msgspec


class Running(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt in a slot."""

    model: str
    tokens: int = 0
    phase: str = "reading"
    """`loading`, `reading` or `writing`."""


class Loaded(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model in memory."""

    name: str
    mib: int = 0
    vram_ratio: float = 0.0


class NodeRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One node, as its card shows it."""

    id: str
    state: str
    reason: str = ""
    silent_s: int = 0
    """Seconds without a heartbeat, when that is worth telling."""
    engine: str = ""
    is_reachable: bool = True
    engine_detail: str = ""
    host: str = ""
    gpu: str = ""
    """Name of the first GPU; empty: a CPU node."""
    gpus: int = 0
    vram_used_mib: int = 0
    vram_total_mib: int = 0
    ram_used_mib: int = 0
    ram_total_mib: int = 0
    gpu_ratio: float | None = None
    cpu_ratio: float = 0.0
    temperature_c: int | None = None
    power_w: int | None = None
    slots: int = 0
    running: tuple[Running, ...] = ()
    busy: int = 0
    loaded: tuple[Loaded, ...] = ()
    models: int = 0
    weight: float = 1.0
    tps: float = 0.0
    attempts: int = 0
    success_ratio: float | None = None
    success_bound: float | None = None
    breaker: str = "closed"
    broken_models: tuple[str, ...] = ()
    rtt_ms: float = 0.0
    concern: int = 0
    """How much it needs a person, 0 to 3."""
    concern_text: str = ""


class NodeDetail(msgspec.Struct, frozen=True):
    """What a node's own page shows beside its card."""

    id: str
    installed: tuple[tuple[str, int, str], ...]
    """Name, bytes and quantization of each model on its disk."""
    labels: dict[str, str]
    speeds: tuple[tuple[str, float, float, float], ...]
    """Model, tokens a second read, tokens a second written, seconds to load."""
    url: str
    version: str
    cpu_count: int
    uptime_s: float
    price: str = ""
    """In words; empty: not known."""
