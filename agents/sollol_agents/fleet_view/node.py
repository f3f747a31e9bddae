"""One node: heartbeats and loads of its own, its state and breakers as the scorer tells them.

A node's state is the scorer's word. When it has been silent for `SILENT_S` it is shown as down even if no scorer says
so, because there may be none in office.
"""

from __future__ import annotations

import math
from typing import Final

from sollol_agents.fleet_view.node_rows import Loaded, NodeDetail, NodeRow, Running
from sollol_agents.fleet_view.rates import Rate
from sollol_agents.requests.names import canonical
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import BreakerState, Outcome, OutcomeStatus
from sollol_schemas.telemetry import InFlight, LoadedModel, LoadUpdate, NodeState, Telemetry

SILENT_S: Final = 5.5
LEFT: Final = "left"
"""Shown instead of `down` for a node that ended in order."""
ASLEEP: Final = "asleep"
"""Shown instead of `down` for a node that sleeps, and can be woken."""
_SHOWN_IN_FLIGHT: Final = 64
_Z: Final = 1.96
_TRIED: Final = (OutcomeStatus.SUCCESS, OutcomeStatus.FAILED, OutcomeStatus.PRESUMED_LOST)


class Node:
    """Everything known about one node."""

    def __init__(self, node_id: str, now: float) -> None:
        self.node_id = node_id
        self.told: Telemetry | None = None
        self.heard_at = now
        self.state = NodeState.UP
        self.reason = ""
        self.has_left = self.is_asleep = False
        self.row: NodeRow | None = None
        self.version = 0
        self.tps = Rate()
        self._busy: tuple[InFlight, ...] = ()
        self._slots = 0
        self._loaded: tuple[LoadedModel, ...] = ()
        self._is_draining = False
        self._seq = 0
        self._tokens: dict[str, int] = {}
        self._attempts = 0
        self._successes = 0
        self._breakers: dict[str, BreakerState] = {}

    # -- news ---------------------------------------------------------------------------------------------

    def on_telemetry(self, told: Telemetry, now: float) -> bool:
        """A full heartbeat; False for one of another instance or an old one."""
        known = self.told
        if known is not None:
            is_silent = now - self.heard_at > SILENT_S
            if told.revision < known.revision and not is_silent:
                return False
            if told.instance == known.instance and told.seq < self._seq:
                return False
        if known is not None and told.instance != known.instance:
            self.has_left = False
        self.told, self.is_asleep = told, False
        self._take(told.seq, told.slots, told.in_flight, is_draining=told.is_draining, now=now)
        self._loaded = told.loaded
        return True

    def on_load(self, told: LoadUpdate, now: float) -> bool:
        """A change of load; False for one of another instance or an old one."""
        if self.told is None or told.instance != self.told.instance or told.seq < self._seq:
            return False
        self._take(told.seq, told.slots, told.in_flight, is_draining=told.is_draining, now=now)
        if told.loaded is not None:
            self._loaded = told.loaded
        self.has_left, self.is_asleep = self.has_left or told.has_left, told.is_asleep
        return True

    def on_outcome(self, outcome: Outcome, now: float) -> None:
        """An attempt of this node ended."""
        seen = self._tokens.pop(outcome.attempt_id, 0)
        if outcome.figures is not None and outcome.figures.output_tokens:
            self.tps.add(max(0, outcome.figures.output_tokens - seen), now)
        if outcome.status is OutcomeStatus.SUCCESS:
            self._successes += 1
        if outcome.status in _TRIED and outcome.code is not ErrorCode.MOVED:
            self._attempts += 1

    def on_breaker(self, model: str, state: BreakerState) -> None:
        """A breaker of this node changed; `model` is empty for the node's own."""
        if state is BreakerState.CLOSED:
            self._breakers.pop(model, None)
        else:
            self._breakers[model] = state

    def forget_breakers(self) -> None:
        """A new list of breakers follows."""
        self._breakers.clear()

    def know_record(self, attempts: int, successes: int) -> None:
        """What the recorder has of the time before this dashboard."""
        self._attempts, self._successes = attempts, successes

    def _take(self, seq: int, slots: int, busy: tuple[InFlight, ...], *, is_draining: bool, now: float) -> None:
        self._seq, self._slots, self._is_draining, self.heard_at = seq, slots, is_draining, now
        made = 0
        tokens = {}
        for attempt in busy:
            made += max(0, attempt.output_tokens - self._tokens.get(attempt.attempt_id, 0))
            tokens[attempt.attempt_id] = attempt.output_tokens
        if made:
            self.tps.add(made, now)
        # an attempt that left keeps its count for a moment: its outcome may come after the load message
        gone = {k: v for k, v in list(self._tokens.items())[-_SHOWN_IN_FLIGHT:] if k not in tokens}
        self._tokens = gone | tokens
        self._busy = busy

    # -- view ---------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many attempts it runs at a time."""
        return self._slots

    @property
    def busy(self) -> int:
        """How many it runs."""
        return len(self._busy)

    @property
    def has_engine(self) -> bool:
        """Whether its engine answers: without, it is of no use, however well it is."""
        return self.told is None or self.told.engine.is_reachable

    def has(self, model: str) -> bool:
        """Whether the model, by the name that the scorer calls it, is on its disk."""
        return self.told is not None and any(canonical(m.name) == model for m in self.told.installed)

    def shown_state(self, now: float) -> str:
        """The state that people should see: the scorer's, or `left`, or `asleep`."""
        if self.has_left:
            return LEFT
        if self.is_asleep:
            return ASLEEP
        if now - self.heard_at > SILENT_S:
            return NodeState.DOWN.value
        if self.state is NodeState.UP and self._is_draining:
            return NodeState.DRAINING.value
        return self.state.value

    def view(self, now: float) -> NodeRow:
        """Its card."""
        told = self.told
        state = self.shown_state(now)
        silent_s = now - self.heard_at
        if told is None:
            return NodeRow(id=self.node_id, state=state, reason=self.reason, silent_s=int(silent_s))
        is_down = state in (NodeState.DOWN, LEFT, ASLEEP)
        running = () if is_down else tuple(_running(a) for a in self._busy[:_SHOWN_IN_FLIGHT])
        gpus = told.gpus
        bound = _wilson(self._successes, self._attempts)
        return NodeRow(
            id=self.node_id,
            state=state,
            reason=self.reason,
            silent_s=int(silent_s) if silent_s >= 3 else 0,
            engine=f"{told.engine.kind.value} {told.engine.version}".strip(),
            is_reachable=told.engine.is_reachable,
            engine_detail=told.engine.detail,
            host=told.host,
            gpu=gpus[0].name if gpus else "",
            gpus=len(gpus),
            vram_used_mib=_tens(sum(g.memory_used_mib or g.memory_total_mib - g.memory_free_mib for g in gpus)),
            vram_total_mib=_tens(sum(g.memory_total_mib for g in gpus)),
            ram_used_mib=_tens(told.ram_total_mib - told.ram_available_mib),
            ram_total_mib=_tens(told.ram_total_mib),
            gpu_ratio=_highest([g.utilisation_ratio for g in gpus], 2),
            cpu_ratio=round(told.cpu_load_ratio, 2),
            temperature_c=_whole(_highest([g.temperature_c for g in gpus], 0)),
            power_w=_whole(sum(g.power_w for g in gpus if g.power_w is not None) or None),
            slots=self._slots,
            running=running,
            busy=len(running),
            loaded=() if is_down else tuple(_loaded(m) for m in self._loaded),
            models=len(told.installed),
            weight=told.weight,
            tps=0.0 if is_down else round(self.tps.per_s(now), 1),
            attempts=self._attempts,
            success_ratio=round(self._successes / self._attempts, 4) if self._attempts else None,
            success_bound=None if bound is None else round(bound, 4),
            breaker=self._breaker(),
            broken_models=tuple(sorted(model for model in self._breakers if model)),
            rtt_ms=round(told.bus_rtt_s * 1000, 1),
        )

    def detail(self) -> NodeDetail | None:
        """Its own page, once it has told about itself."""
        told = self.told
        if told is None:
            return None
        return NodeDetail(
            id=self.node_id,
            installed=tuple((m.name, m.size_bytes, m.quantization) for m in told.installed),
            labels=told.labels,
            speeds=tuple(
                (s.model, round(s.prompt_tps, 1), round(s.decode_tps, 1), round(s.load_s, 2)) for s in told.speeds
            ),
            url=told.engine.url,
            version=told.version,
            cpu_count=told.cpu_count,
            uptime_s=told.uptime_s,
            price=told.price_in_words,
        )

    def _breaker(self) -> str:
        states = set(self._breakers.values())
        for state in (BreakerState.OPEN, BreakerState.HALF_OPEN):
            if state in states:
                return state.value
        return BreakerState.CLOSED.value


def _running(attempt: InFlight) -> Running:
    phase = "loading" if attempt.is_loading else "writing" if attempt.has_first_token else "reading"
    return Running(attempt.model, attempt.output_tokens, phase)


def _loaded(model: LoadedModel) -> Loaded:
    share = min(1.0, model.vram_bytes / model.size_bytes) if model.size_bytes else 0.0
    return Loaded(model.name, round(model.size_bytes / (1 << 20)), round(share, 2))


def _wilson(successes: int, attempts: int) -> float | None:
    """Lower end of the 95 % Wilson interval (Wilson 1927) of a success ratio; None without attempts."""
    if not attempts:
        return None
    share, square = successes / attempts, _Z * _Z
    centre = share + square / (2 * attempts)
    margin = _Z * math.sqrt(share * (1 - share) / attempts + square / (4 * attempts * attempts))
    return max(0.0, (centre - margin) / (1 + square / attempts))


def _tens(mib: float) -> int:
    """MiB without the noise: a page need not be renewed for it."""
    return round(mib / 10) * 10


def _highest(values: list[float | None], digits: int) -> float | None:
    known = [value for value in values if value is not None]
    return round(max(known), digits) if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
