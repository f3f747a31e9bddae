"""Groups as they are told, and why one cannot be set. Pure."""

from __future__ import annotations

from sollol_agents.requests.names import canonical, is_valid
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.knowledge.quality import Quality
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.groups import (
    AUTO,
    GROUPS_MAX,
    Group,
    GroupMember,
    Groups,
    GroupsReply,
    GroupView,
    MemberView,
    QualityView,
)
from sollol_schemas.nearest import did_you_mean

_TOLD_OF_AUTO = 64
_DIGITS = 4


def groups_reply(core: SchedulerCore, now: float, name: str = "") -> GroupsReply | ErrorBody:
    """Every group, or the one of this name, with what was learnt; an error says that there is none."""
    if not name:
        return GroupsReply(groups=tuple(_view(core, group, now) for group in core.binder.book.all()))
    group = core.binder.book.named(name)
    return unknown(core, name) if group is None else GroupsReply(groups=(_view(core, group, now),))


def unknown(core: SchedulerCore, name: str) -> ErrorBody:
    """That no group has this name, and which there are."""
    known = core.binder.book.names()
    hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
    return ErrorBody(
        code=ErrorCode.UNKNOWN_MODEL, message=f"no group is called {name!r}{hint}", details={"groups": known}
    )


def with_group(kept: Groups, group: Group, core: SchedulerCore) -> Groups | ErrorBody:
    """What is kept once a group is set; an error says why it cannot be."""
    if any(canonical(group.name) in node.installed for node in core.fleet.nodes.values()):
        message = f"{group.name!r} is the name of a model that a node has; choose another name for the group"
        return ErrorBody(code=ErrorCode.CONFLICT, message=message)
    why = _fault(group) or _conflict(group, kept)
    if why:
        return ErrorBody(code=ErrorCode.BAD_REQUEST, message=why)
    others = [known for known in kept.groups if canonical(known.name) != canonical(group.name)]
    if len(others) >= GROUPS_MAX:
        message = f"there are {GROUPS_MAX} groups already; remove one first"
        return ErrorBody(code=ErrorCode.BAD_REQUEST, message=message)
    return Groups(groups=tuple(sorted([*others, group], key=lambda known: known.name)))


def without_group(kept: Groups, name: str) -> Groups | None:
    """What is kept once a group is removed; None when nobody set it."""
    left = tuple(group for group in kept.groups if canonical(group.name) != canonical(name))
    return None if len(left) == len(kept.groups) else Groups(groups=left)


def _fault(group: Group) -> str:
    models = [member.model for member in group.members]
    candidate = [group.candidate.model] if group.candidate is not None else []
    wrong = next((name for name in (group.name, *models, *candidate) if not is_valid(name)), None)
    if wrong is not None:
        return f"{wrong!r} is no name of a model; use letters, digits, '.', '_', '-', one '/' and one ':'"
    if not models and canonical(group.name) != canonical(AUTO):
        return f"group {group.name!r} has no models; name at least one"
    keys = [canonical(model) for model in models]
    twice = next((model for model in models if keys.count(canonical(model)) > 1), None)
    if twice is not None:
        return f"model {twice!r} stands twice in group {group.name!r}"
    if candidate and keys and set(keys) <= {canonical(candidate[0])}:
        return f"group {group.name!r} has no model beside the candidate {candidate[0]!r} that it could be compared with"
    return ""


def _conflict(group: Group, kept: Groups) -> str:
    """Whether a group would contain a group."""
    own = canonical(group.name)
    names = {canonical(known.name): known.name for known in kept.groups} | {own: group.name, canonical(AUTO): AUTO}
    members = [*(member.model for member in group.members), *([group.candidate.model] if group.candidate else [])]
    inner = next((model for model in members if canonical(model) in names), None)
    if inner is not None:
        return f"{inner!r} is a group; a group has models alone"
    outer = next((k.name for k in kept.groups if own in {canonical(member.model) for member in k.members}), None)
    return f"group {outer!r} has a model called {group.name!r}" if outer is not None else ""


def _view(core: SchedulerCore, group: Group, now: float) -> GroupView:
    members = group.members or _fleets(core)
    share = {}
    if group.candidate is not None:
        share[canonical(group.candidate.model)] = group.candidate.share
        if canonical(group.candidate.model) not in {canonical(member.model) for member in members}:
            members = (*members, GroupMember(model=group.candidate.model))
    trial = core.trials.of(group.name, canonical(group.candidate.model)) if group.candidate is not None else None
    views = [_member(core, group, member, share.get(canonical(member.model), 0.0), now) for member in members]
    return GroupView(
        group=group,
        is_built_in=core.binder.book.is_built_in(group),
        members=tuple(sorted(views, key=lambda view: (view.size_bytes, view.model))),
        trial=trial.view() if trial is not None else None,
    )


def _fleets(core: SchedulerCore) -> tuple[GroupMember, ...]:
    names: dict[str, str] = {}
    for node in core.fleet.nodes.values():
        for key, model in node.installed.items():
            names.setdefault(key, model.name)
    return tuple(GroupMember(model=name) for name in sorted(names.values())[:_TOLD_OF_AUTO])


def _member(core: SchedulerCore, group: Group, member: GroupMember, share: float, now: float) -> MemberView:
    model = canonical(member.model)
    holders = [node for node in core.fleet.nodes.values() if model in node.installed]
    qualities, breakers = core.qualities, core.binder.breakers
    return MemberView(
        model=member.model,
        weight=member.weight,
        share=share,
        nodes=len(holders),
        size_bytes=max((node.installed[model].size_bytes for node in holders), default=0),
        answers=core.binder.granted(group, model),
        quality=_quality(qualities.expected(model)),
        categories={name: _quality(qualities.expected(model, name)) for name in qualities.categories(model)},
        breaker=breakers.state(model, now),
        failures=breakers.failures(model),
        opens_for_s=round(breakers.opens_in_s(model, now), 3),
    )


def _quality(known: Quality) -> QualityView:
    return QualityView(
        mean=round(known.mean, _DIGITS), spread=round(known.spread, _DIGITS), feedback=round(known.answers, 2)
    )
