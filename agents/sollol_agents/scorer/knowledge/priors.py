"""What a machine is expected to do before anything was measured on it.

Decode speed follows memory bandwidth: every token reads all weights once. Prompt speed follows compute and is
kept as a table for an 8B model in 4 bits (4.9 GB), scaled by the model's size. Published llama.cpp figures:
an RTX 4090 decodes 8B at 128 tok/s, 62 % of its 1,008 GB/s, and reads prompts at 6,900 tok/s. A wrong prior
costs 2 to 4 % once learning is on, so the table stays short.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from sollol_schemas.telemetry import Gpu, InstalledModel

REFERENCE_BYTES = 4.9e9
"""Weights of an 8B model at four bits and a bit."""
_BANDWIDTH_SHARE = 0.55
_TOKEN_OVERHEAD_S = 0.0005
_LOAD_BASE_S = 1.0
_LOAD_LEAST, _LOAD_PER_GB_S, _LOAD_MOST = 0.5e9, 1.6e6, 2.5e9  # 0.7 GB/s beside a processor, 2 beside an RTX 3090
_BYTES_PER_PARAMETER = 0.6


class Machine(NamedTuple):
    """The two figures from which speeds are derived."""

    bandwidth_gb_s: float
    prompt_tps: float
    """Prompt speed of an 8B model."""


# The first match counts, so longer names stand before shorter ones.
_GPUS: tuple[tuple[str, Machine], ...] = (
    (r"h200", Machine(4800, 9000)),
    (r"h100", Machine(2000, 7760)),
    (r"a100", Machine(1550, 5800)),
    (r"l40s?", Machine(864, 5900)),
    (r"a6000", Machine(768, 3620)),
    (r"a5000", Machine(768, 3000)),
    (r"a4000", Machine(448, 2000)),
    (r"a10\b", Machine(600, 2800)),
    (r"\bt4\b", Machine(300, 900)),
    (r"v100", Machine(900, 2000)),
    (r"5090", Machine(1790, 10000)),
    (r"5080", Machine(960, 6500)),
    (r"5070 ?-?ti", Machine(896, 5200)),
    (r"5070", Machine(672, 4200)),
    (r"5060", Machine(448, 2800)),
    (r"4090", Machine(1008, 6900)),
    (r"4080", Machine(730, 5065)),
    (r"4070", Machine(504, 3650)),
    (r"4060", Machine(280, 2300)),
    (r"3090", Machine(936, 3865)),
    (r"3080", Machine(800, 3400)),
    (r"3070", Machine(448, 2284)),
    (r"3060", Machine(360, 1700)),
    (r"2080", Machine(550, 1900)),
    (r"1080|1070|p40", Machine(340, 700)),
    (r"7900", Machine(860, 2800)),
    (r"gb10", Machine(273, 2000)),
    (r"ultra", Machine(800, 1020)),
    (r"\bmax\b", Machine(400, 600)),
    (r"\bm[1-5]\b", Machine(110, 200)),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), machine) for pattern, machine in _GPUS)
_CLASSES: tuple[tuple[float, Machine], ...] = (
    (70_000, Machine(1500, 5500)),
    (40_000, Machine(768, 3600)),
    (20_000, Machine(900, 4000)),
    (14_000, Machine(450, 2500)),
    (0, Machine(380, 2000)),
)


def gpu_machine(gpus: tuple[Gpu, ...]) -> Machine:
    """The figures of a node's GPUs; several GPUs read one model's layers in turn, so they do not add up."""
    best = max(gpus, key=lambda g: g.memory_total_mib)
    named = _named(best.name)
    if named is not None:
        return named
    return next((m for floor_mib, m in _CLASSES if best.memory_total_mib >= floor_mib), _CLASSES[-1][1])


@lru_cache(maxsize=64)
def _named(gpu: str) -> Machine | None:
    """The figures of a GPU by its name; every heartbeat of its node names it."""
    return next((machine for pattern, machine in _COMPILED if pattern.search(gpu)), None)


UNKNOWN_MACHINE = Machine(110, 250)
"""Between a desktop's processor and its GPU, for a node that knows neither; one answer teaches better."""


def cpu_machine(cpu_count: int) -> Machine:
    """The figures of a processor by its number of cores."""
    cores = max(1, min(cpu_count, 512))
    return Machine(min(20.0 + 1.6 * cores, 400.0), 15.0 + 2.3 * cores)


def weight_bytes(model: InstalledModel | None) -> float:
    """Bytes of a model's weights; an 8B model's when nothing is known."""
    if model is None:
        return REFERENCE_BYTES
    if model.size_bytes > 0:
        return float(model.size_bytes)
    return model.parameter_count * _BYTES_PER_PARAMETER or REFERENCE_BYTES


def decode_tps(machine: Machine, size_bytes: float) -> float:
    """Expected tokens per second of one answer alone; > 0."""
    return 1.0 / (size_bytes / (machine.bandwidth_gb_s * 1e9 * _BANDWIDTH_SHARE) + _TOKEN_OVERHEAD_S)


def prompt_tps(machine: Machine, size_bytes: float) -> float:
    """Expected prompt tokens per second; > 0."""
    return min(machine.prompt_tps * REFERENCE_BYTES / max(size_bytes, 1.0), 50_000.0)


def load_s(machine: Machine, size_bytes: float) -> float:
    """Expected seconds to load a model from disk; >= 1. Faster cards lie beside faster disks."""
    bytes_per_s = min(_LOAD_MOST, _LOAD_LEAST + machine.bandwidth_gb_s * _LOAD_PER_GB_S)
    return _LOAD_BASE_S + size_bytes / bytes_per_s
