"""Who asks: on a fleet that knows its members each asks under its own name, which stands in the subject.

`sollol.v1.as.<user>.chat` is `sollol.v1.chat` of one user. The NATS server lets nobody but that user publish there, so
what is handed on names the caller truly, whatever the caller had written into its headers.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from sollol_bus.transport.config import BusConfig
from sollol_bus.transport.messages import Msg
from sollol_schemas import headers as h
from sollol_schemas.ids import is_bus_id
from sollol_schemas.inboxes import client_inbox_prefix
from sollol_schemas.subjects import AS, MEMBERS, V1, Role

log = logging.getLogger(__name__)

_PARTS: Final = 4  # sollol, v1, as, the user; the rest is what is asked
_TOLD_ELSEWHERE: Final = frozenset({h.JOB, h.JOB_PLACE, h.NUMBER})
"""What dispatchers tell each other; of a member it would be a way to the head of the queue."""
_WAITED_MAX_S: Final = 60.0
"""A member that sends a request again is believed to have waited so long: more would pass its ceiling of priority."""


class _Nats(msgspec.Struct, frozen=True):
    tags: tuple[str, ...] = ()


class _Claims(msgspec.Struct, frozen=True):
    name: str = ""
    nats: _Nats = _Nats()


def named(config: BusConfig) -> tuple[BusConfig, str]:
    """The settings with the inboxes of a caller of its own name, and that name: empty where nobody has one."""
    caller = caller_in(config.creds_file)
    if caller and config.inbox_prefix == BusConfig().inbox_prefix:
        config = msgspec.structs.replace(config, inbox_prefix=client_inbox_prefix(caller))
    return config, caller


def own_subjects(caller: str) -> str:
    """What each subject begins with on which a caller asks; empty without a name."""
    return f"{AS}{caller}." if caller else ""


def caller_in(creds_file: str | None) -> str:
    """Under whose name the owner of a credentials file asks: a member's that is a client or observer, else empty."""
    if creds_file is None:
        return ""
    try:
        return caller_said_in(Path(creds_file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""  # whoever connects with it says what is wrong


def caller_said_in(creds: str) -> str:
    """As `caller_in`, of what stands in a credentials file."""
    try:
        body = creds.partition("BEGIN NATS USER JWT")[2].splitlines()[1].split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=_Claims)
    except (ValueError, IndexError):
        return ""
    is_member = any(role_tag(role) in claims.nats.tags for role in MEMBERS)
    return claims.name if is_member and is_bus_id(claims.name) else ""


def role_tag(role: Role) -> str:
    """What a member's claims say about its role; lower-case, as the NATS server keeps tags."""
    return f"role:{role.value}"


def of_members(handler: Callable[[Msg], None]) -> Callable[[Msg], None]:
    """A handler for what members ask under their names: it gets each message as if it had come without one.

    The subject is the plain one and the header `Sollol-Caller` is the user. What would have answers go elsewhere than
    to that user's own inboxes is dropped: the one who could read them did not ask.
    """

    def handle(msg: Msg) -> None:
        *_, user, asked = msg.subject.split(".", _PARTS)
        given = msg.headers or {}
        own = f"{client_inbox_prefix(user)}."
        if not all(to.startswith(own) for to in (msg.reply, given.get(h.CONTROL_INBOX, "")) if to):
            log.info(
                "dropped a message of %s on %s: its answer would go to another's inbox",
                user,
                asked,
                extra={"action": "foreign_inbox"},
            )
            return
        msg.subject = f"{V1}.{asked}"
        msg.headers = {name: text for name, text in given.items() if name not in _TOLD_ELSEWHERE} | {h.CALLER: user}
        if h.WAITED in given:
            msg.headers[h.WAITED] = _believed_age(given[h.WAITED])
        handler(msg)

    return handle


def _believed_age(told: str) -> str:
    try:
        return told if float(told) <= _WAITED_MAX_S else f"{_WAITED_MAX_S:g}"
    except ValueError:
        return "0"
