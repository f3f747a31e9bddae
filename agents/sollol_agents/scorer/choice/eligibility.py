"""Which nodes may serve a request, and why each other one may not.

Filtering happens once per eligibility class and node, and again only for nodes whose shape changed. Reasons
are of two kinds: physical ones (down, model missing, does not fit) that nothing overrides, and constraints of
the caller (labels, memory, reliability, chosen node, CPU) that `soft: true` lifts when no node satisfies them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sollol_agents.scorer.choice import continuing
from sollol_agents.scorer.choice.abilities import can_refuse, lacking, who_would_refuse
from sollol_agents.scorer.choice.contexts import room_tokens, with_room
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.fleet.residency import SAFETY_BYTES, need_bytes
from sollol_agents.scorer.knowledge.sleeper import Phase, Sleeper
from sollol_schemas.decision import Rejection, RejectionReason
from sollol_schemas.label_terms import unmet
from sollol_schemas.node_names import are_one_machine, as_said, bearers
from sollol_schemas.routing import RoutingMode
from sollol_schemas.telemetry import InstalledModel, NodeState

Reason = RejectionReason

PLACE = frozenset({Reason.WRONG_LABELS, Reason.NOT_CHOSEN_NODE})
"""Reasons that say it all of a node that the caller does not want, unless `soft` may lift them."""
CONSTRAINTS = PLACE | {Reason.TOO_LITTLE_VRAM, Reason.NOT_RELIABLE_ENOUGH, Reason.NOT_CPU}
"""Reasons that the caller asked for; `soft` lifts them."""
TRANSIENT = frozenset(
    {
        Reason.DOWN,
        Reason.SUSPECT,
        Reason.ENGINE_UNREACHABLE,
        Reason.BREAKER_OPEN,
        Reason.DRAINING,
        Reason.ASLEEP,
    }
)
"""Reasons that may pass by themselves; patient work waits for it."""

_GIB = 1024.0**3
_LABEL_SHOWN = 40
_DETAIL_MAX = 160

_Standing = tuple[NodeState, bool, bool, bool]
"""A node's state, whether it sleeps, whether it is late in waking, and whether it drains."""
_Known = tuple[Node, int, Rejection | None, _Standing]
"""A node as it was judged: its shape and how it stood at that time, and why it may not serve."""


class EligibilityClass:
    """The verdict on every node for one kind of request."""

    __slots__ = (
        "_floor",
        "_here",
        "_pattern",
        "_verdicts",
        "fallback",
        "is_ambiguous",
        "is_stopgap",
        "is_transient",
        "model",
        "nodes",
        "rejections",
        "wanted",
    )

    def __init__(self, pattern: Waiting, soft_floor: float, here: str = "") -> None:
        self._pattern = pattern
        self._floor = soft_floor
        self._here = here
        self.wanted: tuple[str, ...] = ()
        """Ids of the nodes that bear the name of the wanted one: several for a host with several engines."""
        self.is_ambiguous = False
        """Whether the name of the wanted node means several machines."""
        self._verdicts: dict[str, _Known] = {}
        self.model = pattern.model
        self.nodes: tuple[Node, ...] = ()
        """Eligible nodes."""
        self.rejections: tuple[Rejection, ...] = ()
        self.fallback = ""
        """What was relaxed to find a node; empty when nothing was."""
        self.is_stopgap = False
        """Whether the eligible nodes lack what the others lack too."""
        self.is_transient = False
        """Whether no node is eligible now, but one that is away may become so by itself."""

    def refresh(self, nodes: Iterable[Node], now: float) -> None:
        """Judges every node again whose shape changed, and settles who is eligible."""
        nodes = list(nodes)
        self.wanted = who_bears(self._pattern.wanted, nodes, self._here) if self._pattern.wanted else ()
        self.is_ambiguous = len(self.wanted) > 1 and not are_one_machine(self.wanted, [n.telemetry for n in nodes])
        judged: list[tuple[Node, Rejection | None]] = []
        verdicts = self._verdicts
        fresh: dict[str, _Known] = {}
        for node in nodes:
            known = verdicts.get(node.node_id)
            if known is None or known[0] is not node or known[1] != node.shape_version:
                known = (node, node.shape_version, self._judge(node, now), _standing(node))
            fresh[node.node_id] = known
            judged.append((node, known[2]))
        self._verdicts = fresh
        self._settle(judged)

    def stands(self, reshaped: Iterable[str], nodes: Mapping[str, Node], now: float) -> bool:
        """Whether the verdict is the same although the shape of these nodes changed: each is judged as before.

        What relaxes constraints or compares nodes looks at more than that; such a verdict never stands.
        """
        is_plain = not self._pattern.needs_tokens and self._pattern.mode is not RoutingMode.RELIABLE
        is_by_id = self.wanted in ((), (self._pattern.wanted,))
        if not (is_plain and is_by_id) or not self.nodes or self.fallback:
            return False
        for node_id in reshaped:
            node, known = nodes.get(node_id), self._verdicts.get(node_id)
            if node is None or known is None or known[0] is not node:
                return False
            fresh = (node, node.shape_version, self._judge(node, now), _standing(node))
            if fresh[2:] != known[2:]:
                return False
            self._verdicts[node_id] = fresh
        return True

    def _judge(self, node: Node, now: float) -> Rejection | None:
        return judge(node, self._pattern, now, self.wanted)

    def _settle(self, judged: Sequence[tuple[Node, Rejection | None]]) -> None:
        routing = self._pattern.request.routing
        self.fallback, self.is_stopgap = "", False
        nodes = [n for n, r in judged if r is None]
        rejections = [r for _, r in judged if r is not None]
        if not nodes and routing.soft:
            nodes = [n for n, r in judged if r is not None and r.reason in CONSTRAINTS]
            if nodes:
                self.is_stopgap = True
                self.fallback = "no node satisfies the constraints; taken because the request is soft"
        asleep = [n for n in nodes if n.is_asleep]
        nodes = [n for n in nodes if not n.is_asleep] or asleep
        nodes = _prefer_open(nodes, asleep, rejections)
        nodes = _prefer_up(nodes or self._who_says_no(judged), rejections)
        nodes = self._prefer_room(nodes, rejections)
        nodes = self._prefer_chosen(nodes, rejections)
        nodes = self._prefer_reliable(nodes, rejections)
        if nodes and not nodes[0].is_asleep:
            nodes += [n for n in asleep if self._is_worth_waking(n)]
        if nodes:
            names = {n.node_id for n in nodes}
            rejections = [r for r in rejections if r.node_id not in names]
        self.nodes, self.rejections = tuple(nodes), tuple(rejections)
        self.is_transient = not nodes and any(
            r is not None and r.reason in TRANSIENT and _may_have(n, self.model) for n, r in judged
        )

    def _who_says_no(self, judged: Sequence[tuple[Node, Rejection | None]]) -> list[Node]:
        """Nodes whose engine tells at once why it cannot do what no node can do."""
        context = self._pattern.request.context
        unable = who_would_refuse(self.model, context, judged)
        nodes = [node for node in unable if can_refuse(node, self.model, context)]
        if nodes:
            self.is_stopgap = True
            self.fallback = "no node can do this; the engine says so in its own words"
        return nodes

    def _is_worth_waking(self, node: Node) -> bool:
        """Whether a node that sleeps suits the request as well as one that is awake."""
        context, routing = self._pattern.request.context, self._pattern.request.routing
        if node.sleeper is None or node.sleeper.is_late or not self._is_wanted(node):
            return False
        needs = self._pattern.needs_tokens
        if needs and 0 < room_tokens(node, self.model, context) < needs[0]:
            return False
        is_soft = routing.routing_mode is RoutingMode.RELIABLE and routing.min_success_rate is None
        return not is_soft or node.record.bound >= self._floor

    def _is_wanted(self, node: Node) -> bool:
        return self._pattern.request.routing.node_id is None or node.node_id in self.wanted

    def _prefer_room(self, nodes: list[Node], rejections: list[Rejection]) -> list[Node]:
        """Nodes where the prompt fits, or else those with most room for it: its length is an estimate."""
        needs, context = self._pattern.needs_tokens, self._pattern.request.context
        if not needs or not nodes:
            return nodes
        rooms = with_room(nodes, self.model, context, needs)
        for node in nodes:
            if node.node_id not in rooms:
                detail = f"{room_tokens(node, self.model, context)} tokens of context, up to {needs[0]} asked for"
                rejections.append(Rejection(node_id=node.node_id, reason=Reason.CONTEXT_TOO_SMALL, detail=detail))
        return [node for node in nodes if node.node_id in rooms]

    def _prefer_chosen(self, nodes: list[Node], rejections: list[Rejection]) -> list[Node]:
        wanted = self._pattern.request.routing.node_id
        if wanted is None or not nodes:
            return nodes
        chosen = [n for n in nodes if n.node_id in self.wanted]
        if not chosen:
            why = next((r.reason.value for r in rejections if r.node_id in self.wanted), "asleep or not known")
            self.fallback = self.fallback or f"the wanted node {as_said(wanted)} is not available ({why})"
            return nodes
        rejections += [
            Rejection(node_id=n.node_id, reason=Reason.NOT_CHOSEN_NODE, detail=f"{as_said(wanted)} was asked for")
            for n in nodes
            if n not in chosen
        ]
        return chosen

    def _prefer_reliable(self, nodes: list[Node], rejections: list[Rejection]) -> list[Node]:
        """RELIABLE without an explicit floor: nodes above the soft floor, or else the best proven one."""
        routing = self._pattern.request.routing
        if routing.routing_mode is not RoutingMode.RELIABLE or routing.min_success_rate is not None or not nodes:
            return nodes
        proven = [n for n in nodes if n.record.bound >= self._floor]
        if not proven:
            best = max(n.record.bound for n in nodes)
            proven = [n for n in nodes if n.record.bound >= best - 1e-9]
            self.fallback = self.fallback or f"no node has proven {self._floor:.2f} yet; best bound {best:.2f}"
        kept = {n.node_id for n in proven}
        rejections += [_unreliable(n, self._floor) for n in nodes if n.node_id not in kept]
        return proven


def _standing(node: Node) -> _Standing:
    is_late = node.sleeper is not None and node.sleeper.is_late
    return node.state, node.is_asleep, is_late, node.is_draining


def _may_have(node: Node, model: str) -> bool:
    """Whether the node has the model, as far as it has told: before it has seen its engine it tells of none."""
    return model in node.installed or not node.installed


def _prefer_open(nodes: list[Node], asleep: list[Node], rejections: list[Rejection]) -> list[Node]:
    """Nodes that drain go on with an answer only while no other can, one that sleeps included."""
    draining = [n for n in nodes if n.is_draining]
    others = [n for n in nodes if not n.is_draining] or asleep
    if not draining or not others:
        return nodes
    rejections += [_reject(n, Reason.DRAINING) for n in draining]
    return others


def _prefer_up(nodes: list[Node], rejections: list[Rejection]) -> list[Node]:
    """Suspect nodes serve only while no other can: silence is doubt, not death."""
    up = [n for n in nodes if n.state is not NodeState.SUSPECT]
    if not up or len(up) == len(nodes):
        return nodes
    rejections += [Rejection(node_id=n.node_id, reason=Reason.SUSPECT) for n in nodes if n.state is NodeState.SUSPECT]
    return up


def who_bears(name: str, nodes: Collection[Node], here: str) -> tuple[str, ...]:
    """Ids of the nodes that are called so; one that is down only where no other is."""
    up = [node.telemetry for node in nodes if node.state is not NodeState.DOWN]
    return bearers(name, up, here=here) or bearers(name, [node.telemetry for node in nodes], here=here)


def judge(node: Node, waiting: Waiting, now: float, wanted: Sequence[str]) -> Rejection | None:
    """The first reason why this node may not serve the request, or None.

    A wish for another node than `wanted`, or for another place, says it all, unless it may be lifted: then what nothing
    lifts must be known first.
    """
    other = _judge_choice(node, waiting, wanted)
    if other is not None and not waiting.request.routing.soft:
        return other
    physical = _judge_node(node, waiting, now) or _judge_model(node, waiting)
    return physical or other or _judge_constraints(node, waiting)


def _reject(node: Node, reason: RejectionReason, detail: str = "") -> Rejection:
    return Rejection(node_id=node.node_id, reason=reason, detail=detail)


def _judge_choice(node: Node, waiting: Waiting, wanted: Sequence[str]) -> Rejection | None:
    routing = waiting.request.routing
    if routing.strict and routing.node_id is not None and node.node_id not in wanted:
        return _reject(node, Reason.NOT_CHOSEN_NODE, f"{as_said(routing.node_id)} was asked for")
    if routing.where is None:
        return None
    labels = node.telemetry.labels
    for term in unmet(routing.where, labels):
        borne = labels.get(term.name)
        has = f"no {term.name}" if borne is None else f"{term.name}={borne[:_LABEL_SHOWN]}"
        return _reject(node, Reason.WRONG_LABELS, f"{has}, asked for {term}"[:_DETAIL_MAX])
    return None


def _judge_node(node: Node, waiting: Waiting, now: float) -> Rejection | None:
    if node.node_id in waiting.excluded:
        return _reject(node, Reason.EXCLUDED, "it failed this request before")
    return _judge_health(node, waiting, now)


def _judge_health(node: Node, waiting: Waiting, now: float) -> Rejection | None:
    if node.sleeper is not None and node.sleeper.phase is not Phase.AWAKE:
        refused = _judge_sleep(node, node.sleeper, now)
        if refused is not None:
            return refused
    elif node.state is NodeState.DOWN:
        return _reject(node, Reason.DOWN)
    if node.is_draining and not (waiting.said_tokens and node.takes_rests):
        return _reject(node, Reason.DRAINING, "it leaves, or finishes only its own" if waiting.said_tokens else "")
    if not node.telemetry.engine.is_reachable:
        return _reject(node, Reason.ENGINE_UNREACHABLE, node.telemetry.engine.detail[:80])
    breaker = node.breakers.refusing(waiting.model, now)
    if breaker is not None:
        return _reject(node, Reason.BREAKER_OPEN, f"tried again in {breaker.opens_in_s(now):.0f} s")
    return None


def _judge_sleep(node: Node, sleeper: Sleeper, now: float) -> Rejection | None:
    """A node that sleeps may be waited for; not so one that just goes, or that did not come when it was woken."""
    if sleeper.phase is Phase.LEAVING:
        return _reject(node, Reason.DRAINING, "it goes to sleep")
    if sleeper.is_candidate(now):
        return None
    return _reject(node, Reason.ASLEEP, f"{sleeper.reason}; woken again in {sleeper.retry_in_s(now):.0f} s")


def _judge_model(node: Node, waiting: Waiting) -> Rejection | None:
    model = node.installed.get(waiting.model)
    if model is None:
        return _reject(node, Reason.MODEL_MISSING)
    unlike = continuing.why_not(model, waiting.request.continuation)
    if unlike:
        return _reject(node, Reason.CANNOT_CONTINUE, unlike)
    ability = lacking(model, node.telemetry.engine.kind, waiting.request.context)
    if ability is not None:
        return _reject(node, Reason.WRONG_CAPABILITY, f"no {ability.value}: {', '.join(model.capabilities)[:80]}")
    if node.model_slots(model) < 1:
        return _reject(node, Reason.NO_SLOTS)
    return _judge_fit(node, waiting, model)


def _judge_fit(node: Node, waiting: Waiting, model: InstalledModel) -> Rejection | None:
    if node.is_router_free or not node.budget.is_known or node.resident(waiting.model) is not None:
        return None
    need = need_bytes(model, node.model_slots(model), waiting.request.context.num_ctx)
    have = node.budget.vram_bytes + node.budget.ram_bytes
    if need <= have or model.size_bytes == 0:
        return None
    detail = f"needs {(need + SAFETY_BYTES) / _GIB:.1f} GiB, has {(have + SAFETY_BYTES) / _GIB:.1f} GiB"
    return _reject(node, Reason.DOES_NOT_FIT, detail)


def _judge_constraints(node: Node, waiting: Waiting) -> Rejection | None:
    routing = waiting.request.routing
    if routing.min_vram_gb:
        free_mib = node.free_vram_mib()
        if free_mib < routing.min_vram_mib:
            told = f"{free_mib / 1024:.1f} GiB free" if node.telemetry.cpu_count or node.has_gpu else "not known"
            return _reject(node, Reason.TOO_LITTLE_VRAM, told)
    if waiting.is_cpu_only and node.has_gpu:
        return _reject(node, Reason.NOT_CPU)
    floor = routing.min_success_rate
    if routing.routing_mode is RoutingMode.RELIABLE and floor is not None and node.record.bound < floor:
        return _unreliable(node, floor)
    return None


def _unreliable(node: Node, floor: float) -> Rejection:
    detail = f"proven {node.record.bound:.3f}, asked for {floor:.3f}"
    return _reject(node, Reason.NOT_RELIABLE_ENOUGH, detail)
