"""The simulated machines of `bench.routing` as emulated ones, and both in compressed time.

What can be the same is the same: speeds of an 8B model, memory, disk, slow-down with company, which prompts share as
streams do; rates hold at any depth. What the emulator does in its own way stays its own, because that is what it is to
judge: work goes in steps of a token, slots remember prompts, loads end at a poll.
"""

from __future__ import annotations

from bench.routing.fleets import MODELS, MachineSpec, ModelSpec
from sollol_agents.lab.emulator.presets import Preset

MODEL = "base:8b"
"""The model of every live workload."""
MODEL_ON_DISK = f"{MODEL}=8.03"
"""The same for the emulator: so many billion weights make the same file."""

_MIB = 2**20
_GIGA = 1e9
_BATCHES = (1, 2, 4, 8)


def preset_of(spec: MachineSpec) -> Preset:
    """The emulator's machine with the figures of a simulated one, at its natural speed."""
    model = MODELS[MODEL]
    memory_mib = int(spec.memory_gb * _GIGA / _MIB)
    gains = [n / (1.0 + spec.beta * (n - 1)) for n in _BATCHES]
    return Preset(
        gpu_name=spec.gpu_name,
        vram_mib=memory_mib if spec.has_gpu else 0,
        ram_mib=65_536 if spec.has_gpu else memory_mib,
        bandwidth_gbps=model.weights_gb * spec.decode(model),
        efficiency_ratio=1.0,
        token_overhead_s=0.0,
        prefill_tps_8b=spec.prompt(model),
        batch_gain=(gains[0], gains[1], gains[2], gains[3]),
        disk_gbps=spec.disk_gb_s,
        page_cache_gbps=spec.disk_gb_s,
        load_base_s=(1.0, 1.0),
        is_prompt_shared=True,
        recovery_s=(0.0, 0.0),
    )


def compressed(spec: MachineSpec, factor: float) -> MachineSpec:
    """The same machine, on which everything but the network goes `factor` times faster."""

    class Compressed(MachineSpec):
        __slots__ = ()

        def load_s(self, model: ModelSpec) -> float:
            """Seconds to load a model."""
            return spec.load_s(model) / factor

    faster = spec._replace(decode_tps=spec.decode_tps * factor, prompt_tps=spec.prompt_tps * factor, rtt_s=0.001)
    return Compressed(*faster)
