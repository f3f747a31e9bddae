"""How long a step of the emulated engine takes; pure functions of a machine and a model.

Decoding is bound by memory: one step reads the weights once and the keys and values
of each stream, at the bandwidth the machine reaches, plus a fixed overhead. With b
streams a step takes b / gain(b) times as long, where the gain curve is that of the
preset (published: 1.4 to 1.85 at two streams, nearly flat after eight). Prompt
evaluation has a rate that falls with the number of weights and with depth. Weights
that do not fit the GPU are read at the RAM's bandwidth, which gives the steep fall
of partial offload.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sollol_agents.lab.emulator.models import ModelSpec
    from sollol_agents.lab.emulator.presets import Preset

_PARAMETERS_8B: Final = 8.03e9
_HALF_RATE_DEPTH_TOKENS: Final = 20_000.0  # fitted to 3,900 tokens/s at none and 1,475 at 32 k depth
_POLL_S: Final = 0.25  # readiness of a runner is polled at this interval
_MIB: Final = 1024 * 1024


def batch_gain(preset: Preset, streams: int) -> float:
    """Returns the aggregate decode rate of so many streams over that of one; at least 1."""
    assert streams >= 1
    position = min(math.log2(streams), 3.0)
    low = int(position)
    high = min(low + 1, 3)
    curve = preset.batch_gain
    return curve[low] + (curve[high] - curve[low]) * (position - low)


def decode_step_s(preset: Preset, model: ModelSpec, *, gpu_ratio: float, depths_tokens: Sequence[int]) -> float:
    """Returns the seconds in which each running stream gets one token.

    Args:
        preset: the machine.
        model: the model that decodes.
        gpu_ratio: share of the weights on the GPU, 0 to 1; ignored without a GPU.
        depths_tokens: context depth of each running stream.
    """
    if not depths_tokens:
        return 0.0
    if preset.decode_tps:
        return 1.0 / preset.decode_tps
    reach = preset.bandwidth_gbps * 1e9 * preset.efficiency_ratio
    on_gpu = gpu_ratio if preset.vram_mib else 1.0
    read_s = model.file_bytes * on_gpu / reach
    read_s += model.file_bytes * (1.0 - on_gpu) / (preset.ram_bandwidth_gbps * 1e9)
    streams = len(depths_tokens)
    kv_s = sum(depths_tokens) * model.kv_bytes_per_token / reach
    return (read_s + preset.token_overhead_s) * streams / batch_gain(preset, streams) + kv_s


def prefill_s(preset: Preset, model: ModelSpec, *, gpu_ratio: float, tokens: int, depth_tokens: int) -> float:
    """Returns the seconds of evaluating `tokens` of a prompt at that depth."""
    assert tokens >= 0
    rate = preset.prefill_tps_8b * _PARAMETERS_8B / model.parameters
    rate /= 1.0 + depth_tokens / _HALF_RATE_DEPTH_TOKENS
    if preset.vram_mib and gpu_ratio < 1.0:
        rate *= max(gpu_ratio, 0.1)
    return tokens / rate


def slowdown(preset: Preset, streams: int) -> float:
    """Returns how many times longer a stream's work takes beside so many in all, itself included; at least 1."""
    return max(1, streams) / batch_gain(preset, max(1, streams))


def shared_tokens(preset: Preset, model: ModelSpec, *, gpu_ratio: float) -> int:
    """Returns the prompt tokens that are evaluated in the time of one decoded token; 0 where prompts come first."""
    if not preset.is_prompt_shared:
        return 0
    step_s = decode_step_s(preset, model, gpu_ratio=gpu_ratio, depths_tokens=[0])
    return max(1, round(step_s / prefill_s(preset, model, gpu_ratio=gpu_ratio, tokens=1, depth_tokens=0)))


def shared_step_s(
    preset: Preset, model: ModelSpec, *, gpu_ratio: float, streams: int, prompt_tokens: Sequence[int]
) -> float:
    """Returns the seconds of a step in which streams and prompts slow each other down by company alone.

    The depth of their contexts is taken to be in the machine's rates, which are published at about 1,000 tokens.

    Args:
        preset: the machine.
        model: the model that works.
        gpu_ratio: share of the weights on the GPU, 0 to 1.
        streams: how many of them get a token.
        prompt_tokens: tokens of each prompt that are evaluated in this step.
    """
    company = slowdown(preset, streams + len(prompt_tokens))
    if streams:
        return company * decode_step_s(preset, model, gpu_ratio=gpu_ratio, depths_tokens=[0])
    return company * prefill_s(preset, model, gpu_ratio=gpu_ratio, tokens=max(prompt_tokens, default=0), depth_tokens=0)


def load_s(preset: Preset, model: ModelSpec, *, is_cached: bool, jitter_ratio: float) -> float:
    """Returns the seconds from the start of a runner to its readiness, in whole polling intervals.

    Args:
        preset: the machine.
        model: the model to load.
        is_cached: the file lies in the page cache.
        jitter_ratio: 0 to 1, where in the machine's range this load falls.
    """
    assert 0.0 <= jitter_ratio <= 1.0
    shortest, longest = preset.load_base_s
    rate = (preset.page_cache_gbps if is_cached else preset.disk_gbps) * 1e9
    seconds = model.file_bytes / rate + shortest + (longest - shortest) * jitter_ratio
    if model.file_bytes < 64 * _MIB:  # a tiny model is mostly the start of a process
        seconds = min(seconds, _POLL_S)
    return math.ceil(seconds / _POLL_S - 1e-3) * _POLL_S


def recovery_s(preset: Preset, *, jitter_ratio: float) -> float:
    """Returns the seconds until the memory of an unloaded model is seen free."""
    shortest, longest = preset.recovery_s
    return 0.1 + shortest + (longest - shortest) * jitter_ratio


def default_ctx_tokens(preset: Preset) -> int:
    """Returns the context that Ollama chooses by the size of the GPU's memory."""
    if preset.vram_mib >= 47 * 1024:
        return 262144
    return 32768 if preset.vram_mib >= 23 * 1024 else 4096


def predicted_bytes(model: ModelSpec, *, ctx_tokens: int, slots: int) -> int:
    """Returns the memory that the fit test expects a model to need."""
    return model.file_bytes + model.kv_bytes_per_token * ctx_tokens * slots


def real_bytes(model: ModelSpec, *, ctx_tokens: int, slots: int) -> int:
    """Returns what a loaded model occupies: weights, keys and values, compute buffers."""
    buffers = 8 * _MIB + model.width * 64 * 1024
    return predicted_bytes(model, ctx_tokens=ctx_tokens, slots=slots) + buffers
