"""The fleet as the scorer sees it: who owns a node id, who is up, and which attempts occupy which slots.

Safety: a slot is counted as taken from the grant until the node's outcome, or until the node's own list of
attempts stops naming it; reconciliation is by attempt id, never by counters. Liveness: a grant that no node
took expires, and what a node runs without our grant is adopted. Callers must tolerate that for one heartbeat
a slot may seem taken that is free; never the reverse, unless a node starts work that nobody granted.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Iterable

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.attempts import Attempt, Tombstones
from sollol_agents.scorer.fleet.bounded_telemetry import bounded, bounded_loaded
from sollol_agents.scorer.fleet.memory import Memory, learned_of_node
from sollol_agents.scorer.fleet.nodes import Node, Versions
from sollol_agents.scorer.fleet.sleeping import fall_asleep, is_kept_for_long, look_at, take_back
from sollol_agents.scorer.knowledge.breaker import BreakerRules, Breakers
from sollol_agents.scorer.knowledge.clamp import clamped
from sollol_agents.scorer.knowledge.priors import weight_bytes
from sollol_agents.scorer.knowledge.sleeper import Sleeper
from sollol_schemas.events import ASLEEP, LEFT, NodeEvent
from sollol_schemas.ids import request_id_of
from sollol_schemas.scaling import SleepEvent
from sollol_schemas.steering import Intent
from sollol_schemas.telemetry import InFlight, LoadUpdate, Movable, NodeState, Telemetry

log = logging.getLogger(__name__)

_DEPARTED_MAX = 4096
_NODES_MAX = 2048
_SLOTS_MAX = 256  # a node that claims more slots is taken to have these
_FORGET_AFTER_S = 300.0
_GRANT_EXPIRES_S = 2.0  # a grant that no node accepted within this time is void


class FleetChange:
    """What a message or the passing of time changed."""

    __slots__ = ("events", "expired", "has_room", "lost", "vanished")

    def __init__(self, *, has_room: bool = False) -> None:
        self.events: list[NodeEvent | SleepEvent] = []
        self.lost: list[Attempt] = []
        """Attempts of a process that is gone, which nobody has reported yet."""
        self.vanished: list[Attempt] = []
        """Attempts that the node no longer lists: they ended, their outcome was or will be told."""
        self.expired: list[Attempt] = []
        """Grants that no node took."""
        self.has_room = has_room
        """Whether a request that waits might start now."""


class Fleet:
    """All nodes, and the index of attempts."""

    def __init__(self, config: ScorerConfig, *, patient_until: float = 0.0) -> None:
        self._config = config
        self.breaker_rules = BreakerRules(
            failures=config.failures_to_open,
            open_s=config.breaker_open_s,
            trials=config.breaker_trials,
            successes=config.successes_to_close,
        )
        self.nodes: dict[str, Node] = {}
        self._node_of: dict[str, Node] = {}
        self._ended = Tombstones()
        self._departed: OrderedDict[str, Attempt] = OrderedDict()
        self._left: OrderedDict[str, str] = OrderedDict()
        """Node ids of instances that said goodbye: their earlier heartbeats may come after it."""
        self._versions = Versions()
        self.intents: dict[str, Intent] = {}
        """What operators want of nodes, those that are not here included."""
        self.memory = Memory()
        """Nodes that are not here, and what a former process knew."""
        self.frozen_until = 0.0
        """Until then silence is our own deafness: nobody becomes suspect or down."""
        self.patient_until = patient_until
        """Until then nodes may still show themselves: nobody is refused for lack of one."""
        self.least_rank = float("inf")
        """No answer that may be cut came with a lower rank; some of those that came with it may have ended since."""

    @property
    def shape_version(self) -> int:
        """Changes whenever a node joins, leaves, or may have become eligible or ineligible for something."""
        return self._versions.shape

    def reshaped_since(self, version: int) -> set[str] | None:
        """The nodes whose shape changed after a version; None when that is too long ago to tell."""
        count = self._versions.shape - version
        latest = self._versions.reshaped
        return set(itertools.islice(reversed(latest), count)) if count <= len(latest) else None

    @property
    def in_flight(self) -> int:
        """Attempts granted or running."""
        return len(self._node_of)

    def attempt(self, attempt_id: str) -> Attempt | None:
        """An attempt that occupies a slot, or None."""
        node = self._node_of.get(attempt_id)
        return node.attempts.get(attempt_id) if node is not None else None

    def departed(self, attempt_id: str) -> Attempt | None:
        """An attempt that left its slot a while ago without an outcome, which may still come."""
        return self._departed.pop(attempt_id, None)

    def node_of(self, attempt_id: str) -> Node | None:
        """The node whose slot an attempt occupies, or None."""
        return self._node_of.get(attempt_id)

    def on_telemetry(self, telemetry: Telemetry, now: float) -> FleetChange:
        """Takes a full heartbeat; one of a process that does not own the id, or an old one, changes nothing."""
        change = FleetChange()
        if telemetry.instance in self._left:
            return change
        node = self.nodes.get(telemetry.node_id)
        telemetry = bounded(telemetry, node.telemetry if node is not None else None)
        is_new = node is None
        if node is None:
            node = self._join(telemetry, now, change)
            if node is None:
                return change
        elif not self._is_current(node, telemetry, now, change):
            return change
        before = (node.shape_version, node.load_version)
        if telemetry.engine.is_reachable and not node.telemetry.engine.is_reachable:
            node.breakers.try_soon(now)
        node.seq = telemetry.seq
        node.is_kept_out = self.intents.get(node.node_id, Intent()).is_draining
        node.tell(telemetry, _SLOTS_MAX)
        change.events += take_back(node, now)
        if is_new:
            self.memory.teach(node)
        node.is_failing = node.is_failing and not telemetry.engine.is_reachable
        self._hear(node, telemetry.in_flight, now, change)
        node.report_load(telemetry, loaded=telemetry.loaded, max_slots=_SLOTS_MAX)
        self._judge(node, now, change)
        change.has_room = change.has_room or before != (node.shape_version, node.load_version)
        return change

    def adopt_intents(self, intents: dict[str, Intent]) -> None:
        """Takes over what operators want of nodes."""
        self.intents = intents
        for node in self.nodes.values():
            self._keep_out(node)

    def _keep_out(self, node: Node) -> None:
        """Keeps a node out of service, or lets it in again, as operators want it."""
        is_kept_out = self.intents.get(node.node_id, Intent()).is_draining
        if is_kept_out != node.is_kept_out:
            node.is_kept_out = is_kept_out
            node.report_load(node.telemetry, loaded=None, max_slots=_SLOTS_MAX)

    def know_sleeper(self, told: Telemetry, wake_s: float, now: float, age_s: float) -> None:
        """Takes up a node that went to sleep `age_s` ago, unless something was heard of it since."""
        node = None if told.node_id in self.nodes else self._join(bounded(told), now, FleetChange())
        if node is not None:
            node.tell(node.telemetry, _SLOTS_MAX)
            node.seen_at -= age_s
            node.sleeper = Sleeper(now, wake_s)
            fall_asleep(node, now)

    def on_load(self, update: LoadUpdate, now: float) -> FleetChange:
        """Takes a load message of a known process; any other is ignored until its heartbeat comes."""
        change = FleetChange()
        node = self.nodes.get(update.node_id)
        if node is None or node.instance != update.instance or update.seq <= node.seq:
            return change
        node.seq = update.seq
        self._hear(node, update.in_flight, now, change)
        loaded = None if update.loaded is None else tuple(bounded_loaded(m) for m in update.loaded)
        node.report_load(update, loaded=loaded, max_slots=_SLOTS_MAX)
        self._judge(node, now, change)
        if update.is_asleep:
            change.events += fall_asleep(node, now)
        if update.has_left:
            self._left[update.instance] = node.node_id
            if len(self._left) > _DEPARTED_MAX:
                self._left.popitem(last=False)
        self._judge(node, now, change)
        change.has_room = True
        return change

    def has_left(self, node: Node) -> bool:
        """Whether the node's process said goodbye: it is down by intent."""
        return node.instance in self._left

    def take(self, node: Node, attempt: Attempt) -> None:
        """Puts an attempt into a slot of `node`, whoever granted it."""
        node.take(attempt)
        self.least_rank = min(self.least_rank, attempt.arrival_rank) if attempt.is_resumable else self.least_rank
        self._node_of[attempt.attempt_id] = node

    def release(self, attempt_id: str, now: float, *, is_final: bool = False, is_loaded: bool = True) -> Attempt | None:
        """Frees the slot of an attempt, wherever it is counted; None when it holds none.

        Args:
            attempt_id: Whose slot.
            now: The current instant.
            is_final: The node itself reported the end; a late message cannot bring the attempt back.
            is_loaded: Whether a load that the attempt caused came to its end.
        """
        if is_final:
            self._ended.add(attempt_id, now)
        node = self._node_of.pop(attempt_id, None)
        return node.release(attempt_id, is_loaded=is_loaded) if node is not None else None

    def fail(self, node_id: str, now: float) -> FleetChange:
        """An attempt on this node just failed: its slot is free, and the node suspect until its next heartbeat."""
        change = FleetChange(has_room=True)
        node = self.nodes.get(node_id)
        if node is not None:
            node.is_failing = True
            self._judge(node, now, change)
        return change

    def tick(self, now: float) -> FleetChange:
        """Applies what the passing of time changes: silence, expired grants, forgotten nodes."""
        change = FleetChange()
        for node in list(self.nodes.values()):
            change.events += look_at(node, now)
            self._judge(node, now, change)
            self._expire(node, now, change)
            is_old = now - node.seen_at > _FORGET_AFTER_S and not is_kept_for_long(node, now)
            if is_old and now >= self.frozen_until:
                self._forget(node, now, change)
        return change

    def settle(self, until: float) -> None:
        """Our own connection was away: until then nobody is judged by silence, and nobody refused for it."""
        self.frozen_until = max(self.frozen_until, until)
        self.patient_until = max(self.patient_until, until)

    def holders(self, model: str) -> int:
        """How many nodes have the model in memory or are loading it."""
        return sum(1 for n in self.nodes.values() if n.resident(model) is not None)

    def note_busy(self, node_ids: Iterable[str]) -> None:
        """These nodes answered `busy`: they are full until their next message."""
        for node_id in node_ids:
            node = self.nodes.get(node_id)
            if node is not None:
                node.is_full = True

    def _join(self, telemetry: Telemetry, now: float, change: FleetChange) -> Node | None:
        if len(self.nodes) >= _NODES_MAX:
            log.warning(
                "node %s ignored: %d nodes are the limit",
                telemetry.node_id,
                len(self.nodes),
                extra={"action": "node_ignored"},
            )
            return None
        node = self.nodes[telemetry.node_id] = Node(telemetry, now, self._versions)
        node.breakers = Breakers(self.breaker_rules)
        node.state = NodeState.DOWN
        self.memory.recall(node, telemetry, now)
        node.reshape()
        change.has_room = True
        return node

    def _is_current(self, node: Node, telemetry: Telemetry, now: float, change: FleetChange) -> bool:
        """Whether the heartbeat comes from the process that owns the id; lets a new owner take over."""
        if telemetry.instance == node.instance:
            return telemetry.seq > node.seq
        is_silent = now - node.seen_at > self._config.down_after_s
        if telemetry.revision <= node.revision and not is_silent and not self.has_left(node):
            return False
        for attempt in node.restart(telemetry, now):
            self._node_of.pop(attempt.attempt_id, None)
            change.lost.append(attempt)
        node.breakers = Breakers(self.breaker_rules)
        return True

    def _hear(self, node: Node, in_flight: Iterable[InFlight], now: float, change: FleetChange) -> None:
        node.seen_at = now
        gone, unknown = node.reconcile(tuple(in_flight), now)
        for attempt in gone:
            self._node_of.pop(attempt.attempt_id, None)
            node.release(attempt.attempt_id, is_loaded=True)
            self._departed[attempt.attempt_id] = attempt
            if len(self._departed) > _DEPARTED_MAX:
                self._departed.popitem(last=False)
            change.vanished.append(attempt)
            change.has_room = True
        for seen in unknown:
            if seen.attempt_id not in self._ended and seen.attempt_id not in self._node_of:
                self.take(node, self._adopted(node, seen, now))

    @staticmethod
    def _adopted(node: Node, seen: InFlight, now: float) -> Attempt:
        """An attempt that somebody else granted, with what the node tells about it."""
        model = canonical(seen.model)
        attempt = Attempt(
            attempt_id=seen.attempt_id,
            request_id=request_id_of(seen.attempt_id),
            node_id=node.node_id,
            instance=node.instance,
            model=model,
            wire_model=seen.model,
            granted_at=now - clamped(seen.elapsed_s, 0.0, 86_400.0),
        )
        size = _size_of(node, model)
        attempt.prompt_tokens = max(0, min(seen.forecast.prompt_tokens, 10_000_000))
        attempt.prefill_s = attempt.prompt_tokens / node.speeds.prompt_tps(model, size)
        attempt.output_median = clamped(seen.forecast.output_tokens, 0.0, 1e6)
        if attempt.output_median > 0:
            attempt.decode_tps = node.speeds.decode_tps(model, size)
        attempt.load_s = node.speeds.load_s(model, size) if seen.is_loading else 0.0
        attempt.predicted_s = clamped(seen.forecast.total_s, 0.0, 86_400.0)
        if seen.movable is not None:
            _make_movable(attempt, seen.movable, node, now)
        attempt.observe(seen, now)
        if seen.is_loading and node.resident(model) is None:
            node.residents.begin_load(model, size, loader=seen.attempt_id, ready_at=now + attempt.load_s, evicts=())
        return attempt

    def _expire(self, node: Node, now: float, change: FleetChange) -> None:
        limit = now - _GRANT_EXPIRES_S
        for attempt in [a for a in node.attempts.values() if not a.is_confirmed and a.granted_at <= limit]:
            self.release(attempt.attempt_id, now, is_loaded=False)
            change.expired.append(attempt)
            change.has_room = True

    def _judge(self, node: Node, now: float, change: FleetChange) -> None:
        state = self._state(node, now)
        if state is node.state:
            return
        event = NodeEvent(
            node_id=node.node_id,
            state=state,
            previous=node.state,
            instance=node.instance,
            reason=_reason(node, state, now, has_left=self.has_left(node)),
        )
        if node.state is NodeState.DOWN:
            node.joined_at = now
        node.state = state
        node.reshape()
        change.events.append(event)
        change.has_room = True

    def _state(self, node: Node, now: float) -> NodeState:
        if (self.has_left(node) or node.is_asleep) and not node.attempts:
            return NodeState.DOWN
        silent_s = now - node.seen_at
        if now < self.frozen_until and node.state is not NodeState.DOWN:
            silent_s = 0.0
        if silent_s > self._config.down_after_s:
            return NodeState.DOWN
        if silent_s > self._config.suspect_after_s:
            return NodeState.SUSPECT
        if node.is_draining:
            return NodeState.DRAINING
        return NodeState.SUSPECT if node.is_failing else NodeState.UP

    def _forget(self, node: Node, now: float, change: FleetChange) -> None:
        del self.nodes[node.node_id]
        learned = learned_of_node(node, now)
        if learned is not None:
            self.memory.keep(node.node_id, learned, now)
        node.reshape()
        for attempt in list(node.attempts.values()):
            self.release(attempt.attempt_id, now, is_loaded=False)
            change.lost.append(attempt)


def _make_movable(attempt: Attempt, told: Movable, node: Node, now: float) -> None:
    """Notes what is needed to move an attempt that another scorer granted."""
    installed = node.installed.get(attempt.model)
    attempt.is_resumable = True
    attempt.priority, attempt.arrival_rank = told.priority, float(told.priority)
    attempt.fingerprint = installed.fingerprint if installed is not None else ""
    attempt.cuts, attempt.deadline_at = told.cuts, now + clamped(told.deadline_s, 0.0, 1e9)


def _size_of(node: Node, model: str) -> float:
    return weight_bytes(node.installed.get(model))


def _reason(node: Node, state: NodeState, now: float, *, has_left: bool) -> str:
    match state:
        case NodeState.UP if not node.telemetry.engine.is_reachable:
            return "its engine does not answer"
        case NodeState.UP:
            return "heartbeats arrive"
        case NodeState.DRAINING:
            return "takes no new work"
        case NodeState.DOWN if has_left or node.is_asleep:
            return ASLEEP if node.is_asleep else LEFT
        case NodeState.SUSPECT if node.is_failing:
            return "an attempt failed"
        case _:
            return f"silent for {now - node.seen_at:.1f} s"
