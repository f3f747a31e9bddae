"""Why this node and no other, in one line: what the choice is better than, and by how much. Pure.

The scorer says it once, in the decision's `reason`; headers, logs, `sollol why`, `top` and the dashboard show that.
It is ASCII, because a header is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sollol_schemas.decision import CandidateCost, Rejection, RejectionReason

_EQUAL_S: Final = 0.005
"""Costs that differ by less are equal to a person."""
_CAUSE_FROM_S: Final = 0.1
"""A smaller difference needs no cause."""
_CAUSE_SHARE: Final = 0.6
"""A term explains a difference of which it makes up so much."""
_NOTABLE_S: Final = 1.0
"""A load or a wait that is worth a word of its own."""
_ONLY_FOR: Final = 2
_CAUSES: Final = {
    "wake_s": "sleeps",
    "prefill_s": "reads slower",
    "decode_s": "writes slower",
    "slowdown_s": "runs others beside it",
    "evict_s": "would push out a model",
    "prefix_evict_s": "would push out a prompt that it knows",
    "risk_s": "fails more often",
    "preference_s": "is preferred less",
    "rtt_s": "is farther away",
}
_WITH: Final[dict[RejectionReason, str]] = {
    RejectionReason.MODEL_MISSING: "with the model",
    RejectionReason.CANNOT_CONTINUE: "that can go on with the answer",
    RejectionReason.WRONG_LABELS: "with the labels asked for",
    RejectionReason.TOO_LITTLE_VRAM: "with enough video memory free",
    RejectionReason.DOES_NOT_FIT: "with enough memory",
    RejectionReason.WRONG_CAPABILITY: "whose model can do this",
    RejectionReason.CONTEXT_TOO_SMALL: "with room for the prompt",
    RejectionReason.NOT_RELIABLE_ENOUGH: "proven so reliable",
    RejectionReason.NOT_CPU: "without a GPU",
    RejectionReason.NO_SLOTS: "with a slot for the model",
    RejectionReason.EXCLUDED: "that has not failed this request",
    RejectionReason.BREAKER_OPEN: "that has not failed lately",
    RejectionReason.ENGINE_UNREACHABLE: "whose engine answers",
    RejectionReason.DRAINING: "that is not draining",
    RejectionReason.SUSPECT: "without doubts",
    RejectionReason.ASLEEP: "that is awake",
    RejectionReason.DOWN: "that is up",
}
"""What the others lack, the most telling first."""


def contrast(
    chosen: CandidateCost,
    others: Iterable[CandidateCost],
    rejections: Sequence[Rejection] = (),
    *,
    eligible: int = 1,
    min_vram_gib: float | None = None,
    where: str | None = None,
) -> str:
    """Why `chosen` and none of the others.

    Args:
        chosen: The candidate that was taken, with its terms.
        others: The other candidates, in any order.
        rejections: Nodes that were none, with the reason.
        eligible: How many nodes might have been taken: the costs of some are not worked out.
        min_vram_gib: The video memory that was asked for.
        where: The labels that were asked for.
    """
    wanted = _wanted(min_vram_gib, where) if rejections else {}
    rivals = [c for c in others if c.node_id != chosen.node_id]
    rivals.sort(key=lambda c: c.total_s)
    if chosen.is_busy:
        return _waiting(chosen, rivals, rejections, eligible, wanted)
    if not rivals:
        if eligible > 1:
            return f"clearly before {eligible - 1} {'other' if eligible == 2 else 'others'}"
        return _only(rejections, wanted)
    best = rivals[0]
    equal = [c for c in rivals if not c.is_busy and abs(c.total_s - chosen.total_s) < _EQUAL_S]
    if equal:
        return f"as good as {equal[0].node_id}" + (f" and {len(equal) - 1} more" if len(equal) > 1 else "")
    saved_s = best.total_s - chosen.total_s
    if saved_s < 0:
        return f"free now; {_seconds(best.wait_s)} of waiting for {best.node_id} would save {_seconds(-saved_s)}"
    cause = _cause(chosen, best) if saved_s >= _CAUSE_FROM_S else ""
    first = f"{_seconds(saved_s)} before {best.node_id}" + (f", which {cause}" if cause else "")
    return "; ".join([first, *_also(rivals[1:])])


def _waiting(
    chosen: CandidateCost,
    rivals: Sequence[CandidateCost],
    rejections: Sequence[Rejection],
    eligible: int,
    wanted: Mapping[RejectionReason, str],
) -> str:
    waited_s = chosen.wait_s + chosen.wake_s
    said = f"waits {_seconds(waited_s)} for {chosen.node_id}" + (" to wake" if chosen.wake_s else "")
    if not rivals:
        return said if eligible > 1 else f"{said}, the {_only(rejections, wanted)}"
    best = rivals[0]
    saved_s = best.total_s - chosen.total_s
    if saved_s < _EQUAL_S:
        return f"{said}, as good as {best.node_id}"
    return f"{said}: {best.node_id} would take {_seconds(saved_s)} more"


def _wanted(min_vram_gib: float | None, where: str | None) -> dict[RejectionReason, str]:
    """What was asked for, in its own figures and words."""
    words = {}
    if min_vram_gib is not None:
        words[RejectionReason.TOO_LITTLE_VRAM] = f"with {min_vram_gib:g} GiB free"
    if where is not None:
        words[RejectionReason.WRONG_LABELS] = f"with {where}".encode("ascii", "backslashreplace").decode()
    return words


def _only(rejections: Sequence[Rejection], wanted: Mapping[RejectionReason, str]) -> str:
    reasons = {rejection.reason for rejection in rejections}
    if not reasons:
        return "only node there is"
    if RejectionReason.NOT_CHOSEN_NODE in reasons:
        return "only node that was asked for"
    words = _WITH | dict(wanted)
    return f"only node {', '.join([words[reason] for reason in words if reason in reasons][:_ONLY_FOR])}"


def _cause(chosen: CandidateCost, other: CandidateCost) -> str:
    """What makes the other one dearer, where that is mostly one thing; empty when it is not, or is not told."""
    if not other.has_terms:
        return ""
    enough_s = _CAUSE_SHARE * (other.total_s - chosen.total_s)
    if other.load_s - chosen.load_s >= enough_s:
        return f"would load {_seconds(other.load_s)}"
    if other.wait_s + other.overtaking_s - chosen.wait_s - chosen.overtaking_s >= enough_s:
        return f"is busy for {_seconds(other.wait_s)}"
    more_s = {term: getattr(other, term) - getattr(chosen, term) for term in _CAUSES}
    term = max(more_s, key=more_s.__getitem__)
    if more_s[term] < enough_s:
        return ""
    if term == "prefill_s" and chosen.prefix_hit_tokens > other.prefix_hit_tokens:
        return "has more of the prompt to read"
    return _CAUSES[term]


def _also(rivals: Iterable[CandidateCost]) -> list[str]:
    """The first of the rest that a person may have thought of, and what keeps it back."""
    for other in rivals:
        if other.wake_s:
            return [f"{other.node_id} sleeps"]
        if other.load_s >= _NOTABLE_S and other.load_s >= other.wait_s:
            return [f"{other.node_id} would load {_seconds(other.load_s)}"]
        if other.wait_s >= _NOTABLE_S:
            return [f"{other.node_id} is busy for {_seconds(other.wait_s)}"]
    return []


def _seconds(value: float) -> str:
    """A duration with as many digits as matter."""
    if value < 0.995:
        return f"{value:.2f} s"
    if value < 9.95:
        return f"{value:.1f} s".replace(".0 s", " s")
    return f"{value:.0f} s" if value < 119.5 else f"{value / 60:.0f} min"
