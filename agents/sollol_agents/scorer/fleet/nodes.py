"""One node as the scorer knows it: what it said last, and what was granted on it since."""

from __future__ import annotations

import math
from collections import deque

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.node_clock import NodeClock
from sollol_agents.scorer.fleet.residency import Budget, Resident, Residents, budget_of, max_models, twins_of
from sollol_agents.scorer.knowledge import priors
from sollol_agents.scorer.knowledge.breaker import Breakers
from sollol_agents.scorer.knowledge.concurrency import Concurrency
from sollol_agents.scorer.knowledge.demand import RankedWork
from sollol_agents.scorer.knowledge.prefixes import PrefixMirror
from sollol_agents.scorer.knowledge.reliability import Record
from sollol_agents.scorer.knowledge.sleeper import Sleeper
from sollol_agents.scorer.knowledge.speeds import LoadRatio, NodeSpeeds, Pace
from sollol_schemas.node_names import host_and_port
from sollol_schemas.telemetry import (
    EngineKind,
    InFlight,
    InstalledModel,
    LoadedModel,
    LoadUpdate,
    NodeState,
    Telemetry,
)

_IN_FLIGHT_LIMIT = 1024
_RESHAPED_MAX = 256
_BUDGET_STEP_BYTES = 256.0 * 1024 * 1024


class Versions:
    """What all nodes of a fleet share: how often the shape of any of them changed, and what loads took."""

    __slots__ = ("loads", "reshaped", "shape")

    def __init__(self) -> None:
        self.shape = 0
        self.reshaped: deque[str] = deque(maxlen=_RESHAPED_MAX)
        """The nodes whose shape changed last, the latest at the end."""
        self.loads = LoadRatio()


class Node:
    """Everything known of one node.

    `shape_version` changes when its eligibility for some request may have changed, `speed_version` when a
    predicted time may have, `load_version` when its slots or its memory did.
    """

    def __init__(self, telemetry: Telemetry, now: float, versions: Versions) -> None:
        self._versions = versions
        self.node_id = telemetry.node_id
        self.instance = telemetry.instance
        self.revision = telemetry.revision
        self.seq = -1
        self.telemetry = telemetry
        self.host = host_and_port(telemetry)
        """The machine of its engine, with the engine's port where that is known."""
        self.joined_at = now
        self.seen_at = now
        self.clock = NodeClock()
        self.state = NodeState.UP
        self.is_failing = False
        self.lost_at = -math.inf
        """When an attempt on it was found lost that began, as the node was heard again, after the one before was."""
        self.is_full = False
        """It answered `busy`: full until its next message, whatever our ledger says."""
        self.is_draining = telemetry.is_draining
        self.takes_rests = False
        """Whether it goes on with answers that no other node can go on with, although it drains."""
        self.is_kept_out = False
        """An operator wants no new work there, whatever its present process knows of it."""
        self.slots = 0
        self.installed: dict[str, InstalledModel] = {}
        self._installed_told: tuple[InstalledModel, ...] = ()
        self.twins: dict[str, tuple[str, ...]] = {}
        """The other names of a model's weights, which are in memory when it is."""
        self.loaded_told: tuple[LoadedModel, ...] = ()
        self._contexts: dict[str, int] = {}
        self.residents = Residents()
        self.budget = Budget(0.0, 0.0)
        self.max_models = 1
        self.attempts: dict[str, Attempt] = {}
        self.shape_version = 0
        self.speed_version = 0
        self.load_version = 0
        machine = _machine(telemetry)
        self.speeds = NodeSpeeds(machine=machine, has_gpu=telemetry.has_gpu, loads=versions.loads)
        self.pace = Pace(now)
        self.concurrency: dict[str, Concurrency] = {}
        """Of models of which two attempts or more were seen at a time."""
        self.record = Record()
        self.model_records: dict[str, Record] = {}
        self.breakers = Breakers()
        self.work = RankedWork(now)
        self.mirror = PrefixMirror()
        self.sleeper: Sleeper | None = None
        """Set where it sleeps while nobody needs it."""
        self._signature: object = None

    def __repr__(self) -> str:
        return f"<Node {self.node_id} {self.state} {len(self.attempts)}/{self.slots}>"

    def reshape(self) -> None:
        """Notes that the node's eligibility for some request may have changed."""
        self.shape_version += 1
        self._versions.shape += 1
        self._versions.reshaped.append(self.node_id)

    @property
    def figures_version(self) -> int:
        """Changes whenever a predicted time of any of its models may have; it never takes a former value again."""
        return self.shape_version + self.speed_version + self.speeds.version + self.residents.version

    @property
    def has_gpu(self) -> bool:
        """Whether the node has a GPU."""
        return bool(self.telemetry.gpus)

    @property
    def is_router_free(self) -> bool:
        """Whether the engine serves its models without loading and evicting."""
        return self.telemetry.engine.kind is not EngineKind.OLLAMA

    @property
    def is_asleep(self) -> bool:
        """Whether it sleeps, or was woken and has not come yet."""
        return self.sleeper is not None and self.sleeper.is_away

    def free_vram_mib(self) -> float:
        """Video memory not in use, in MiB."""
        return sum(g.memory_free_mib for g in self.telemetry.gpus)

    def restart(self, telemetry: Telemetry, now: float) -> list[Attempt]:
        """A new process owns the id: forgets what belonged to the old one and returns its lost attempts."""
        lost = list(self.attempts.values())
        self.attempts.clear()
        self.instance, self.revision, self.seq = telemetry.instance, telemetry.revision, -1
        self.speed_version += self.residents.version + 1
        self.residents = Residents()
        self.breakers = Breakers()
        self.mirror = PrefixMirror()
        self.pace = Pace(now)
        self.concurrency.clear()
        self.is_failing = self.is_full = False
        self.joined_at = now
        self.load_version += 1
        self.reshape()
        return lost

    def tell(self, telemetry: Telemetry, max_slots: int) -> None:
        """Takes over the slow facts of a heartbeat: models, memory, hardware."""
        self.telemetry = telemetry
        self.revision = max(self.revision, telemetry.revision)
        if not telemetry.installed or telemetry.installed is not self._installed_told:
            self._take_models(telemetry)
        self.max_models = max_models(telemetry)
        self.speeds.set_machine(_machine(telemetry))
        if telemetry.speeds:
            self.speeds.adopt(telemetry.speeds, {m.name: key for key, m in self.installed.items()})
        budget = budget_of(telemetry)
        if any(r.is_loading for r in self.residents.by_name.values()):
            # Half of a load shows as used memory of no model: the budget seems smaller than it is.
            budget = Budget(
                max(budget.vram_bytes, self.budget.vram_bytes), max(budget.ram_bytes, self.budget.ram_bytes)
            )
        self.budget = budget
        self._report_slots(telemetry, max_slots)

    def _take_models(self, telemetry: Telemetry) -> None:
        self._installed_told = telemetry.installed
        installed = telemetry.installed or tuple(
            InstalledModel(name=m.name, size_bytes=m.size_bytes) for m in telemetry.loaded
        )
        self.installed = {}
        for model in installed:
            self.installed.setdefault(canonical(model.name), model)
        self.twins = twins_of(self.installed)

    def _report_slots(self, told: Telemetry | LoadUpdate, max_slots: int) -> None:
        self.slots = max(0, min(told.slots, max_slots))
        self.is_draining = told.is_draining or self.is_kept_out
        self.takes_rests = told.takes_rests
        t = self.telemetry
        signature = (
            self.slots,
            self.is_draining,
            self.takes_rests,
            t.engine.is_reachable,
            t.engine.kind,
            t.engine.url,
            t.host,
            t.addresses,
            t.installed,
            len(t.gpus),
            round(self.budget.vram_bytes / _BUDGET_STEP_BYTES),
            round(self.budget.ram_bytes / _BUDGET_STEP_BYTES),
            round(self.free_vram_mib() / 256),
            t.weight,
            t.labels,
            t.preferred_task_types,
            round(t.bus_rtt_s, 3),
        )
        if signature != self._signature:
            self._signature = signature
            self.host = host_and_port(t)
            self.reshape()
            self.speed_version += 1
            self.load_version += 1

    def report_load(
        self,
        told: Telemetry | LoadUpdate,
        *,
        loaded: tuple[LoadedModel, ...] | None,
        max_slots: int,
    ) -> None:
        """Takes over the fast facts of a load message or heartbeat."""
        self.is_full = False
        if loaded is not None:
            self.loaded_told = loaded
        self._report_slots(told, max_slots)
        self.settle_residents()

    def settle_residents(self) -> None:
        """Brings the believed memory in line with the latest list and the attempts that live."""
        told = {canonical(m.name): m for m in self.loaded_told}
        if not told and self.is_router_free:
            told = {key: LoadedModel(name=m.name, size_bytes=m.size_bytes) for key, m in self.installed.items()}
        before = set(self.residents.by_name)
        contexts = {model: one.context_length for model, one in told.items()}
        if contexts != self._contexts:
            self._contexts = contexts
            self.reshape()
        if self.residents.report(told, set(self.attempts)):
            self.load_version += 1
            for model in before - set(self.residents.by_name):
                self.mirror.forget(model)

    def reconcile(self, in_flight: tuple[InFlight, ...], now: float) -> tuple[list[Attempt], list[InFlight]]:
        """Compares our ledger with the node's list, by attempt id.

        Returns:
            Attempts that the node had taken and no longer lists (they ended), and entries of the list that are
            not in our ledger.
        """
        listed = {f.attempt_id: f for f in in_flight[:_IN_FLIGHT_LIMIT]}
        gone = [a for a in self.attempts.values() if a.is_confirmed and a.attempt_id not in listed]
        unknown = [f for f in listed.values() if f.attempt_id not in self.attempts]
        self._observe_progress(listed, now)
        return gone, unknown

    def _observe_progress(self, listed: dict[str, InFlight], now: float) -> None:
        measured = expected = 0.0
        company = 1.0 + self.speeds.beta * max(0, len(listed) - 1)
        for attempt_id, seen in listed.items():
            attempt = self.attempts.get(attempt_id)
            if attempt is None:
                continue
            if attempt.has_first_token and seen.output_tokens >= attempt.tokens and attempt.output_median > 0:
                if self.speeds.has_decode_samples(attempt.model, 3):
                    usual_tps = self.speeds.decode_tps(attempt.model, 0.0)
                    measured += seen.output_tokens - attempt.tokens
                    expected += usual_tps / company * max(0.0, now - attempt.observed_at)
            elif seen.has_first_token and not attempt.has_first_token:
                self.residents.end_load(attempt_id, is_loaded=True)
                self.load_version += 1
            if seen.output_tokens or seen.has_first_token or not attempt.is_confirmed:
                attempt.observe(seen, now)
        self._observe_concurrency(listed, now)
        if expected >= 1.0:
            self.pace.observe(measured, expected, now)
            self.load_version += 1
        elif not listed:
            self.pace.rest(now)

    def _observe_concurrency(self, listed: dict[str, InFlight], now: float) -> None:
        """Notices an engine that lets attempts wait which it was thought to run."""
        together: dict[str, list[Attempt]] = {}
        if len(listed) > 1:
            for attempt_id in listed:
                attempt = self.attempts.get(attempt_id)
                if attempt is not None and attempt.output_median > 0:
                    together.setdefault(attempt.model, []).append(attempt)
        for model, attempts in together.items():
            resident = self.residents.by_name.get(model)
            if len(attempts) < 2 or model not in self.installed or resident is None or resident.is_loading:
                continue
            silent = [a for a in attempts if not a.has_first_token]
            seen = self.concurrency.setdefault(model, Concurrency())
            changed = seen.observe(
                len(attempts) - len(silent),
                {a.attempt_id: now - a.granted_at - a.load_s for a in silent},
                sum(a.prefill_s for a in silent) / max(self.pace.value, 0.05),
                now,
            )
            if changed:
                self.reshape()
                self.load_version += 1

    def take(self, attempt: Attempt) -> None:
        """Puts an attempt into a slot."""
        self.attempts[attempt.attempt_id] = attempt
        self.load_version += 1

    def release(self, attempt_id: str, *, is_loaded: bool) -> Attempt | None:
        """Frees the slot of an attempt; `is_loaded` tells whether a load it caused came to its end."""
        attempt = self.attempts.pop(attempt_id, None)
        if attempt is not None:
            self.residents.end_load(attempt_id, is_loaded=is_loaded)
            self.load_version += 1
        return attempt

    def model_record(self, model: str) -> Record:
        """The record of one model on this node."""
        record = self.model_records.get(model)
        if record is None:
            record = Record()
            if model in self.installed or len(self.model_records) < len(self.installed) + 64:
                self.model_records[model] = record
        return record

    def loaded_context_tokens(self, model: str) -> int:
        """The context with which a model is loaded; 0 when it is not, or the engine does not tell."""
        names = (model, *self.twins.get(model, ()))
        return next((context for name in names if (context := self._contexts.get(name, 0))), 0)

    def is_loaded(self, model: str) -> bool:
        """Whether the engine said last that the model is in memory, under whatever name; then the shape follows it."""
        return self.is_router_free or any(name in self._contexts for name in (model, *self.twins.get(model, ())))

    def resident(self, model: str) -> Resident | None:
        """The model's place in memory, under whatever name it was loaded, or None."""
        by_name = self.residents.by_name
        if model in by_name or model not in self.twins:
            return by_name.get(model)
        return next((by_name[twin] for twin in self.twins[model] if twin in by_name), None)

    def model_slots(self, model: InstalledModel) -> int:
        """How many attempts of this model the node runs at a time."""
        slots = min(model.slots, self.slots) if model.slots else self.slots
        seen = self.concurrency.get(canonical(model.name)) if self.concurrency else None
        return min(slots, seen.limit) if seen is not None and seen.limit else slots

    def serialised(self) -> dict[str, int]:
        """Models of which the engine runs fewer at a time than its slots promise, with how many."""
        return {model: seen.limit for model, seen in self.concurrency.items() if seen.limit}


def _machine(telemetry: Telemetry) -> priors.Machine:
    if telemetry.gpus:
        return priors.gpu_machine(telemetry.gpus)
    return priors.cpu_machine(telemetry.cpu_count) if telemetry.cpu_count else priors.UNKNOWN_MACHINE
