"""Whether an answer is given, or asked for anew of the next model of its group. Pure.

A group that begins with its smallest model has answers checked against the form that the request itself asks for; a
check that was asked for by name counts in every group. The decision of an answer says how many models of the group are
left; the request is sent again under its id, with its age, and names the models that were tried. The last answer is
given as it is, and marked.
"""

from __future__ import annotations

from sollol_schemas.decision import Decision
from sollol_schemas.escalation import Tried
from sollol_schemas.execution import Figures
from sollol_schemas.groups import MEMBERS_MAX

_WHY_MAX = 200


class Escalation:
    """The answers to one request, one after the other.

    Args:
        is_explicit: Whether the check was asked for by name, and not by the form that the engine was to give.
        avoided: Models that the request itself wants to avoid.
    """

    def __init__(self, *, is_explicit: bool, avoided: tuple[str, ...] = ()) -> None:
        self._is_explicit = is_explicit
        self._avoided = avoided
        self.tried: tuple[Tried, ...] = ()
        """Models whose answers were not given, in order."""
        self.failure = ""
        """Why the answer that is given fails the check too; empty: it passes, or was not checked."""

    def is_for(self, decision: Decision | None) -> bool:
        """Whether an answer is checked."""
        return self._is_explicit or (decision is not None and decision.is_cheap_first)

    def may_hold(self, decision: Decision | None) -> bool:
        """Whether an answer that fails would be asked for anew, so that nothing of it may be shown before."""
        return self.is_for(decision) and self.has_next(decision)

    def has_next(self, decision: Decision | None) -> bool:
        """Whether another model could be asked."""
        return decision is not None and decision.alternatives > 0 and len(self.tried) < MEMBERS_MAX - 1

    def note(self, decision: Decision, figures: Figures | None, why: str) -> None:
        """An answer failed and another model is asked."""
        took = figures or Figures()
        self.tried += (
            Tried(
                model=decision.model,
                why=why[:_WHY_MAX],
                prompt_tokens=took.prompt_tokens or 0,
                output_tokens=took.output_tokens or 0,
                actual_s=took.actual_s,
            ),
        )

    def settle(self, why: str) -> None:
        """The answer that is given fails the check too."""
        self.failure = why[:_WHY_MAX]

    def give_last(self, why: str) -> None:
        """The next model brought no answer at all: the one before is given after all, though it failed."""
        *before, last = self.tried
        self.tried = tuple(before)
        self.settle(f"{last.why}; the next model: {why}")

    @property
    def avoid_models(self) -> tuple[str, ...]:
        """The models that are not to be asked (again)."""
        return (*self._avoided, *(tried.model for tried in self.tried))
