"""The dispatcher's call for a slot and the scorer's answers. Control role only."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from sollol_schemas.context import TaskContext
from sollol_schemas.continuation import Continuation
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody
from sollol_schemas.routing import Routing
from sollol_schemas.units import BusId, Count, Seconds, Term, ToldId

JOBS_CLOCK: Final = "jobs"
"""The clock of the server that stores jobs."""


class Birth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a request came into being, on a clock that everybody who speaks of it shares."""

    at_s: float
    """Seconds of that clock; only the order and the distances on it count."""
    clock: Annotated[str, msgspec.Meta(max_length=64)]
    """`JOBS_CLOCK` for the instant at which the server stored a job, otherwise the dispatcher whose clock it is."""
    number: Count = 0
    """Settles which of two with the same instant came first: a job's number in its stream."""


class GrantRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="grant.request.v1"):
    """A request for a slot. Asking again with the same `request_id` is idempotent."""

    request_id: ToldId
    number: Count
    """The attempt's number, counted from 1."""
    context: TaskContext
    routing: Routing
    birth: Birth | None = None
    """When it came into being: its age for the queue. Without it `waited_s` counts."""
    waited_s: Seconds = 0.0
    """How long the request has waited already, over all attempts."""
    behind: Count = 0
    """Jobs of its priority that wait in the stream behind it and are not asked for yet."""
    deadline_s: Seconds = 600.0
    """Seconds that are left until the deadline."""
    excluded: tuple[BusId, ...] = ()
    """Nodes that failed this request before."""
    failed_models: tuple[str, ...] = ()
    """Models of the group that it named that failed it before."""
    busy: tuple[BusId, ...] = ()
    """Nodes that just answered `busy`: full until their next load message."""
    dispatcher: ToldId = "unknown"
    caller: str = ""
    """Who asked, as an opaque word; empty: nobody whose ceilings count."""
    is_resumable: bool = False
    """Whether the answer may be cut in its middle, to go on elsewhere."""
    continuation: Continuation | None = None
    """Of an answer that goes on: where it may."""
    is_admitted: bool = False
    """Whether a scorer let it in before, so that its caller's ceilings count no more for it."""


class GrantQueued(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="grant.queued.v1"):
    """The request waits at the scorer; repeated every 2 s while it does."""

    request_id: BusId
    position: Count = 0
    term: Term = 0
    is_blocked: bool = False
    """Whether no node may take it at present: it waits for the fleet, not for its turn."""


class Granted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="grant.granted.v1"):
    """A slot on a node. It expires when the node has not accepted the attempt within 2 s."""

    decision: Decision
    keep_alive_s: float | None = None
    """How long the engine keeps the model; None leaves the engine's default, negative is for ever."""


class GrantRefused(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="grant.refused.v1"):
    """No slot will come: the request cannot be served as asked."""

    request_id: BusId
    error: ErrorBody
    retry_after_s: Seconds = 0.0
    term: Term = 0


GrantReply = GrantQueued | Granted | GrantRefused


class GrantRelease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="grant.release.v1"):
    """The dispatcher no longer wants a slot for this request (cancelled, deadline, caller gone, handed on)."""

    request_id: BusId
    number: Count | None = None
    """Number of the attempt that is no longer wanted; a question for a later one stands."""
    comes_again: bool = False
    """Whether another dispatcher will ask for it soon: its place in the queue is kept for a moment."""


class RouteRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="route.request.v1"):
    """A question to the scorer: where would this run, and why? Never grants."""

    request_id: BusId
    context: TaskContext
    routing: Routing
