"""Machines that the emulator can pretend to be.

Memory sizes and bandwidths are the makers' figures. `efficiency_ratio` and
`token_overhead_s` are fitted to published single-stream rates of llama.cpp and
Ollama (3B, 8B, 14B and 70B models at four bits); prompt rates of machines without
a published figure are estimates of the right order. They give the right shape,
not a claim about a product.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]

_DISCRETE_GAIN: Final = (1.0, 1.6, 2.3, 3.1)
_UNIFIED_GAIN: Final = (1.0, 1.8, 2.7, 3.0)
_CPU_GAIN: Final = (1.0, 1.3, 1.7, 1.75)


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine has and how fast it is.

    Attributes:
        gpu_name: name shown by the fake GPU; empty without one.
        vram_mib: memory of the GPU; 0 for a machine without one.
        ram_mib: main memory.
        bandwidth_gbps: memory bandwidth of the GPU (or of the RAM without one), 10^9 bytes/s.
        ram_bandwidth_gbps: effective bandwidth of the part of a model that does not fit the GPU.
        efficiency_ratio: share of the bandwidth that decoding reaches.
        token_overhead_s: fixed time of one decoding step.
        prefill_tps_8b: prompt rate of an 8B model without depth.
        batch_gain: aggregate decode rate at 1, 2, 4 and 8 streams over that of one; flat after.
        disk_gbps: read rate of a model that is not in the page cache.
        page_cache_gbps: read rate of one that is.
        load_base_s: shortest and longest time a load takes beside reading.
        recovery_s: shortest and longest wait for memory to come back after an unload.
        decode_tps: a rate that replaces all of the decode model; 0 uses the model.
        is_prompt_shared: prompts are evaluated beside the running streams, everyone at the share of its speed that
            company leaves, as in engines that evaluate prompts in small pieces; otherwise whole batches of a prompt
            hold the streams back.
        is_recorded: has the models of the recordings instead of the catalogue's, and no network.
        is_instant: no delay of any kind and no scheduling; the cheapest possible answer.
    """

    gpu_name: str = ""
    vram_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    ram_mib: Annotated[int, msgspec.Meta(gt=0)] = 32768
    bandwidth_gbps: Positive = 1000.0
    ram_bandwidth_gbps: Positive = 40.0
    efficiency_ratio: Positive = 0.75
    token_overhead_s: NotNegative = 0.001
    prefill_tps_8b: Positive = 3000.0
    batch_gain: tuple[float, float, float, float] = _DISCRETE_GAIN
    disk_gbps: Positive = 2.0
    page_cache_gbps: Positive = 5.0
    load_base_s: tuple[float, float] = (0.5, 1.5)
    recovery_s: tuple[float, float] = (0.5, 1.5)
    decode_tps: NotNegative = 0.0
    is_prompt_shared: bool = False
    is_recorded: bool = False
    is_instant: bool = False

    @property
    def memory_mib(self) -> int:
        """The memory in which models live: that of the GPU, or the RAM without one."""
        return self.vram_mib or self.ram_mib


def _cpu(ram_mib: int, *, bandwidth: float, efficiency: float, overhead_s: float, prefill: float) -> Preset:
    """Returns a machine without a usable GPU."""
    return Preset(
        ram_mib=ram_mib,
        bandwidth_gbps=bandwidth,
        efficiency_ratio=efficiency,
        token_overhead_s=overhead_s,
        prefill_tps_8b=prefill,
        batch_gain=_CPU_GAIN,
        disk_gbps=0.45,
        page_cache_gbps=3.0,
        recovery_s=(0.0, 0.0),
    )


def _unified(
    name: str, vram_mib: int, *, bandwidth: float, efficiency: float, overhead_s: float, prefill: float
) -> Preset:
    """Returns a machine whose GPU shares the main memory; three quarters of it may hold models."""
    return Preset(
        gpu_name=name,
        vram_mib=vram_mib,
        ram_mib=vram_mib * 4 // 3,
        bandwidth_gbps=bandwidth,
        efficiency_ratio=efficiency,
        token_overhead_s=overhead_s,
        prefill_tps_8b=prefill,
        batch_gain=_UNIFIED_GAIN,
        disk_gbps=3.0,
        page_cache_gbps=6.0,
        recovery_s=(0.0, 0.0),
    )


def _discrete(
    name: str, vram_gib: int, *, bandwidth: float, efficiency: float, overhead_s: float, prefill: float
) -> Preset:
    """Returns a machine with a graphics card of its own memory."""
    return Preset(
        gpu_name=name,
        vram_mib=vram_gib * 1024,
        ram_mib=65536,
        bandwidth_gbps=bandwidth,
        efficiency_ratio=efficiency,
        token_overhead_s=overhead_s,
        prefill_tps_8b=prefill,
    )


PRESETS: Final[dict[str, Preset]] = {
    "pi5": _cpu(8192, bandwidth=17.1, efficiency=0.60, overhead_s=0.008, prefill=12.0),
    "n150": _cpu(16384, bandwidth=25.6, efficiency=0.70, overhead_s=0.0, prefill=15.0),
    "laptop-cpu": _cpu(32768, bandwidth=89.6, efficiency=0.625, overhead_s=0.006, prefill=60.0),
    "m4-mini": _unified("Apple M4", 12288, bandwidth=120.0, efficiency=0.75, overhead_s=0.0022, prefill=220.0),
    "m2-ultra": _unified("Apple M2 Ultra", 98304, bandwidth=800.0, efficiency=0.668, overhead_s=0.0040, prefill=1024.0),
    "gb10-128": _unified("NVIDIA GB10", 98304, bandwidth=273.0, efficiency=0.814, overhead_s=0.0012, prefill=3000.0),
    "rtx3060-12": _discrete(
        "NVIDIA GeForce RTX 3060", 12, bandwidth=360.0, efficiency=0.74, overhead_s=0.0006, prefill=1700.0
    ),
    "rtx4070ti-12": _discrete(
        "NVIDIA GeForce RTX 4070 Ti", 12, bandwidth=504.0, efficiency=0.85, overhead_s=0.0006, prefill=3653.0
    ),
    "rtx3090-24": _discrete(
        "NVIDIA GeForce RTX 3090", 24, bandwidth=936.0, efficiency=0.745, overhead_s=0.00086, prefill=3865.0
    ),
    "rtx4090-24": _discrete(
        "NVIDIA GeForce RTX 4090", 24, bandwidth=1008.0, efficiency=0.85, overhead_s=0.0005, prefill=6899.0
    ),
    "a6000-48": _discrete("NVIDIA RTX A6000", 48, bandwidth=768.0, efficiency=0.70, overhead_s=0.0007, prefill=3622.0),
    "h100-80": _discrete("NVIDIA H100 PCIe", 80, bandwidth=2000.0, efficiency=0.56, overhead_s=0.0025, prefill=7760.0),
    # the machine on which a real Ollama was recorded: one thread of a CPU, and models of a few megabytes
    "recorded": Preset(
        ram_mib=16384,
        bandwidth_gbps=2.2,
        efficiency_ratio=1.0,
        token_overhead_s=0.0005,
        prefill_tps_8b=0.75,
        batch_gain=_CPU_GAIN,
        disk_gbps=1.0,
        page_cache_gbps=3.0,
        load_base_s=(0.25, 0.25),
        recovery_s=(0.0, 0.0),
        is_recorded=True,
    ),
    # a machine without surprises, for tests and benchmarks: one rate for every stream however many run
    "steady": Preset(
        gpu_name="Emulated Steady",
        vram_mib=24576,
        prefill_tps_8b=1e9,
        disk_gbps=1e9,
        page_cache_gbps=1e9,
        load_base_s=(0.25, 0.25),
        recovery_s=(0.0, 0.0),
        decode_tps=40.0,
    ),
    "instant": Preset(
        gpu_name="Emulated Instant",
        vram_mib=98304,
        prefill_tps_8b=1e12,
        disk_gbps=1e9,
        page_cache_gbps=1e9,
        load_base_s=(0.0, 0.0),
        recovery_s=(0.0, 0.0),
        decode_tps=1e9,
        is_instant=True,
    ),
}
