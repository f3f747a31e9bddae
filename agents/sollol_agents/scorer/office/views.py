"""Answers to questions about the fleet: nodes and models, as the scorer in office sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.sleeper import Phase
from sollol_agents.scorer.office.node_called import node_called
from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.messages import decode
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.queries import ModelsReply, ModelView, NodesReply, NodesRequest, NodeView, WaitingShare
from sollol_schemas.telemetry import NodeState

_DIGEST_SHOWN = 12
_KINDS_TOLD = 32
_ALL = NodesRequest()


def nodes_answer(core: SchedulerCore, now: float, scorer: str, body: bytes) -> NodesReply | ErrorBody:
    """The fleet, or the one node that was asked for by whatever it is called; a question may come with any body."""
    try:
        asked = decode(body, NodesRequest) if body else _ALL
    except DecodeFailed as error:
        if b'"node"' in body:
            return ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error))
        asked = _ALL
    if asked.node is None:
        return nodes_reply(core, now, scorer, asked)
    node = node_called(core, asked.node)
    return node if isinstance(node, ErrorBody) else nodes_reply(core, now, scorer, only=node)


def nodes_reply(
    core: SchedulerCore, now: float, scorer: str, asked: NodesRequest = _ALL, *, only: Node | None = None
) -> NodesReply:
    """The fleet with its states, by node id; or without the nodes, or with one of them alone."""
    nodes = [] if asked.is_queue_only else sorted(core.fleet.nodes.values(), key=lambda n: n.node_id)
    nodes = [only] if only is not None else nodes
    return NodesReply(
        nodes=tuple(_node_view(n, now, has_left=core.fleet.has_left(n)) for n in nodes),
        queued=len(core.waiting),
        waiting=_shares(core, now),
        in_flight=core.fleet.in_flight,
        term=core.term,
        scorer=scorer,
        strategy=core.strategy,
    )


def _shares(core: SchedulerCore, now: float) -> tuple[WaitingShare, ...]:
    """What waits, by model, priority and whether it is a job; the most first."""
    kinds: dict[tuple[str, int, bool], list[float]] = {}
    for waiting in core.waiting:
        kind = (waiting.model, waiting.priority, bool(waiting.request.context.job_id))
        kinds.setdefault(kind, []).append(now - waiting.enqueued_at)
    shares = [
        WaitingShare(
            model=model, priority=priority, is_jobs=is_jobs, count=len(ages), oldest_s=round(max(0.0, *ages), 1)
        )
        for (model, priority, is_jobs), ages in kinds.items()
    ]
    return tuple(sorted(shares, key=lambda share: (-share.count, -share.oldest_s, share.model))[:_KINDS_TOLD])


def _node_view(node: Node, now: float, *, has_left: bool) -> NodeView:
    return NodeView(
        node_id=node.node_id,
        state=node.state,
        has_left=has_left and node.state is NodeState.DOWN,
        is_asleep=node.is_asleep and node.state is NodeState.DOWN,
        is_waking=node.sleeper is not None and node.sleeper.phase is Phase.WAKING,
        wake_s=round(max(0.0, node.sleeper.ready_at(now) - now), 1) if node.sleeper and node.is_asleep else 0.0,
        heartbeat_age_s=round(max(0.0, now - node.seen_at), 3),
        telemetry=node.telemetry,
        in_flight=len(node.attempts),
        pace_ratio=round(node.pace.value, 3),
        clock_ahead_s=round(node.clock.ahead_s, 3),
        serialised={node.installed[m].name: n for m, n in node.serialised().items() if m in node.installed},
        success_ratio=min(1.0, round(node.record.expected, 4)),
        attempts=math.ceil(node.record.attempts),
    )


def models_reply(core: SchedulerCore) -> ModelsReply:
    """Every model that some node has, by name, then the groups of them; nodes that left have none."""
    views: dict[str, ModelView] = {}
    holders: dict[str, tuple[list[str], list[str]]] = {}
    variants: dict[str, dict[str, tuple[str, ...]]] = {}
    for node in sorted(core.fleet.nodes.values(), key=lambda n: n.node_id):
        if core.fleet.has_left(node):
            continue
        for key, model in node.installed.items():
            installed, loaded = holders.setdefault(key, ([], []))
            installed.append(node.node_id)
            if model.digest:
                nodes = variants.setdefault(key, {})
                what = f"{model.quantization} {model.digest.removeprefix('sha256:')[:_DIGEST_SHOWN]}".strip()
                nodes[what] = (*nodes.get(what, ()), node.node_id)
            resident = node.resident(key)
            if resident is not None and not resident.is_loading:
                loaded.append(node.node_id)
            views.setdefault(
                key,
                ModelView(
                    name=model.name,
                    size_bytes=model.size_bytes,
                    capabilities=model.capabilities,
                    family=model.family,
                    quantization=model.quantization,
                    context_length=model.context_length,
                ),
            )
    models = {key: _with_holders(views[key], *holders[key], variants.get(key, {})) for key in sorted(views)}
    return ModelsReply(models=(*models.values(), *_groups_among(core, models)))


def _groups_among(core: SchedulerCore, models: Mapping[str, ModelView]) -> Iterator[ModelView]:
    """The groups of which a model is there, as a request may name them."""
    for group in core.binder.book.all():
        if core.binder.book.is_built_in(group) and canonical(group.name) in models:
            continue
        wanted = [member.model for member in group.members]
        wanted += [group.candidate.model] if group.candidate is not None else []
        named = list(dict.fromkeys(map(canonical, wanted))) or list(models)
        members = [models[name] for name in named if name in models]
        if members:
            yield ModelView(
                name=group.name,
                size_bytes=max(member.size_bytes for member in members),
                installed_on=tuple(sorted({node for member in members for node in member.installed_on})),
                loaded_on=tuple(sorted({node for member in members for node in member.loaded_on})),
                capabilities=tuple(dict.fromkeys(one for member in members for one in member.capabilities)),
                context_length=min((m.context_length for m in members if m.context_length), default=0),
                members=tuple(member.name for member in members),
            )


def _with_holders(
    view: ModelView, installed: list[str], loaded: list[str], variants: dict[str, tuple[str, ...]]
) -> ModelView:
    return ModelView(
        name=view.name,
        size_bytes=view.size_bytes,
        installed_on=tuple(installed),
        loaded_on=tuple(loaded),
        capabilities=view.capabilities,
        family=view.family,
        quantization=view.quantization,
        context_length=view.context_length,
        variants=variants if len(variants) > 1 else {},
    )
