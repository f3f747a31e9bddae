"""Errors of SOLLOL Bus.

    SollolError
      ConfigError              the operator must change something
      BusError
        NotConnected           the connection to the bus is down
        NoResponders           nobody listens on the subject
        RequestTimedOut        no answer within the time given
        DecodeFailed           a message is not what its contract says
        PayloadTooLarge        the message exceeds what the server accepts
        NotPermitted           the credentials do not allow this subject
      RequestError             the request is at fault
        BadRequest
        Unauthorized
        Conflict
      RoutingError             the fleet cannot serve the request as asked
        UnknownModel
        NoEligibleNode
        QueueFull
        DeadlineExceeded
      BackendError             a node or its engine failed
        BackendUnavailable
        BackendRefused
        BackendBrokeProtocol
        ConnectionLost         the stream broke on the way
      Cancelled                the request was cancelled
      ActorStopped             the ask was accepted but the actor ended first
      InternalError            a bug of ours

Errors that travelled over the bus carry the `ErrorBody` they arrived with; `error_from` turns one into the other.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sollol_schemas.errors import ErrorBody, ErrorCode


class SollolError(Exception):
    """Something went wrong in SOLLOL Bus."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str = "", *, body: ErrorBody | None = None) -> None:
        self.message = message or (body.message if body else "") or (type(self).__doc__ or "").strip()
        self.body = body or ErrorBody(code=type(self).code, message=self.message)
        super().__init__(self.message)

    @property
    def details(self) -> dict[str, Any]:
        """The structured details that came with the error."""
        return self.body.details

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which asking again may succeed, where the answer says so."""
        return self.body.retry_after_s or None

    @property
    def is_retryable(self) -> bool:
        """Whether it says nothing about what was asked, so that the same may succeed a little later."""
        return isinstance(self, _PASSING) and not isinstance(self, _LASTING)


class ConfigError(SollolError):
    """A setting or the environment must be changed by the operator."""

    code = ErrorCode.BAD_REQUEST


class BusError(SollolError):
    """The bus could not carry a message."""


class NotConnected(BusError):
    """The connection to the bus is down."""

    code = ErrorCode.CONNECTION_LOST


class NoResponders(BusError):
    """Nobody listens on this subject."""

    code = ErrorCode.NO_NODES


class RequestTimedOut(BusError):
    """No answer came within the time given."""

    code = ErrorCode.DEADLINE_EXCEEDED


class DecodeFailed(BusError):
    """A message does not follow its contract."""

    code = ErrorCode.BAD_REQUEST


class PayloadTooLarge(BusError):
    """The message exceeds what the server accepts."""

    code = ErrorCode.REQUEST_TOO_LARGE


class NotPermitted(BusError):
    """The credentials do not allow this subject."""

    code = ErrorCode.FORBIDDEN


class RequestError(SollolError):
    """The request itself is at fault."""

    code = ErrorCode.BAD_REQUEST


class BadRequest(RequestError):
    """The body or a routing field is not usable."""


class Unauthorized(RequestError):
    """The credentials do not permit this."""

    code = ErrorCode.UNAUTHORIZED


class Conflict(RequestError):
    """The id is taken by something else."""

    code = ErrorCode.CONFLICT


class RoutingError(SollolError):
    """The fleet cannot serve the request as asked."""

    code = ErrorCode.NO_ELIGIBLE_NODE


class UnknownModel(RoutingError):
    """No node has the model."""

    code = ErrorCode.UNKNOWN_MODEL


class NoEligibleNode(RoutingError):
    """No node satisfies the constraints of the request."""


class QueueFull(RoutingError):
    """A bounded queue is full, or the deadline cannot be met; try again later."""

    code = ErrorCode.QUEUE_FULL


class DeadlineExceeded(RoutingError):
    """The deadline of the request passed."""

    code = ErrorCode.DEADLINE_EXCEEDED


class BackendError(SollolError):
    """A node or its engine failed."""

    code = ErrorCode.ENGINE_FAILED


class BackendUnavailable(BackendError):
    """The node or its engine cannot be reached."""

    code = ErrorCode.ENGINE_UNAVAILABLE


class BackendRefused(BackendError):
    """The engine refused the request."""

    code = ErrorCode.ENGINE_REJECTED


class BackendBrokeProtocol(BackendError):
    """The engine's answer was cut short or is not what its protocol says."""

    code = ErrorCode.ENGINE_PROTOCOL


class ConnectionLost(BackendError):
    """The stream broke before it was complete."""

    code = ErrorCode.CONNECTION_LOST


class Cancelled(SollolError):
    """The request was cancelled."""

    code = ErrorCode.CANCELLED


class ActorStopped(SollolError):
    """The ask was accepted, but the actor ended before it could answer."""

    code = ErrorCode.ACTOR_STOPPED


class InternalError(SollolError):
    """A bug in SOLLOL Bus."""


_PASSING = (BusError, QueueFull, ConnectionLost, ActorStopped)
_LASTING = (DecodeFailed, PayloadTooLarge, NotPermitted)

_CLASS_OF: dict[ErrorCode, type[SollolError]] = {
    ErrorCode.BAD_REQUEST: BadRequest,
    ErrorCode.UNSUPPORTED_FIELD: BadRequest,
    ErrorCode.UNAUTHORIZED: Unauthorized,
    ErrorCode.FORBIDDEN: Unauthorized,
    ErrorCode.UNKNOWN_MODEL: UnknownModel,
    ErrorCode.UNKNOWN_REQUEST: BadRequest,
    ErrorCode.UNKNOWN_NODE: BadRequest,
    ErrorCode.UNKNOWN_JOB: BadRequest,
    ErrorCode.CONFLICT: Conflict,
    ErrorCode.REQUEST_TOO_LARGE: BadRequest,
    ErrorCode.REPLY_TOO_LARGE: BadRequest,
    ErrorCode.ENGINE_REJECTED: BackendRefused,
    ErrorCode.CANCELLED: Cancelled,
    ErrorCode.QUEUE_FULL: QueueFull,
    ErrorCode.DEADLINE_UNREACHABLE: QueueFull,
    ErrorCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    ErrorCode.NO_ELIGIBLE_NODE: NoEligibleNode,
    ErrorCode.NO_NODES: NoEligibleNode,
    ErrorCode.BUSY: QueueFull,
    ErrorCode.DRAINING: BackendUnavailable,
    ErrorCode.MOVED: BackendUnavailable,
    ErrorCode.NOT_CONTINUED: BackendRefused,
    ErrorCode.STALE_TERM: BackendUnavailable,
    ErrorCode.NODE_LOST: BackendUnavailable,
    ErrorCode.ENGINE_UNAVAILABLE: BackendUnavailable,
    ErrorCode.ENGINE_FAILED: BackendError,
    ErrorCode.ENGINE_PROTOCOL: BackendBrokeProtocol,
    ErrorCode.STALLED: BackendUnavailable,
    ErrorCode.LOAD_FAILED: BackendError,
    ErrorCode.CONNECTION_LOST: ConnectionLost,
    ErrorCode.ATTEMPTS_EXHAUSTED: BackendUnavailable,
    ErrorCode.ACTOR_STOPPED: ActorStopped,
    ErrorCode.INTERNAL: InternalError,
}


def error_from(body: ErrorBody) -> SollolError:
    """The exception for an error body that arrived over the bus."""
    return _CLASS_OF[body.code](body.message, body=body)
