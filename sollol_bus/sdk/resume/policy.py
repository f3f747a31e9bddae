"""Whether an answer that broke off goes on, with what, and when. Pure.

What ends an answer through a fault of node, engine or bus may be mended; a fault of the request, of what the model made
or of its reader may not. The node at fault is excluded; where nobody else may go on, it is asked for once more without
exclusions, and then for some seconds whether somebody is back.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec.structs import replace

from sollol_bus.sdk.resume.interface import Said
from sollol_schemas.continuation import ContinueFrom, CutReason
from sollol_schemas.errors import ErrorBody, ErrorCode, Owner
from sollol_schemas.units import BusId

RESUMES_MAX: Final = 8
"""So often one answer goes on."""
PATIENCE_S: Final = 15.0
"""So long nobody may be there who goes on."""
_AGAIN_S: Final = 0.5
_BACK_MAX_S: Final = 4.0
"""So long an engine that fails before it says anything is left alone at most; it may be starting."""
_EXCLUDED_MAX: Final = 64
_LEFT_MIN_S: Final = 0.05
_MENDED: Final = frozenset(
    {
        ErrorCode.NODE_LOST,
        ErrorCode.ENGINE_UNAVAILABLE,
        ErrorCode.ENGINE_FAILED,
        ErrorCode.ENGINE_PROTOCOL,
        ErrorCode.STALLED,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.ACTOR_STOPPED,
        ErrorCode.DRAINING,
        ErrorCode.MOVED,
    }
)
_ENGINES: Final = frozenset(
    {ErrorCode.ENGINE_UNAVAILABLE, ErrorCode.ENGINE_FAILED, ErrorCode.ENGINE_PROTOCOL, ErrorCode.ATTEMPTS_EXHAUSTED}
)
"""What failed, after all nodes were asked that may go on."""
_BREAKING: Final = frozenset(
    {ErrorCode.ENGINE_FAILED, ErrorCode.ENGINE_PROTOCOL, ErrorCode.STALLED, ErrorCode.LOAD_FAILED}
)
_MANY, _STUBBORN = 3, 5
"""Nodes that one rest may break in turn, and how often it is sent where there are fewer of them."""
_NOBODY: Final = frozenset({ErrorCode.NO_ELIGIBLE_NODE, ErrorCode.NO_NODES, ErrorCode.UNKNOWN_MODEL})
_UNHEARD: Final = frozenset({ErrorCode.NO_ELIGIBLE_NODE, ErrorCode.NO_NODES, ErrorCode.ATTEMPTS_EXHAUSTED})
"""What a dispatcher says that has not heard of an answer's beginning: the node that began slept, and was given up."""
_LATER: Final = frozenset({*_NOBODY, ErrorCode.QUEUE_FULL, ErrorCode.BUSY, ErrorCode.DRAINING})
_OTHERWISE: Final = frozenset({CutReason.PRIORITY.value, CutReason.REBALANCE.value})
"""Why a node may stop an answer that is to do better elsewhere, and may do no worse where it was."""


class Broken(NamedTuple):
    """An answer that broke off."""

    error: ErrorBody
    said: Said
    is_own: bool = False
    """Whether the caller's own connection, or the way to it, broke."""
    node_id: BusId = ""
    """Where it was made; empty: nobody said."""
    fingerprint: str = ""
    """Of the attempt that began it."""
    model: str = ""
    """The model that began it, where the request named a group."""
    left_s: float = 0.0
    """Until the deadline."""


class GiveUp(NamedTuple):
    """The answer does not go on."""

    reason: str
    """In a sentence without a full stop; empty: it is nothing that could be mended."""


class Again(NamedTuple):
    """The request is sent again."""

    continued: ContinueFrom
    after_s: float = 0.0


def may_be_mended(error: ErrorBody) -> bool:
    """Whether what ended an answer in its middle is a fault of node, engine or bus."""
    return error.code in _MENDED and error.owner not in (Owner.REQUEST, Owner.OUTPUT)


def _is_unheard(error: ErrorBody) -> bool:
    """Whether it ends an answer that had begun unheard by its dispatcher."""
    return error.code in _UNHEARD and error.blamed not in (Owner.REQUEST, Owner.OUTPUT)


def judged(broken: Broken, before: ContinueFrom) -> Again | GiveUp:
    """What becomes of an answer that broke off.

    Args:
        broken: The answer.
        before: With what it was sent last; `resumed` 0 where it broke off for the first time.
    """
    error, said = broken.error, broken.said
    if not may_be_mended(error) and not _is_unheard(error):
        return GiveUp("")
    if said.refusal:
        return GiveUp(said.refusal)
    if before.resumed >= RESUMES_MAX:
        return GiveUp(f"it went on {before.resumed} times already")
    if broken.left_s < _LEFT_MIN_S:
        return GiveUp("its deadline is over")
    if not said.is_blank and not broken.fingerprint:
        return GiveUp("the engine that began it is not known to go on with an answer elsewhere")
    return Again(
        ContinueFrom(
            text=said.text,
            thinking=said.thinking,
            pieces=said.pieces,
            fingerprint=broken.fingerprint,
            model=broken.model,
            excluded=_with_fault(before.excluded, broken),
            node_id=broken.node_id if broken.is_own else "",
            resumed=before.resumed + 1,
            cuts=before.cuts + (error.code is ErrorCode.MOVED),
        )
    )


def refused(error: ErrorBody, sent: ContinueFrom, since_s: float, left_s: float) -> Again | GiveUp:
    """What becomes of a request that was to go on, of which nothing has come but an error.

    Args:
        error: The error.
        sent: With what it was sent.
        since_s: Seconds since it was sent again first, after what broke its answer off.
        left_s: Seconds until its deadline.
    """
    if error.code in _NOBODY and sent.excluded:
        return Again(replace(sent, excluded=()))
    is_worth_waiting = error.code in _LATER and error.details.get("is_settled") is not True
    if is_worth_waiting and since_s < PATIENCE_S and left_s > _AGAIN_S:
        return Again(replace(sent, excluded=()), _AGAIN_S)
    if error.details.get("last_code") in _BREAKING and _has_broken_many(error, sent):
        return GiveUp("its rest failed on every node that was asked, which may be the request's fault")
    if error.code is ErrorCode.ATTEMPTS_EXHAUSTED or may_be_mended(error):
        return _once_more(error, sent, since_s, left_s)
    return GiveUp(reason_of(error))


def _once_more(error: ErrorBody, sent: ContinueFrom, since_s: float, left_s: float) -> Again | GiveUp:
    """What becomes of a request that was to go on, and failed where it was to."""
    after_s = min(max(_AGAIN_S, since_s), _BACK_MAX_S) if error.code in _ENGINES else 0.0
    if sent.resumed >= RESUMES_MAX:
        return GiveUp(f"it went on {sent.resumed} times already")
    if left_s <= max(_LEFT_MIN_S, after_s):
        return GiveUp("nobody went on with it before its deadline")
    return Again(replace(sent, resumed=sent.resumed + 1), after_s)


def _has_broken_many(error: ErrorBody, sent: ContinueFrom) -> bool:
    """Whether so many engines broke on one rest that it is what breaks them."""
    nodes = error.details.get("nodes")
    return sent.resumed >= _STUBBORN or (isinstance(nodes, list) and len(nodes) >= _MANY)


def reason_of(error: ErrorBody) -> str:
    """Why a request that was to go on was refused, in our own words."""
    if error.code is ErrorCode.NOT_CONTINUED:
        return error.message
    return error.own_words or error.code.value


def _with_fault(excluded: tuple[BusId, ...], broken: Broken) -> tuple[BusId, ...]:
    """The nodes excluded, with the one at fault."""
    if not broken.node_id or broken.is_own or broken.node_id in excluded or not _is_nodes(broken.error):
        return excluded
    return (*excluded, broken.node_id)[-_EXCLUDED_MAX:]


def _is_nodes(error: ErrorBody) -> bool:
    """Whether the node had better not go on."""
    if error.code is ErrorCode.MOVED:
        return error.details.get("reason") not in _OTHERWISE
    return not (error.code is ErrorCode.ACTOR_STOPPED and "gone_within_s" in error.details)  # a dispatcher's word
