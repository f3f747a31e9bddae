"""Telemetry made safe for arithmetic: whatever a node claims, no figure may be absurd or not a number."""

from __future__ import annotations

import msgspec

from sollol_agents.scorer.knowledge.clamp import clamped
from sollol_schemas.continuation import FINGERPRINT_MAX
from sollol_schemas.telemetry import Gpu, InstalledModel, LoadedModel, Telemetry

_MIB_MAX = 1e9  # a petabyte
_BYTES_MAX = 10**15
_SECONDS_MAX = 1e10
_WEIGHT = (0.01, 100.0)
_LIST_MAX = 4096


def bounded(telemetry: Telemetry, last: Telemetry | None = None) -> Telemetry:
    """The heartbeat with every figure that decisions use inside reasonable bounds.

    Args:
        telemetry: As it came.
        last: What this returned for the node's last one, whose list of models on disk is taken where it is the same.
    """
    installed = telemetry.installed
    if last is not None and installed == last.installed:
        installed = last.installed
    else:
        installed = tuple(_bounded_installed(m) for m in installed[:_LIST_MAX])
    return msgspec.structs.replace(
        telemetry,
        gpus=tuple(_bounded_gpu(g) for g in telemetry.gpus[:64]),
        installed=installed,
        loaded=tuple(bounded_loaded(m) for m in telemetry.loaded[:_LIST_MAX]),
        ram_total_mib=clamped(telemetry.ram_total_mib, 0.0, _MIB_MAX),
        ram_available_mib=clamped(telemetry.ram_available_mib, 0.0, _MIB_MAX),
        bus_rtt_s=clamped(telemetry.bus_rtt_s, 0.0, 60.0),
        uptime_s=clamped(telemetry.uptime_s, 0.0, _SECONDS_MAX),
        weight=clamped(telemetry.weight, *_WEIGHT),
        cpu_count=_whole(telemetry.cpu_count, 4096),
    )


def _bounded_gpu(gpu: Gpu) -> Gpu:
    total = clamped(gpu.memory_total_mib, 0.0, _MIB_MAX)
    used, free = clamped(gpu.memory_used_mib, 0.0, total), clamped(gpu.memory_free_mib, 0.0, total)
    if (total, used, free) == (gpu.memory_total_mib, gpu.memory_used_mib, gpu.memory_free_mib):
        return gpu
    return msgspec.structs.replace(gpu, memory_total_mib=total, memory_used_mib=used, memory_free_mib=free)


def _bounded_installed(model: InstalledModel) -> InstalledModel:
    figures = (
        model.size_bytes,
        model.kv_bytes_per_token,
        model.context_length,
        model.parameter_count,
        model.slots,
        model.usual_context_length,
    )
    bounded = tuple(_whole(f, _BYTES_MAX) for f in figures)
    fingerprint = model.fingerprint if len(model.fingerprint) <= FINGERPRINT_MAX else ""
    if figures == bounded and fingerprint == model.fingerprint:
        return model
    size_bytes, kv_bytes_per_token, context_length, parameter_count, slots, usual = bounded
    return msgspec.structs.replace(
        model,
        size_bytes=size_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
        context_length=context_length,
        parameter_count=parameter_count,
        slots=slots,
        usual_context_length=usual,
        fingerprint=fingerprint,
    )


def bounded_loaded(model: LoadedModel) -> LoadedModel:
    """A loaded model with its sizes inside reasonable bounds."""
    size, vram = _whole(model.size_bytes, _BYTES_MAX), _whole(model.vram_bytes, _BYTES_MAX)
    context = _whole(model.context_length, _BYTES_MAX)
    if (size, vram, context) == (model.size_bytes, model.vram_bytes, model.context_length):
        return model
    return msgspec.structs.replace(model, size_bytes=size, vram_bytes=vram, context_length=context)


def _whole(value: int, high: int) -> int:
    return max(0, min(value, high))
