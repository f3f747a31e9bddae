"""What a simulated machine tells the scorer, as a real node would.

A heartbeat a second, and a load message when something changed, at most 20 a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bench.routing.engine import Job, Machine
from bench.routing.fleets import MODELS, ModelSpec
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LoadedModel,
    LoadUpdate,
    Telemetry,
)

_HEARTBEAT_S = 1.0
_COALESCE_S = 0.05
_DEFAULT_CONTEXT = 4096
_MIB = 1024.0 * 1024.0
_GB = 1e9


class Reporter:
    """Says on a machine's behalf what its agent would say."""

    def __init__(self, machine: Machine, core: SchedulerCore, carry_out: Callable[[Iterable[Effect]], None]) -> None:
        self.machine = machine
        self.jobs: dict[str, Job] = {}
        self._core = core
        self._carry_out = carry_out
        self._seq = 0
        self._is_due = False
        machine.on_change = self.changed
        self._installed = tuple(_installed(m) for m in MODELS.values())
        self.beat()

    def beat(self) -> None:
        """Sends a heartbeat and plans the next."""
        self.machine.time.after(_HEARTBEAT_S, self.beat)
        if not self.machine.is_up:
            return
        self._seq += 1
        self._carry_out(self._core.on_telemetry(self._telemetry(), self.machine.time.now))

    def changed(self) -> None:
        """Sends a load message soon, one for all changes until then."""
        if not self._is_due:
            self._is_due = True
            self.machine.time.after(_COALESCE_S, self._tell_load)

    def _tell_load(self) -> None:
        self._is_due = False
        if not self.machine.is_up:
            return
        self._seq += 1
        update = LoadUpdate(
            node_id=self.machine.name,
            instance=self.machine.name,
            seq=self._seq,
            slots=4,
            in_flight=self._in_flight(),
            loaded=self._loaded(),
        )
        self._carry_out(self._core.on_load(update, self.machine.time.now))

    def _in_flight(self) -> tuple[InFlight, ...]:
        self.machine.jobs()
        return tuple(
            InFlight(
                attempt_id=job.attempt_id,
                model=job.request.model.name,
                output_tokens=job.tokens_made,
                has_first_token=job.first_token_at is not None,
                is_loading=job.started_at is None,
            )
            for job in self.jobs.values()
        )

    def _loaded(self) -> tuple[LoadedModel, ...]:
        is_gpu = self.machine.spec.has_gpu
        return tuple(
            LoadedModel(
                name=name, size_bytes=int(p.model.memory_gb * _GB), vram_bytes=int(p.model.memory_gb * _GB) * is_gpu
            )
            for name, p in self.machine.memory.items()
        )

    def _telemetry(self) -> Telemetry:
        machine, spec = self.machine, self.machine.spec
        held = [p.model for p in machine.memory.values()] + ([machine.loading] if machine.loading else [])
        free_mib = max(0.0, (spec.memory_gb - sum(m.memory_gb for m in held)) * _GB / _MIB + 200.0)
        total_mib = spec.memory_gb * _GB / _MIB + 200.0
        gpus = (
            (
                Gpu(
                    index=0,
                    name=spec.gpu_name,
                    memory_total_mib=total_mib,
                    memory_used_mib=total_mib - free_mib,
                    memory_free_mib=free_mib,
                ),
            )
            if spec.has_gpu
            else ()
        )
        return Telemetry(
            node_id=machine.name,
            instance=machine.name,
            revision=1,
            seq=self._seq,
            engine=EngineInfo(kind=EngineKind.OLLAMA, url="http://simulated"),
            slots=4,
            in_flight=self._in_flight(),
            gpus=gpus,
            cpu_count=spec.cores,
            ram_total_mib=0.0 if spec.has_gpu else total_mib,
            ram_available_mib=0.0 if spec.has_gpu else free_mib,
            installed=tuple(m for m in self._installed if spec.fits(MODELS[m.name])),
            loaded=self._loaded(),
            bus_rtt_s=spec.rtt_s,
            uptime_s=machine.time.now,
        )


def _installed(model: ModelSpec) -> InstalledModel:
    cache = (model.memory_gb - model.weights_gb) * _GB / (_DEFAULT_CONTEXT * model.slots)
    return InstalledModel(
        name=model.name,
        size_bytes=model.size_bytes,
        context_length=_DEFAULT_CONTEXT,
        kv_bytes_per_token=int(cache),
        slots=model.slots,
        fingerprint="" if model.name.startswith("embed") else f"ollama:{model.name}",
    )
