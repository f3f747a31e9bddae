"""Who may say what: the permissions of each role on the NATS server, made from the subject table.

A role publishes what the table lets it send and subscribes to what the table lets it receive; a node's rows are
narrowed to its own id, a user's to its own name, and clients and observers ask under their own names. Added by hand
are inboxes, discovery and JetStream. Nobody but the control role gets requests that the server itself answers (of
JetStream, of `$SYS`): it sends such an answer to any reply subject it is given, so that right would be the right to
speak everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sollol_schemas import inboxes, stores
from sollol_schemas.inboxes import (
    CLIENT_INBOX_PREFIX,
    CONTROL_INBOX_PREFIX,
    client_inbox_prefix,
)
from sollol_schemas.subjects import AS, JOB_EVENTS, MEMBERS, SUBJECTS, V1, Role, Subject

_DISCOVERY = ("$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>", "$SRV.STATS", "$SRV.STATS.>")


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """Subjects a user may publish to, and subjects it may subscribe to; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers_s: float = 0.0
    """How long a user may publish to the reply subject of a message that it received, besides; 0: not at all."""


def inbox_prefix(role: Role, name: str) -> str:
    """The only inboxes a member may listen on; one client never sees another's answers."""
    match role:
        case Role.CLIENT | Role.OBSERVER:
            return client_inbox_prefix(name)
        case Role.NODE:
            return inboxes.node_inbox_prefix(name)
        case Role.CONTROL:
            return CONTROL_INBOX_PREFIX
        case Role.NEWCOMER:
            return inboxes.NEWCOMER_INBOX_PREFIX


def permissions(role: Role, name: str) -> Permissions:
    """What a user of this role may say and hear.

    Args:
        role: The role.
        name: The user's; a node's id. It may be a template that the NATS server fills in.
    """
    node_id = name if role is Role.NODE else ""
    own = {"{node_id}": node_id, "{user}": name if role in MEMBERS else ""}
    asked = [_narrowed(c, own) for c in SUBJECTS if role in c.by]
    publish = [f"{AS}{name}{one.removeprefix(V1)}" for one in asked] if role in MEMBERS else asked
    subscribe = [_narrowed(c, own) for c in SUBJECTS if role in c.to]
    answers_s = 0.0
    caller_inboxes = [f"{prefix}>" for prefix in inboxes.CLIENT_INBOX_PREFIXES]
    match role:
        case Role.CLIENT:
            publish += _DISCOVERY
            called_back = f"{inboxes.JOB_CALLBACK_ROOT}{name}"
            subscribe += [called_back, f"{called_back}.>", f"{CLIENT_INBOX_PREFIX}.{name}.>"]
        case Role.NODE:
            own_inbox = f"{inboxes.node_inbox_prefix(node_id)}.>"
            subscribe.append(own_inbox)
            answers_s = inboxes.LEAVE_S
        case Role.CONTROL:
            control_inboxes = [f"{CONTROL_INBOX_PREFIX}.>", *caller_inboxes]
            others = (inboxes.NODE_INBOX_PREFIX, inboxes.NEWCOMER_INBOX_PREFIX)
            publish += [*control_inboxes, *(f"{prefix}.>" for prefix in others)]
            publish += [f"{inboxes.JOB_CALLBACK_ROOT}>", f"$O.{stores.JOB_BLOBS}.>", f"$O.{stores.FILES_STORE}.>"]
            publish += ["$SRV.>", "$JS.API.>", "$JS.*.API.>", "$JS.ACK.>"]
            publish += [f"$KV.{bucket}.>" for bucket in stores.BUCKETS]
            subscribe += [
                f"{AS}>",
                JOB_EVENTS,
                *control_inboxes,
                "$SRV.>",
                *(f"$KV.{bucket}.>" for bucket in stores.BUCKETS),
            ]
        case Role.OBSERVER:
            publish += _DISCOVERY
            subscribe.append(f"{CLIENT_INBOX_PREFIX}.{name}.>")
        case Role.NEWCOMER:
            subscribe.append(f"{inboxes.NEWCOMER_INBOX_PREFIX}.>")
    return Permissions(publish=_unique(publish), subscribe=_unique(subscribe), answers_s=answers_s)


def _narrowed(subject: Subject, own: dict[str, str]) -> str:
    """The subject with wildcards, but with a role's own names for the parameters of which it has one."""
    tokens = zip(subject.address.split("."), subject.all.split("."), strict=True)
    return ".".join(own.get(name) or token for name, token in tokens)


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
