"""The verdict on every node for each class of requests, kept while the fleet keeps its shape."""

from __future__ import annotations

from sollol_agents.scorer.choice.eligibility import EligibilityClass
from sollol_agents.scorer.choice.waiting import ClassKey, Waiting
from sollol_agents.scorer.fleet.fleet import Fleet

_CLASSES_LIMIT = 512

_Kept = tuple[int, EligibilityClass]
"""The version of the fleet that was judged, and the verdict."""


class Verdicts:
    """The verdict on every node for each class of requests, as long as the fleet keeps its shape. Bounded."""

    def __init__(self, fleet: Fleet, soft_floor: float, here: str = "") -> None:
        self._fleet = fleet
        self._floor = soft_floor
        self._here = here
        self._known: dict[ClassKey, _Kept] = {}

    def of(self, waiting: Waiting, now: float) -> EligibilityClass:
        """The verdict for requests like this one, up to date."""
        version, judged = self._fleet.shape_version, waiting.judged
        if judged is not None and judged[0] is self._known and judged[1] == version:
            verdict: EligibilityClass = judged[2]
            return verdict
        known = self._known.get(waiting.class_key)
        if known is None or known[0] != version:
            known = self._known[waiting.class_key] = (version, self._judged_anew(waiting, known, now))
        waiting.judged = (self._known, *known)
        return known[1]

    def _judged_anew(self, waiting: Waiting, known: _Kept | None, now: float) -> EligibilityClass:
        verdict = known[1] if known is not None else EligibilityClass(waiting, self._floor, self._here)
        reshaped = self._fleet.reshaped_since(known[0]) if known is not None else None
        if reshaped is None or not verdict.stands(reshaped, self._fleet.nodes, now):
            verdict.refresh(self._fleet.nodes.values(), now)
        return verdict

    def is_blocked(self, waiting: Waiting) -> bool:
        """Whether no node was eligible for requests like this one when it was judged last."""
        known = self._known.get(waiting.class_key)
        return known is not None and not known[1].nodes

    def trim(self, *, is_stale: bool) -> None:
        """Forgets everything when it speaks of nodes that are gone, or is much; callers choose what they ask for."""
        if is_stale or len(self._known) > _CLASSES_LIMIT:
            self._known = {}
