"""Answers that go on: what is left of one for its next attempt, and on which nodes that may run. Pure.

What was said is read as prompt and not made again, so a request that goes on is planned with a longer prompt, a lower
limit, and the rest that an answer is expected to have that has become so long already.
"""

from __future__ import annotations

import msgspec

from sollol_schemas.continuation import Continuation
from sollol_schemas.grant import GrantRequest
from sollol_schemas.telemetry import InstalledModel


def said_tokens(request: GrantRequest) -> int:
    """Tokens of the answer that are there; 0 for a request that begins."""
    return request.continuation.said_tokens if request.continuation is not None else 0


def is_broken_off(request: GrantRequest) -> bool:
    """Whether its answer broke off in the middle by a fault: oftener than it was moved on purpose."""
    told = request.continuation
    return told is not None and told.said_tokens > 0 and told.resumed > told.cuts


def cached_on(request: GrantRequest) -> str:
    """The node whose engine may still have the prompt, and all that was said; empty: nobody knows of one."""
    return request.continuation.node_id if is_broken_off(request) and request.continuation is not None else ""


def as_read(request: GrantRequest) -> GrantRequest:
    """The request as its next attempt has it: what was said counts to its prompt, and no more to its limit."""
    said = said_tokens(request)
    if not said:
        return request
    context, limit = request.context, request.context.max_output_tokens
    context = msgspec.structs.replace(
        context,
        prompt_tokens=context.prompt_tokens + said,
        max_output_tokens=None if limit is None else max(1, limit - said),
    )
    return msgspec.structs.replace(request, context=context)


def why_not(model: InstalledModel, continuation: Continuation | None) -> str:
    """Why an answer cannot go on with this model, in words; empty: it can, or nothing of it was said yet."""
    if continuation is None or not continuation.said_tokens:
        return ""
    if not model.fingerprint:
        return "its engine goes on with no answer"
    if continuation.fingerprint not in ("", model.fingerprint):
        return "another engine, other weights or another template began the answer"
    return ""
