"""Groups of models as the dashboard shows them: rows out of what the scorer tells."""

from __future__ import annotations

import msgspec

from sollol_schemas.groups import GroupsReply, GroupView, MemberView, TrialVerdict

_MEMBERS_SHOWN = 12


class MemberRow(msgspec.Struct, frozen=True):
    """One model of a group."""

    model: str
    nodes: int
    quality: float | None
    """Expected share of good answers; None: nobody rated one."""
    feedback: float
    answers: int
    share: float
    """Of a candidate on trial: its share of the requests; else 0."""
    breaker: str


class GroupRow(msgspec.Struct, frozen=True):
    """One group."""

    name: str
    strategy: str
    is_built_in: bool
    members: tuple[MemberRow, ...]
    more: int
    """Models that are not shown."""
    verdict: str
    """What a trial has shown so far; empty: there is none."""


def group_rows(reply: GroupsReply) -> tuple[GroupRow, ...]:
    """The groups, in the order in which they were told."""
    return tuple(_row(view) for view in reply.groups)


def _row(view: GroupView) -> GroupRow:
    return GroupRow(
        name=view.group.name,
        strategy=view.group.strategy.value,
        is_built_in=view.is_built_in,
        members=tuple(_member(member) for member in view.members[:_MEMBERS_SHOWN]),
        more=max(0, len(view.members) - _MEMBERS_SHOWN),
        verdict=_verdict(view),
    )


def _member(member: MemberView) -> MemberRow:
    quality = member.quality
    return MemberRow(
        model=member.model,
        nodes=member.nodes,
        quality=round(quality.mean, 3) if quality.feedback else None,
        feedback=round(quality.feedback),
        answers=member.answers,
        share=member.share,
        breaker=member.breaker.value,
    )


def _verdict(view: GroupView) -> str:
    trial = view.trial
    if trial is None:
        return ""
    rated = f"{trial.candidate_feedback} and {trial.others_feedback} rated"
    match trial.verdict:
        case TrialVerdict.UNDECIDED:
            return f"{trial.model} on trial: not decided yet ({rated})"
        case TrialVerdict.BETTER | TrialVerdict.WORSE:
            return f"{trial.model} on trial: {trial.verdict.value} than the others, {trial.difference:+.2f} ({rated})"
