"""Whether each model has too few slots or too many, with the seconds behind it. Pure.

Once a second it is counted how many slots of the nodes that can serve a model are taken, by whatever model, and how
many requests wait for it. What waiting costs follows from the queue as if work flowed like water: `n` requests that
each take `w` seconds of one of `p` parallel places wait `n s + n (n - 1) / 2 * w / p` seconds together, `s` being the
time until the first place is free; one more place makes `s` 0 and `p` greater. Means of half a minute and of a minute
take out what passes; a verdict comes only after its condition has stood for a while, and goes by a lower one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Line, Queue
from sollol_schemas.scaling import ScaleEvent, ScaleVerdict, ScaleView
from sollol_schemas.telemetry import NodeState

_MODELS_MAX: Final = 64
_ASKED_WITHIN_S: Final = 86_400.0
_COST_S: Final = 30.0
_LOAD_S: Final = 60.0
_MINUTE_S: Final = 60.0
_MINUTES: Final = 15
_FEW_WAIT: Final = 1.0
_FEW_SAVED_S: Final = 5.0
_EASED: Final = 0.4  # of what brings a verdict, and it goes again
_FEW_STANDS_S: Final = 30.0
_EASED_STANDS_S: Final = 120.0
_REPEAT_S: Final = 900.0


class Pressure(NamedTuple):
    """What waits for a model, and what that costs."""

    waiting: int
    waiting_s: float
    saved_s: float


class ModelScale:
    """Slots and requests of one model, over time."""

    def __init__(self, model: str, now: float) -> None:
        self.model = model
        self.verdict = ScaleVerdict.ENOUGH
        self.since = now
        self.slots = self.asleep_slots = 0
        self.load = 0.0
        """Slots taken on nodes that can serve it, and what waits for it: a mean over a minute."""
        self.pressure = Pressure(0, 0.0, 0.0)
        self.seen_at = now
        self._waiting = self._waiting_s = self._saved_s = 0.0
        self._at = now
        self._peaks: deque[tuple[int, float]] = deque(maxlen=_MINUTES)
        self._first = now
        self._wish: tuple[ScaleVerdict, float] = (ScaleVerdict.ENOUGH, now)
        self._idle_since: float | None = None
        self._told_at = now

    def peak(self) -> float:
        """The highest mean load of a minute within the last quarter of an hour."""
        return max((value for _, value in self._peaks), default=self.load)

    def is_known(self, now: float) -> bool:
        """Whether it was watched for as long as peaks are kept."""
        return now - self._first >= _MINUTES * _MINUTE_S

    def observe(self, nodes: Iterable[Node], pressure: Pressure, now: float) -> None:
        """Takes one look; `nodes` can serve the model."""
        awake = asleep = busy = 0
        smallest = math.inf
        for node in nodes:
            if node.is_asleep:
                asleep += node.slots
            elif node.state is NodeState.UP:
                awake += node.slots
                busy += min(node.slots, len(node.attempts))
                smallest = min(smallest, max(1, node.slots))
        self.slots, self.asleep_slots, self.pressure = awake, asleep, pressure
        passed_s = max(0.0, now - self._at)
        self._at = now
        self.load += _share(passed_s, _LOAD_S) * (busy + pressure.waiting - self.load)
        cost = _share(passed_s, _COST_S)
        self._waiting += _share(passed_s, _LOAD_S) * (pressure.waiting - self._waiting)
        self._waiting_s += cost * (pressure.waiting_s - self._waiting_s)
        self._saved_s += cost * (pressure.saved_s - self._saved_s)
        self._note_peak(now)
        is_idle = smallest < awake and self.spare(now) >= smallest
        self._idle_since = (self._idle_since or now) if is_idle else None

    def spare(self, now: float) -> int:  # noqa: ARG002 of all that was observed until now
        """Slots that were free even in the busiest minute."""
        return max(0, math.floor(self.slots - max(self.peak(), self.load) + 0.01))

    def judge(self, now: float) -> ScaleEvent | None:
        """The verdict's change, if it changes; and now and then, what stands."""
        wanted = self._wanted(now)
        if wanted is not self._wish[0]:
            self._wish = (wanted, now)
        stands_s = now - self._wish[1]
        needed_s = _FEW_STANDS_S if wanted is ScaleVerdict.TOO_FEW else _EASED_STANDS_S
        if wanted is not self.verdict and (stands_s >= needed_s or wanted is ScaleVerdict.TOO_MANY):
            previous, self.verdict, self.since = self.verdict, wanted, now
            self._told_at = now
            return ScaleEvent(scale=self.view(now), previous=previous)
        if self.verdict is not ScaleVerdict.ENOUGH and now - self._told_at >= _REPEAT_S:
            self._told_at = now
            return ScaleEvent(scale=self.view(now), previous=self.verdict)
        return None

    def _wanted(self, now: float) -> ScaleVerdict:
        ease = _EASED if self.verdict is ScaleVerdict.TOO_FEW else 1.0
        if self._waiting >= ease * _FEW_WAIT and self._saved_s >= ease * _FEW_SAVED_S:
            return ScaleVerdict.TOO_FEW
        has_idled = self._idle_since is not None and now - self._idle_since >= _MINUTES * _MINUTE_S
        is_many = self.verdict is ScaleVerdict.TOO_MANY and self._idle_since is not None
        return ScaleVerdict.TOO_MANY if has_idled or is_many else ScaleVerdict.ENOUGH

    def view(self, now: float) -> ScaleView:
        """What is told of it."""
        idle_s = now - self._idle_since if self._idle_since is not None else 0.0
        return ScaleView(
            model=self.model,
            verdict=self.verdict,
            slots=self.slots,
            asleep_slots=self.asleep_slots,
            busy_slots=round(self.load, 2),
            waiting=self.pressure.waiting,
            waiting_s=round(self._waiting_s, 1),
            saved_s=round(self._saved_s, 1),
            spare_slots=self.spare(now),
            idle_s=round(idle_s, 1),
            for_s=round(max(0.0, now - self.since), 1),
            reason=self._reason(idle_s, now),
        )

    def _reason(self, idle_s: float, now: float) -> str:
        match self.verdict:
            case ScaleVerdict.TOO_FEW:
                return (
                    f"{self._waiting:.1f} requests wait, {self._waiting_s:.0f} s together; "
                    f"one more slot would save {self._saved_s:.0f} s"
                )
            case ScaleVerdict.TOO_MANY:
                return f"{self.spare(now)} of {self.slots} slots idle since {idle_s / 60:.0f} min, peaks included"
            case ScaleVerdict.ENOUGH:
                return ""

    def _note_peak(self, now: float) -> None:
        minute = int(now // _MINUTE_S)
        while self._peaks and self._peaks[0][0] <= minute - _MINUTES:
            self._peaks.popleft()
        if self._peaks and self._peaks[-1][0] == minute:
            self._peaks[-1] = (minute, max(self._peaks[-1][1], self.load))
        else:
            self._peaks.append((minute, self.load))


class Scale:
    """All models that were asked for lately. Bounded."""

    def __init__(self, fleet: Fleet, queue: Queue, demand: Demand) -> None:
        self._fleet = fleet
        self._queue = queue
        self._demand = demand
        self.models: dict[str, ModelScale] = {}

    def look(self, planner: Planner, verdicts: Verdicts, now: float) -> list[ScaleEvent]:
        """Takes one look, once a second; returns verdicts that changed, and those to be told again."""
        lines: dict[str, list[Line]] = {}
        for line in self._queue.lines():
            lines.setdefault(line.first.model, []).append(line)
        wanted = self._wanted(lines, now)
        told: list[ScaleEvent] = []
        for model in list(self.models):
            if model not in wanted:
                told += self._forget(model, now)
        for model in wanted:
            scale = self.models.get(model)
            if scale is None:
                scale = self.models[model] = ModelScale(model, now)
            scale.observe(
                self.able(model), _sum(_pressure(x, planner, verdicts, now) for x in lines.get(model, ())), now
            )
            event = scale.judge(now)
            if event is not None:
                told.append(event)
        return told

    def able(self, model: str) -> list[Node]:
        """The nodes that have a model and are there, or sleep."""
        return [n for n in self._fleet.nodes.values() if model in n.installed and (n.is_asleep or _is_there(n))]

    def _forget(self, model: str, now: float) -> list[ScaleEvent]:
        """Nobody asks for the model any more: whatever was said of it is over."""
        gone = self.models.pop(model)
        if gone.verdict is ScaleVerdict.ENOUGH:
            return []
        previous, gone.verdict, gone.since = gone.verdict, ScaleVerdict.ENOUGH, now
        return [ScaleEvent(scale=gone.view(now), previous=previous)]

    def _wanted(self, lines: Iterable[str], now: float) -> list[str]:
        asked = sorted((at, model) for model, _, at in self._demand.rates() if now - at <= _ASKED_WITHIN_S)
        return list(dict.fromkeys([*sorted(lines), *(model for _, model in reversed(asked))]))[:_MODELS_MAX]


def _is_there(node: Node) -> bool:
    return node.state in (NodeState.UP, NodeState.SUSPECT)


def _pressure(line: Line, planner: Planner, verdicts: Verdicts, now: float) -> Pressure:
    """What a line waits for the nodes that are awake, and what one more slot would save."""
    first: Waiting = line.first
    awake = [n for n in verdicts.of(first, now).nodes if not n.is_asleep]
    count = len(line) + line.behind
    work_s = line.work_s / len(line)
    prospects = list(planner.prospects(first, awake, now))
    if not prospects or count <= 0:
        return Pressure(round(count), 0.0, 0.0)
    start_s = max(0.0, min(start for start, _ in prospects) - now)
    parallel = max(1e-6, sum(share for _, share in prospects))
    slots = max(1, sum(node.slots for node in awake))
    steps = count * max(0.0, count - 1.0) / 2.0
    waiting_s = count * start_s + steps * work_s / parallel
    saved_s = count * start_s + steps * work_s / parallel / (slots + 1)
    return Pressure(round(count), waiting_s, saved_s)


def _sum(parts: Iterable[Pressure]) -> Pressure:
    waiting, waiting_s, saved_s = 0, 0.0, 0.0
    for part in parts:
        waiting, waiting_s, saved_s = waiting + part.waiting, waiting_s + part.waiting_s, saved_s + part.saved_s
    return Pressure(waiting, waiting_s, saved_s)


def _share(passed_s: float, over_s: float) -> float:
    return 1.0 - math.exp(-passed_s / over_s)
