"""Nodes that may not serve a request, grouped by the reason, as a person reads it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sollol_schemas.decision import Rejection, RejectionReason

_NAMES: Final = 6
_DETAILED: Final = 3
"""In a larger group the figures of each node are too much to read."""
_WORDS: Final = {
    RejectionReason.EXCLUDED: "failed this request on {}",
    RejectionReason.CANNOT_CONTINUE: "cannot go on with the answer on {}",
    RejectionReason.WRONG_LABELS: "other labels on {}",
    RejectionReason.TOO_LITTLE_VRAM: "too little video memory free on {}",
    RejectionReason.NOT_RELIABLE_ENOUGH: "not proven reliable enough on {}",
    RejectionReason.NOT_CPU: "a GPU on {}",
    RejectionReason.DOES_NOT_FIT: "too small on {}",
    RejectionReason.CONTEXT_TOO_SMALL: "too little context on {}",
    RejectionReason.WRONG_CAPABILITY: "cannot do this on {}",
    RejectionReason.NO_SLOTS: "no slot for it on {}",
    RejectionReason.BREAKER_OPEN: "kept off after failures on {}",
    RejectionReason.ENGINE_UNREACHABLE: "no engine on {}",
    RejectionReason.DRAINING: "draining on {}",
    RejectionReason.SUSPECT: "no recent word from {}",
    RejectionReason.DOWN: "away: {}",
    RejectionReason.ASLEEP: "asleep: {}",
    RejectionReason.NOT_CHOSEN_NODE: "not asked for: {}",
    RejectionReason.MODEL_MISSING: "not installed on {}",
}
"""The most telling first."""


def grouped(rejections: Iterable[Rejection]) -> str:
    """`too small on laptop (needs 21.3 GiB, has 7.8 GiB); not installed on 2: attic, den`; empty for none."""
    groups: dict[RejectionReason, list[Rejection]] = {}
    for rejection in rejections:
        groups.setdefault(rejection.reason, []).append(rejection)
    return "; ".join(words.format(_named(groups[reason])) for reason, words in _WORDS.items() if reason in groups)


def _named(group: Sequence[Rejection]) -> str:
    names = [f"{r.node_id} ({r.detail})" if r.detail and len(group) <= _DETAILED else r.node_id for r in group]
    if len(names) == 1:
        return names[0]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{len(names)}: {', '.join(names[:_NAMES])}{more}"
