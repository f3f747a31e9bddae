"""The closed list of error codes that travel on the bus, each with its HTTP-like status and whose fault it is.

`Nats-Service-Error-Code` carries the status, the JSON body `ErrorBody` carries the code.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Final

import msgspec


class ErrorCode(StrEnum):
    """Every code a caller may meet."""

    BAD_REQUEST = "bad_request"  # the body or a routing field is not usable; the message names the field
    UNSUPPORTED_FIELD = "unsupported_field"  # this engine cannot honour a field of the body
    UNAUTHORIZED = "unauthorized"  # no credentials, or unknown ones
    FORBIDDEN = "forbidden"  # the role may not do this
    UNKNOWN_MODEL = "unknown_model"  # no node has the model; the details list what exists
    UNKNOWN_REQUEST = "unknown_request"  # nothing is known under this request id
    UNKNOWN_NODE = "unknown_node"  # no node is known under this id
    UNKNOWN_JOB = "unknown_job"  # no job is known under this id
    CONFLICT = "conflict"  # the id is taken by something else
    REQUEST_TOO_LARGE = "request_too_large"  # the body exceeds the bus's payload limit
    REPLY_TOO_LARGE = "reply_too_large"  # the answer exceeds the payload limit; stream it or ask for less
    ENGINE_REJECTED = "engine_rejected"  # the engine refused the request, whatever its status: the request is at fault
    CANCELLED = "cancelled"  # the caller cancelled or left
    QUEUE_FULL = "queue_full"  # a bounded queue is full; retry later
    DEADLINE_UNREACHABLE = "deadline_unreachable"  # the predicted wait already exceeds the deadline
    DEADLINE_EXCEEDED = "deadline_exceeded"  # the deadline passed
    NO_ELIGIBLE_NODE = "no_eligible_node"  # no node satisfies the constraints; the details give reasons
    NO_NODES = "no_nodes"  # no node has joined
    BUSY = "busy"  # the node has no free slot; costs no attempt
    DRAINING = "draining"  # the actor or node takes no new work
    MOVED = "moved"  # the answer goes on elsewhere: only told to callers that resume
    NOT_CONTINUED = "not_continued"  # what was said cannot be gone on with there; the message says why
    STALE_TERM = "stale_term"  # the decision comes from a scorer that is no longer in office
    NODE_LOST = "node_lost"  # the node died or hung before it answered
    ENGINE_UNAVAILABLE = "engine_unavailable"  # the engine cannot be reached
    ENGINE_FAILED = "engine_failed"  # the engine answered 5xx or reported an error
    ENGINE_PROTOCOL = "engine_protocol"  # the engine broke its protocol: truncated, not JSON, no final message
    STALLED = "stalled"  # the engine stopped producing tokens
    LOAD_FAILED = "load_failed"  # the model could not be loaded
    CONNECTION_LOST = "connection_lost"  # the bus connection broke while streaming
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"  # every permitted attempt failed
    ACTOR_STOPPED = "actor_stopped"  # the actor ended before it could answer
    INTERNAL = "internal"  # a bug of ours


class Owner(StrEnum):
    """Whose fault a failure is. Only an engine and a node are ever charged for one."""

    REQUEST = "request"  # what was asked is wrong, or cannot be done there: so it would be on any node like it
    OUTPUT = "output"  # what the model made cannot be told as it was asked for
    ENGINE = "engine"  # the program that runs models broke, hangs, or cannot load a model
    NODE = "node"  # the machine or its agent is gone, or is not set up to use its engine
    PATH = "path"  # what lies between: the bus, our own parts, a full queue, a caller that left
    UNCLEAR = "unclear"  # request or engine: another node, or a question of the agent's own, tells


class Lack(StrEnum):
    """What a node has not, for which it refused a request that another one may serve."""

    MODEL = "model"  # it has not (any more) the model
    CONTEXT = "context"  # its context is too short
    CAPABILITY = "capability"  # the model there cannot do this: images, tools, thinking, embeddings
    FIELD = "field"  # its kind of engine cannot honour a field
    PATH = "path"  # its engine has no such path
    MEMORY = "memory"  # the model as it was asked for does not fit into its memory


STATUS: dict[ErrorCode, int] = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNSUPPORTED_FIELD: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.UNKNOWN_MODEL: 404,
    ErrorCode.UNKNOWN_REQUEST: 404,
    ErrorCode.UNKNOWN_NODE: 404,
    ErrorCode.UNKNOWN_JOB: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.REQUEST_TOO_LARGE: 413,
    ErrorCode.REPLY_TOO_LARGE: 413,
    ErrorCode.ENGINE_REJECTED: 400,
    ErrorCode.CANCELLED: 499,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.DEADLINE_UNREACHABLE: 429,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.NO_ELIGIBLE_NODE: 503,
    ErrorCode.NO_NODES: 503,
    ErrorCode.BUSY: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.MOVED: 503,
    ErrorCode.NOT_CONTINUED: 409,
    ErrorCode.STALE_TERM: 503,
    ErrorCode.NODE_LOST: 502,
    ErrorCode.ENGINE_UNAVAILABLE: 502,
    ErrorCode.ENGINE_FAILED: 502,
    ErrorCode.ENGINE_PROTOCOL: 502,
    ErrorCode.STALLED: 504,
    ErrorCode.LOAD_FAILED: 502,
    ErrorCode.CONNECTION_LOST: 502,
    ErrorCode.ATTEMPTS_EXHAUSTED: 502,
    ErrorCode.ACTOR_STOPPED: 503,
    ErrorCode.INTERNAL: 500,
}

OWNER: dict[ErrorCode, Owner] = {
    ErrorCode.BAD_REQUEST: Owner.REQUEST,
    ErrorCode.UNSUPPORTED_FIELD: Owner.REQUEST,
    ErrorCode.UNAUTHORIZED: Owner.REQUEST,
    ErrorCode.FORBIDDEN: Owner.REQUEST,
    ErrorCode.UNKNOWN_MODEL: Owner.REQUEST,
    ErrorCode.UNKNOWN_REQUEST: Owner.REQUEST,
    ErrorCode.UNKNOWN_NODE: Owner.REQUEST,
    ErrorCode.UNKNOWN_JOB: Owner.REQUEST,
    ErrorCode.CONFLICT: Owner.REQUEST,
    ErrorCode.REQUEST_TOO_LARGE: Owner.REQUEST,
    ErrorCode.REPLY_TOO_LARGE: Owner.REQUEST,
    ErrorCode.ENGINE_REJECTED: Owner.REQUEST,
    ErrorCode.CANCELLED: Owner.PATH,
    ErrorCode.QUEUE_FULL: Owner.PATH,
    ErrorCode.DEADLINE_UNREACHABLE: Owner.PATH,
    ErrorCode.DEADLINE_EXCEEDED: Owner.PATH,
    ErrorCode.NO_ELIGIBLE_NODE: Owner.PATH,
    ErrorCode.NO_NODES: Owner.PATH,
    ErrorCode.BUSY: Owner.PATH,
    ErrorCode.DRAINING: Owner.PATH,
    ErrorCode.MOVED: Owner.PATH,
    ErrorCode.NOT_CONTINUED: Owner.REQUEST,
    ErrorCode.STALE_TERM: Owner.PATH,
    ErrorCode.NODE_LOST: Owner.NODE,
    ErrorCode.ENGINE_UNAVAILABLE: Owner.ENGINE,
    ErrorCode.ENGINE_FAILED: Owner.UNCLEAR,
    ErrorCode.ENGINE_PROTOCOL: Owner.UNCLEAR,
    ErrorCode.STALLED: Owner.ENGINE,
    ErrorCode.LOAD_FAILED: Owner.UNCLEAR,
    ErrorCode.CONNECTION_LOST: Owner.PATH,
    ErrorCode.ATTEMPTS_EXHAUSTED: Owner.UNCLEAR,
    ErrorCode.ACTOR_STOPPED: Owner.PATH,
    ErrorCode.INTERNAL: Owner.PATH,
}
"""Whose fault each code is, unless the error says more."""

#: Failures of an attempt that another node may heal, as long as nothing reached the caller.
RETRYABLE: frozenset[ErrorCode] = frozenset(
    {
        ErrorCode.BUSY,
        ErrorCode.DRAINING,
        ErrorCode.MOVED,
        ErrorCode.STALE_TERM,
        ErrorCode.NODE_LOST,
        ErrorCode.ENGINE_UNAVAILABLE,
        ErrorCode.ENGINE_FAILED,
        ErrorCode.ENGINE_PROTOCOL,
        ErrorCode.STALLED,
        ErrorCode.LOAD_FAILED,
        ErrorCode.CONNECTION_LOST,
    }
)

#: Refusals that cost no attempt and are not charged to the node.
FREE_OF_CHARGE: frozenset[ErrorCode] = frozenset(
    {ErrorCode.BUSY, ErrorCode.DRAINING, ErrorCode.MOVED, ErrorCode.STALE_TERM}
)


_DAY_S = 86_400
COME_AGAIN_S: dict[ErrorCode, int] = {
    ErrorCode.QUEUE_FULL: 1,
    ErrorCode.BUSY: 1,
    ErrorCode.DEADLINE_UNREACHABLE: 5,
    ErrorCode.NO_ELIGIBLE_NODE: 5,
    ErrorCode.NO_NODES: 2,
    ErrorCode.DRAINING: 1,
    ErrorCode.MOVED: 1,
    ErrorCode.STALE_TERM: 1,
    ErrorCode.ACTOR_STOPPED: 1,
    ErrorCode.NODE_LOST: 1,
    ErrorCode.CONNECTION_LOST: 1,
    ErrorCode.ENGINE_UNAVAILABLE: 2,
}
"""Where waiting is what helps, and how long, when the error does not say it itself."""
_ENGINE_IS_FULL: Final = frozenset({429, 503})
_ENGINE_FULL_S: Final = 5
"""After how long to ask again an engine that itself said that it has too much to do."""


QUOTES_NOBODY: frozenset[ErrorCode] = frozenset(
    code for code, owner in OWNER.items() if owner in (Owner.NODE, Owner.PATH)
) | {ErrorCode.STALLED, ErrorCode.CONFLICT}
"""Codes whose message is in our own words: every other one may quote an engine, which may quote the prompt."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON body of every error message."""

    code: ErrorCode
    message: str
    details: dict[str, Any] = {}
    status: int = 0
    """HTTP-like status where it differs from the code's usual one (an engine's own); 0: the usual one."""
    owner: Owner | None = None
    """Whose fault it is, where that differs from the code's usual one."""
    lack: Lack | None = None
    """What the node that refused has not, and another one may have."""

    @property
    def http_status(self) -> int:
        """The status to answer with: the body's own, else the code's usual one."""
        return self.status or STATUS[self.code]

    @property
    def blamed(self) -> Owner:
        """Whose fault it is: the body's own word, else the code's usual one."""
        return self.owner or OWNER[self.code]

    @property
    def retry_after_s(self) -> float:
        """Seconds after which asking again may succeed; 0 where the error does not say so."""
        wanted = self.details.get("retry_after_s")
        if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not wanted > 0:
            return 0.0
        return float(wanted)

    @property
    def retry_after(self) -> int:
        """Whole seconds for the header `Retry-After`; 0: it is not set."""
        wanted_s = self.retry_after_s
        if 0 < wanted_s < _DAY_S:
            return math.ceil(wanted_s)
        return COME_AGAIN_S.get(self.code, _ENGINE_FULL_S if self.http_status in _ENGINE_IS_FULL else 0)

    def without_quotes(self) -> ErrorBody:
        """The error as others than its caller may see it."""
        return ErrorBody(code=self.code, message=self.own_words, status=self.status, owner=self.owner, lack=self.lack)

    @property
    def engine_status(self) -> int:
        """The status with which an engine refused; 0 where none did."""
        told = self.details.get("engine_status")
        return told if isinstance(told, int) and 100 <= told < 1000 else 0

    @property
    def own_words(self) -> str:
        """What may be kept of the message, and shown to others than the caller."""
        if self.code in QUOTES_NOBODY:
            return self.message
        return f"the engine answered {self.engine_status}" if self.engine_status else ""
