"""Who acts as an operator: said with every request to operators' subjects, and told when it was done.

What is said is believed: whoever may send such a request holds the rights of the control role, and could write the
trail itself. The trail says what honest operators did, to each other and to themselves later.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

import msgspec

from sollol_bus.errors import NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.acts import Act, Operator
from sollol_schemas.headers import OPERATOR

log = logging.getLogger(__name__)

ACTING: Final[ContextVar[Operator | None]] = ContextVar("acting", default=None)
"""For whom this task acts; None: for whoever is connected."""
_SUBJECTS: Final = f"{subjects.V1}.admin."
_BESIDE: Final = (subjects.JOB_PURGE, subjects.SCORER_GROUPS_SET)


def operator_of(bus: Bus) -> Operator:
    """Who acts over this connection, from this task."""
    acting = ACTING.get()
    if acting is not None:
        return acting
    return Operator(who=bus.config.user or "", host=socket.gethostname())


def signed(bus: Bus, subject: str) -> dict[str, str] | None:
    """The headers with which something is asked on a subject; None where nobody wants to know who asks."""
    if subject.startswith(_SUBJECTS) or subject in _BESIDE:
        return {OPERATOR: encode(operator_of(bus)).decode()}
    return None


def tell_act(
    bus: Bus,
    act: str,
    target: str = "",
    details: Mapping[str, object] | None = None,
    *,
    asked: Mapping[str, str] | None = None,
) -> None:
    """Tells that an operator did something.

    Args:
        bus: The connection of whoever did it for the operator.
        act: What.
        target: To whom.
        details: What else is worth telling, no secrets; what is empty is left out.
        asked: The headers of the operator's request; None: whoever is connected did it itself.
    """
    by = operator_of(bus) if asked is None else _said(asked)
    told = {name: str(value) for name, value in (details or {}).items() if value not in (None, "", (), {})}
    log.info("%s %s by %s", act, target, by.who or by.host or "?", extra={"action": "operator_acted"})
    try:
        bus.publish(subjects.AUDIT_EVENT, encode(Act(act=act, target=target, by=by, details=told)))
    except NotConnected:
        log.warning("an act is not in the trail: the bus is away", extra={"action": "act_untold"})


def _said(headers: Mapping[str, str]) -> Operator:
    try:
        return msgspec.json.decode(headers.get(OPERATOR, "{}"), type=Operator)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Operator()
