"""The groups of models that there are, and how a request that named one is bound to a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sollol_agents.requests.names import canonical
from sollol_schemas.context import Ability
from sollol_schemas.decision import ModelCandidate
from sollol_schemas.grant import GrantRequest
from sollol_schemas.groups import AUTO, Group, Groups

_BUILT_IN = Group(name=AUTO)


class GroupBook:
    """Groups by name; spellings that would mean one model mean one group."""

    def __init__(self) -> None:
        self._by_name: dict[str, Group] = {}
        self.know(Groups())

    def know(self, kept: Groups) -> None:
        """These are all that operators set."""
        self._by_name = {canonical(AUTO): _BUILT_IN} | {canonical(group.name): group for group in kept.groups}

    def named(self, name: str) -> Group | None:
        """The group of this name, or None."""
        return self._by_name.get(canonical(name))

    def all(self) -> list[Group]:
        """Every group, by name."""
        return sorted(self._by_name.values(), key=lambda group: group.name)

    def names(self) -> list[str]:
        """Their names, in order."""
        return [group.name for group in self.all()]

    @staticmethod
    def is_built_in(group: Group) -> bool:
        """Whether nobody set it."""
        return group is _BUILT_IN


class Fallen(NamedTuple):
    """A model of a group that cannot serve a request."""

    name: str
    why: str
    lacks: Ability | None = None
    """What it cannot do, wherever it is."""
    is_missing: bool = False
    """Whether no node has it."""


class Binding:
    """How a request that named a group came to its model."""

    __slots__ = ("asked", "drawn", "fallen", "group", "is_fixed", "looked_at", "models", "reason")

    def __init__(
        self,
        group: Group,
        asked: GrantRequest,
        models: Iterable[ModelCandidate],
        fallen: Iterable[Fallen],
        *,
        reason: str,
        drawn: Mapping[str, float],
        now: float,
        is_fixed: bool = False,
    ) -> None:
        self.group = group
        self.asked = asked
        """The request as its dispatcher asked."""
        self.models = tuple(models)
        """Those that could serve it, the chosen one first."""
        self.fallen = tuple(fallen)
        """Those that could not."""
        self.reason = reason
        self.drawn = drawn
        """Qualities that count for it in place of the expected ones."""
        self.looked_at = now
        """When its models were compared last."""
        self.is_fixed = is_fixed
        """Whether its model began the answer, so that no other may go on with it."""

    def candidates(self) -> tuple[ModelCandidate, ...]:
        """Every model of the group: those that could serve the request, the chosen one first, then the others."""
        return (*self.models, *(ModelCandidate(model=fallen.name, reason=fallen.why) for fallen in self.fallen))
