"""Why a request gets no slot, in words and figures that its caller can act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from sollol_agents.scorer.choice.abilities import lacking, who_would_refuse, words_of
from sollol_agents.scorer.choice.eligibility import EligibilityClass
from sollol_agents.scorer.choice.groups import Binding
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.nodes import Node
from sollol_schemas.decision import Rejection
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.nearest import did_you_mean
from sollol_schemas.node_names import ambiguous, as_said
from sollol_schemas.refused import grouped
from sollol_schemas.telemetry import Telemetry

_MODELS_LISTED = 50
_NODES_LISTED = 50
_MODELS_TOLD = 8


class Refusal(NamedTuple):
    """Why a request gets no slot, and when asking again may help; 0: not known."""

    error: ErrorBody
    retry_after_s: float = 0.0


def no_place(
    waiting: Waiting,
    verdict: EligibilityClass,
    nodes: Iterable[Node],
    since: Mapping[str, str] | None = None,
    groups: Sequence[str] = (),
    *,
    is_settled: bool = False,
) -> ErrorBody:
    """Why no node is eligible: none has joined, none has the model, or each has its reason.

    `since` says of nodes what changes with time: in how many seconds they are tried again, or for how long they are
    gone. `groups` are names of groups, which could have been asked for as well. `is_settled` says that no node is
    expected which could change that; patient callers ask no more then.
    """
    nodes = list(nodes)
    if not nodes:
        return ErrorBody(code=ErrorCode.NO_NODES, message="no node has joined")
    if verdict.is_ambiguous:
        return ambiguous_node(waiting.wanted, verdict.wanted, [n.telemetry for n in nodes])
    routing = waiting.request.routing
    is_only = routing.node_id is not None and routing.strict and not routing.soft
    if is_only and not verdict.wanted:
        return unknown_node(waiting.wanted, [n.node_id for n in nodes])
    only = verdict.wanted if is_only else ()
    known = sorted({m.name for n in nodes for m in n.installed.values()})
    if not any(waiting.model in n.installed for n in nodes):
        return ErrorBody(
            code=ErrorCode.UNKNOWN_MODEL,
            message=f"model '{waiting.request.context.model}' not found",
            details={
                "model": waiting.request.context.model,
                "models": known[:_MODELS_LISTED],
                "groups": list(groups),
                "is_settled": is_settled,
            },
        )
    unable = _unable(waiting, verdict, nodes)
    if unable is not None:
        return unable
    rejections = sorted((_timed(r, since or {}) for r in verdict.rejections), key=lambda r: r.node_id not in only)
    reasons = {
        r.node_id: f"{r.reason.value}: {r.detail}" if r.detail else r.reason.value for r in rejections[:_NODES_LISTED]
    }
    return ErrorBody(
        code=ErrorCode.NO_ELIGIBLE_NODE,
        message=f"no node can serve '{waiting.request.context.model}': {_summary(rejections, only)}",
        details={"model": waiting.request.context.model, "nodes": reasons, "is_settled": is_settled},
    )


def no_model(bound: Binding, *, is_settled: bool) -> ErrorBody:
    """Why no model of the group that a request named can serve it."""
    name, fallen = bound.group.name, bound.fallen
    reasons = {model.name: model.why for model in fallen}
    details: dict[str, object] = {"model": name, "group": name, "reasons": reasons, "is_settled": is_settled}
    if all(model.is_missing for model in fallen):
        models = ", ".join(reasons) or "any that does such work"
        message = f"no node has a model of group '{name}': {models}"
        return ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message=message, details=details)
    lacks = {model.lacks for model in fallen if not model.is_missing}
    if None not in lacks:
        message = f"no model of group '{name}' can do this: {_each(reasons)}"
        return ErrorBody(code=ErrorCode.ENGINE_REJECTED, message=message, status=400, details=details)
    message = f"no model of group '{name}' can serve this: {_each(reasons)}"
    return ErrorBody(code=ErrorCode.NO_ELIGIBLE_NODE, message=message, details=details)


def _each(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{model}: {why}" for model, why in list(reasons.items())[:_MODELS_TOLD])


def _unable(waiting: Waiting, verdict: EligibilityClass, nodes: Iterable[Node]) -> ErrorBody | None:
    """The client's mistake, in an engine's words, when every node that has the model says that it cannot do this."""
    context = waiting.request.context
    reasons = {r.node_id: r for r in verdict.rejections}
    unable = who_would_refuse(waiting.model, context, ((n, reasons.get(n.node_id)) for n in nodes))
    models = ((n.installed[waiting.model], n.telemetry.engine.kind) for n in unable)
    ability = next((ability for m, kind in models if (ability := lacking(m, kind, context)) is not None), None)
    if ability is None:
        return None
    status, message = words_of(ability, context)
    details = {"model": context.model, "lacks": ability.value}
    return ErrorBody(code=ErrorCode.ENGINE_REJECTED, message=message, status=status, details=details)


def unknown_node(node_id: str, known: Iterable[str]) -> ErrorBody:
    """Nobody is known by this id: perhaps it is written wrongly."""
    ids, said = sorted(known), as_said(node_id)
    return ErrorBody(
        code=ErrorCode.UNKNOWN_NODE,
        message=f"no node is known as {said!r}{did_you_mean(said, ids) or _known(ids)}",
        details={"node": said, "known": ids[:_NODES_LISTED]},
    )


def ambiguous_node(name: str, found: Sequence[str], nodes: Iterable[Telemetry]) -> ErrorBody:
    """Several nodes are called so."""
    message = ambiguous(name, found[:_NODES_LISTED], nodes)
    return ErrorBody(
        code=ErrorCode.BAD_REQUEST,
        message=message,
        details={"node": as_said(name), "candidates": list(found[:_NODES_LISTED])},
    )


def _known(ids: Sequence[str]) -> str:
    return f"; known are {', '.join(ids[:_NODES_LISTED]) or 'none'}"


def _timed(rejection: Rejection, since: Mapping[str, str]) -> Rejection:
    """The rejection with what time has made of it; the verdict may have been given a while ago."""
    detail = since.get(rejection.node_id)
    return rejection if detail is None else msgspec.structs.replace(rejection, detail=detail)


def _summary(rejections: Sequence[Rejection], only: Sequence[str]) -> str:
    """The nodes grouped by their reasons; of those that were insisted on, theirs alone."""
    own = [r for r in rejections if r.node_id in only]
    return grouped(own or rejections)


def queue_full(waiting: Waiting, limit: int) -> ErrorBody:
    """The priority's level of the queue takes no more."""
    return ErrorBody(
        code=ErrorCode.QUEUE_FULL,
        message=f"{limit} requests of priority {waiting.priority} are waiting already",
        details={"priority": waiting.priority, "limit": limit},
    )


def unreachable(wait_s: float, deadline_s: float) -> ErrorBody:
    """The predicted wait is longer than the deadline allows."""
    return ErrorBody(
        code=ErrorCode.DEADLINE_UNREACHABLE,
        message=f"the predicted wait of {wait_s:.1f} s exceeds the deadline of {deadline_s:.1f} s",
        details={"predicted_wait_s": round(wait_s, 3), "deadline_s": deadline_s},
    )


def expired(waiting: Waiting, now: float) -> ErrorBody:
    """The deadline passed while the request waited."""
    return ErrorBody(
        code=ErrorCode.DEADLINE_EXCEEDED,
        message=f"the deadline passed after {now - waiting.enqueued_at:.1f} s in the queue",
    )


def unprovable(floor: float, ceiling: float) -> ErrorBody:
    """The reliability floor is higher than any node can ever prove."""
    return ErrorBody(
        code=ErrorCode.BAD_REQUEST,
        message=f"min_success_rate {floor:g} can never be proven; the highest provable bound is {ceiling:.3f}",
        details={"field": "min_success_rate", "value": floor, "maximum": round(ceiling, 3)},
    )
