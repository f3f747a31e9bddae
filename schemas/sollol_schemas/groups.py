"""Groups of models: a name that a request may bear in place of a model's, so that the scorer picks model and node.

What operators set is kept in the settings bucket; the scorer in office tells what it learnt of each group's models.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sollol_schemas.events import BreakerState
from sollol_schemas.units import Bytes, Count, Ratio, Seconds

AUTO: Final = "auto"
"""The group that nobody has to set: every model of the fleet that can do the request."""
GROUPS_MAX: Final = 64
MEMBERS_MAX: Final = 32

ModelName = Annotated[str, Meta(min_length=1, max_length=256, description="Name of a model, or of a group.")]

MemberWeight = Annotated[float, Meta(gt=0, le=100, description="Operator's factor on a model's share; 1 is neutral.")]


class GroupStrategy(StrEnum):
    """How a group picks among those of its models that can do a request."""

    COST = "cost"  # least expected seconds until a good answer, weights counted
    ROUND_ROBIN = "round_robin"  # each in turn, as often as its weight says
    LEAST_LOADED = "least_loaded"  # fewest requests that run or wait, for its weight
    RANDOM = "random"  # by chance, weights counted
    PERFORMANCE = "performance"  # most good answers a second
    AFFINITY = "affinity"  # what was best at requests of this category
    HYBRID = "hybrid"  # affinity, performance and load together
    CHEAP_FIRST = "cheap_first"  # the smallest; whoever asked goes on to a larger one when a check fails


class GroupMember(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of a group."""

    model: ModelName
    weight: MemberWeight = 1.0
    """Above 1 it is preferred, below 1 it is avoided."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model on trial beside the others of a group."""

    model: ModelName
    share: Annotated[float, Meta(gt=0, le=0.9, description="Share of the group's requests that it gets.")]


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name for several models."""

    name: ModelName
    members: Annotated[tuple[GroupMember, ...], Meta(max_length=MEMBERS_MAX)] = ()
    """Empty for `auto` alone: every model that can do the request."""
    strategy: GroupStrategy = GroupStrategy.COST
    patience_s: Annotated[
        float, Meta(ge=0, le=86_400, description="What a bad answer costs its reader, in seconds.")
    ] = 30.0
    """Beside the time that the answer took."""
    candidate: Candidate | None = None


class Groups(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every group that operators set, as it is kept."""

    groups: Annotated[tuple[Group, ...], Meta(max_length=GROUPS_MAX)] = ()


class GroupsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the groups, with what was learnt of their models."""

    name: str = ""
    """Empty: every group."""


class SetGroup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="group.set.v1"):
    """Make a group, or replace the one of this name."""

    group: Group


class RemoveGroup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="group.remove.v1"):
    """Remove a group; what was learnt of its models stays."""

    name: ModelName


class ForgetQuality(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="group.forget.v1"):
    """Forget what feedback taught of models."""

    name: str = ""
    """The group whose models are meant; empty with an empty `model`: every model."""
    model: str = ""
    """One model."""


class CloseModelBreaker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="group.breaker.v1"):
    """Close the circuit breaker of a model by force, on every node too."""

    model: ModelName


GroupChange = SetGroup | RemoveGroup | ForgetQuality | CloseModelBreaker


class QualityView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is expected of a model's answers."""

    mean: Ratio
    """Expected share of good answers."""
    spread: Ratio = 0.0
    """Standard deviation of what is believed of it."""
    feedback: Annotated[float, Meta(ge=0, description="Feedback behind it; older feedback counts less.")] = 0.0


class MemberView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of a group, with what was learnt of it."""

    model: ModelName
    weight: MemberWeight = 1.0
    share: Ratio = 0.0
    """Of a candidate on trial: its share of the group's requests."""
    nodes: Count = 0
    """How many nodes have it."""
    size_bytes: Bytes = 0
    answers: Count = 0
    """Requests that this scorer gave to it for the group."""
    quality: QualityView = QualityView(mean=0.5)
    categories: dict[str, QualityView] = {}
    """By category, those of which there is feedback."""
    breaker: BreakerState = BreakerState.CLOSED
    failures: Count = 0
    """Consecutive failures, on whatever nodes."""
    opens_for_s: Seconds = 0.0
    """Until trials begin, for an open breaker."""


class TrialVerdict(StrEnum):
    """What the trial of a candidate has shown so far."""

    UNDECIDED = "undecided"
    BETTER = "better"  # than the others of its group
    WORSE = "worse"


class TrialView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The trial of a candidate; it may be looked at any time, with at most one false alarm in twenty trials."""

    model: ModelName
    verdict: TrialVerdict = TrialVerdict.UNDECIDED
    candidate_feedback: Count = 0
    others_feedback: Count = 0
    difference: Annotated[float, Meta(ge=-1, le=1, description="Mean score of the candidate less the others'.")] = 0.0
    evidence: Annotated[float, Meta(ge=0, le=1e12, description="Wealth of the bets against `no difference`.")] = 1.0
    """20 and more is a verdict."""


class GroupView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A group with what was learnt."""

    group: Group
    is_built_in: bool = False
    """Whether nobody set it."""
    members: tuple[MemberView, ...] = ()
    """Its models, the candidate on trial among them; of `auto` those of the fleet. The smallest first."""
    trial: TrialView | None = None


class GroupsReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="groups.v1"):
    """Groups by name."""

    groups: tuple[GroupView, ...]
