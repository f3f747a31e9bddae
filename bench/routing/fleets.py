"""Machines and models of the simulated fleets.

Speeds are those of an 8B model in four bits, from public llama.cpp measurements; other models scale by their
factors. Loads take one second and the weights at the disk's rate.
"""

from __future__ import annotations

from typing import NamedTuple

SLOTS = 4
BETA_GPU, BETA_CPU, BETA_OTHER_MODEL = 0.30, 0.70, 0.85
MODELS_PER_DEVICE = 3
_GB = 1e9


class ModelSpec(NamedTuple):
    """A model: weights, memory with its caches, and its speed against an 8B one."""

    name: str
    weights_gb: float
    memory_gb: float
    decode_factor: float
    prompt_factor: float
    slots: int = SLOTS

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights."""
        return int(self.weights_gb * _GB)


MODELS = {
    m.name: m
    for m in (
        ModelSpec("embed:latest", 0.3, 0.6, 8.0, 8.0, slots=1),
        ModelSpec("small:1.7b", 1.4, 2.2, 3.2, 4.0),
        ModelSpec("base:8b", 4.9, 6.5, 1.0, 1.0),
        ModelSpec("large:14b", 9.0, 11.0, 0.56, 0.55),
        ModelSpec("huge:27b", 16.5, 19.0, 0.27, 0.25),
    )
}


class MachineSpec(NamedTuple):
    """A machine: memory for models, speed with an 8B model, disk, distance."""

    kind: str
    gpu_name: str
    """Empty: no GPU."""
    memory_gb: float
    decode_tps: float
    prompt_tps: float
    disk_gb_s: float
    cores: int = 16
    rtt_s: float = 0.001
    slowdown: float | None = None
    """Slow-down per co-running sequence, where it is not the usual one of its kind."""

    @property
    def has_gpu(self) -> bool:
        """Whether it has a GPU."""
        return bool(self.gpu_name)

    @property
    def beta(self) -> float:
        """Slow-down per co-running sequence of the same model."""
        if self.slowdown is not None:
            return self.slowdown
        return BETA_GPU if self.has_gpu else BETA_CPU

    def decode(self, model: ModelSpec) -> float:
        """Tokens per second of one sequence alone."""
        return self.decode_tps * model.decode_factor

    def prompt(self, model: ModelSpec) -> float:
        """Prompt tokens per second alone."""
        return self.prompt_tps * model.prompt_factor

    def load_s(self, model: ModelSpec) -> float:
        """Seconds to load a model."""
        return 1.0 + model.weights_gb / self.disk_gb_s

    def fits(self, model: ModelSpec) -> bool:
        """Whether the model fits into the machine's memory when it is alone there."""
        return model.memory_gb <= self.memory_gb


G24 = MachineSpec("g24", "RTX 3090", 23.5, 110, 4000, 2.0)
G16 = MachineSpec("g16", "RTX A4000", 15.6, 52, 2200, 1.5)
G12 = MachineSpec("g12", "RTX 3060", 11.7, 55, 2000, 1.0)
G8 = MachineSpec("g8", "RTX 3070", 7.8, 68, 2200, 1.0)
CPU64 = MachineSpec("cpu64", "", 200, 14, 160, 1.0, cores=64)
CPU32 = MachineSpec("cpu32", "", 100, 8, 80, 0.8, cores=32, rtt_s=0.020)
CPU4 = MachineSpec("cpu4", "", 28, 4, 25, 0.5, cores=4)

FAST, MIDDLE, SLOW = (
    MachineSpec(kind, "RTX 3090", 23.5, tps, 1e6, 2.0, slowdown=0.0)
    for kind, tps in (("fast", 100), ("middle", 50), ("slow", 25))
)

A6000 = MachineSpec("a6000", "RTX A6000", 47.0, 102, 3600, 0.98)
RTX4090 = MachineSpec("rtx4090", "RTX 4090", 23.5, 160, 6900, 0.98)
RTX3060 = MachineSpec("rtx3060", "RTX 3060", 11.7, 52, 1700, 0.98)
M4 = MachineSpec("m4", "Apple M4", 12.0, 17.5, 220, 0.98)

FLEETS: dict[str, tuple[MachineSpec, ...]] = {
    "F1": (G24, G16, G16, G8, CPU64, CPU32),
    "F2": (G24, G16, G16, G8),
    "F3": (G16, G16, G16, G16),
    "MVT": (G24, G12, CPU4),
    "steps": (FAST, MIDDLE, SLOW),
    "desk": (A6000, RTX4090, RTX3060, M4),
}
