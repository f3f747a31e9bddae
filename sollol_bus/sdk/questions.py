"""One question, one typed answer; and who is missing when nobody answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, TypeVar

from sollol_bus.errors import NoResponders, SollolError, error_from
from sollol_bus.jetstream.vacancy import why_vacant
from sollol_bus.sdk.lasting import reply_to
from sollol_bus.transport.acting import signed
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.many import request_many
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode

T = TypeVar("T")

_GAP_S: Final = 600.0
_TOTAL_S: Final = 86_400.0
_OF_SCORER = (
    subjects.NODES,
    subjects.MODELS,
    subjects.ADMIN_STRATEGY,
    subjects.ADMIN_BREAKER,
    subjects.SCORER_GROUPS,
    subjects.SCORER_GROUPS_SET,
    subjects.SCALE,
    subjects.ADMIN_SLEEPERS,
)
_OF_RECORDER = (
    subjects.STATS,
    subjects.RELIABILITY,
    subjects.RECENT,
    subjects.USAGE,
    subjects.ADMIN_ACTS,
    subjects.FEEDBACK,
)


async def ask(
    bus: Bus, subject: str, asked: object, kind: type[T], *, timeout_s: float, headers: dict[str, str] | None = None
) -> T:
    """The answer to a question; None asks without a body. What is lost with a server is asked again.

    Raises:
        SollolError: What the other side reported, or a `BusError`.
    """
    payload = b"" if asked is None else encode(asked)
    head = {**(headers or {}), **(signed(bus, subject) or {})}
    msg = await reply_to(bus, subject, payload, timeout_s=timeout_s, headers=head or None)
    failure = error_of(msg)
    if failure is not None:
        raise error_from(failure)
    return decode(msg.data, kind)


def ask_many(bus: Bus, subject: str, asked: object) -> AsyncGenerator[Msg, None]:
    """Every answer to an operator's request that takes long; see `ReplyStream` for the errors."""
    return request_many(bus, subject, encode(asked), headers=signed(bus, subject), gap_s=_GAP_S, total_s=_TOTAL_S)


async def ask_actor(
    bus: Bus,
    subject: str,
    asked: object,
    kind: type[T],
    *,
    timeout_s: float = 5.0,
    headers: dict[str, str] | None = None,
) -> T:
    """As `ask`; where nobody listens, the error names the actor to start.

    Raises:
        SollolError: What the other side reported, which actor is missing, or a `BusError`.
    """
    try:
        return await ask(bus, subject, asked, kind, timeout_s=timeout_s, headers=headers)
    except NoResponders as error:
        raise await _nobody_on(bus, subject) from error


async def _nobody_on(bus: Bus, subject: str) -> SollolError:
    if subject in _OF_SCORER:
        message = await why_vacant(bus, stores.SCORER_LEASE)
    elif subject in _OF_RECORDER or subject.startswith(f"{subjects.V1}.why."):
        message = await why_vacant(bus, stores.RECORDER_LEASE)
    else:
        message = "no dispatcher is on the bus; start `sollol up` or `sollol dispatcher`"
    return error_from(ErrorBody(code=ErrorCode.NO_NODES, message=message))
