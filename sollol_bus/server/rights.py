"""Who may say what: users of the NATS server with the permissions of one role each, made from the subject table.

A role publishes what the table lets it send and subscribes to what the table lets it receive; a node's rows are
narrowed to its own id, and clients and observers ask under their own names. Added by hand are inboxes, discovery and
JetStream. Nobody but the control role gets requests that the server itself answers (of JetStream, of `$SYS`): it sends
such an answer to any reply subject it is given, so that right would be the right to speak everywhere.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence

import msgspec

from sollol_bus.errors import ConfigError
from sollol_bus.transport.connection import BusConfig
from sollol_schemas import inboxes, stores
from sollol_schemas.ids import is_bus_id
from sollol_schemas.inboxes import (
    CLIENT_INBOX_PREFIX,
    CONTROL_INBOX_PREFIX,
    client_inbox_prefix,
)
from sollol_schemas.subjects import AS, JOB_SUBMIT, MEMBERS, SUBJECTS, V1, Role, Subject

ACCOUNT = "SOLLOL"

_DISCOVERY = ("$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>", "$SRV.STATS", "$SRV.STATS.>")


class Credential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One user of the NATS server."""

    user: str
    password: str
    role: Role
    node_id: str = ""
    """Whose node this is, for the node role."""

    def __repr__(self) -> str:
        """The credential without its password."""
        return f"Credential(user={self.user!r}, role={self.role!r})"

    @property
    def inbox_prefix(self) -> str:
        """The only inboxes this user may listen on; one client never sees another's answers."""
        match self.role:
            case Role.CLIENT | Role.OBSERVER:
                return client_inbox_prefix(self.user)
            case Role.NODE:
                return inboxes.node_inbox_prefix(self.node_id)
            case Role.CONTROL:
                return CONTROL_INBOX_PREFIX
            case Role.NEWCOMER:
                return inboxes.NEWCOMER_INBOX_PREFIX

    def bus_config(self, url: str, *, name: str = "") -> BusConfig:
        """How this user connects."""
        return BusConfig(
            url=url,
            name=name or self.user,
            user=self.user,
            password=self.password,
            inbox_prefix=self.inbox_prefix,
            caller=self.user if self.role in MEMBERS else "",
        )


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """Subjects a user may publish to, and subjects it may subscribe to; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files for an encrypted listener."""

    cert_file: str
    key_file: str
    ca_file: str = ""
    """CA of client certificates; empty: clients need none."""


def make_credentials(
    node_ids: Iterable[str],
    *,
    clients: Iterable[str] = ("client",),
    controls: Iterable[str] = ("control",),
    observers: Iterable[str] = ("observer",),
) -> tuple[Credential, ...]:
    """Credentials with fresh passwords: one for each node, client, control actor and observer named.

    A node's user name is `node-` and its id.

    Raises:
        ConfigError: A name is not an id, or comes twice.
    """
    named = [(user, Role.CONTROL, "") for user in controls]
    named += [(f"node-{node_id}", Role.NODE, node_id) for node_id in node_ids]
    named += [(user, Role.CLIENT, "") for user in clients]
    named += [(user, Role.OBSERVER, "") for user in observers]
    made: dict[str, Credential] = {}
    for user, role, node_id in named:
        if not is_bus_id(user):
            raise ConfigError(f"user {user!r}: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
        if user in made:
            raise ConfigError(f"user {user!r} is named twice")
        made[user] = Credential(user=user, password=secrets.token_urlsafe(24), role=role, node_id=node_id)
    return tuple(made.values())


def permissions(role: Role, name: str) -> Permissions:
    """What a user of this role may say and hear.

    Args:
        role: The role.
        name: The user's; a node's id. It may be a template that the NATS server fills in.
    """
    node_id = name if role is Role.NODE else ""
    asked = [_narrowed(c, node_id) for c in SUBJECTS if role in c.by]
    publish = [f"{AS}{name}{one.removeprefix(V1)}" for one in asked] if role in MEMBERS else asked
    if role is Role.CLIENT:
        publish.append(JOB_SUBMIT.all)  # JetStream takes these itself, until dispatchers do
    subscribe = [_narrowed(c, node_id) for c in SUBJECTS if role in c.to]
    caller_inboxes = [f"{prefix}>" for prefix in inboxes.CLIENT_INBOX_PREFIXES]
    match role:
        case Role.CLIENT:
            publish += _DISCOVERY
            subscribe += [f"{inboxes.JOB_CALLBACK_ROOT}>", f"{CLIENT_INBOX_PREFIX}.{name}.>"]
        case Role.NODE:
            own_inbox = f"{inboxes.node_inbox_prefix(node_id)}.>"
            publish += [*caller_inboxes, f"{CONTROL_INBOX_PREFIX}.>"]
            subscribe.append(own_inbox)
        case Role.CONTROL:
            control_inboxes = [f"{CONTROL_INBOX_PREFIX}.>", *caller_inboxes]
            others = (inboxes.NODE_INBOX_PREFIX, inboxes.NEWCOMER_INBOX_PREFIX)
            publish += [*control_inboxes, *(f"{prefix}.>" for prefix in others)]
            publish += [f"{inboxes.JOB_CALLBACK_ROOT}>", f"$O.{stores.JOB_BLOBS}.>", f"$O.{stores.FILES_STORE}.>"]
            publish += ["$SRV.>", "$JS.API.>", "$JS.*.API.>", "$JS.ACK.>"]
            publish += [f"$KV.{bucket}.>" for bucket in stores.BUCKETS]
            subscribe += [f"{AS}>", *control_inboxes, "$SRV.>", *(f"$KV.{bucket}.>" for bucket in stores.BUCKETS)]
        case Role.OBSERVER:
            publish += _DISCOVERY
            subscribe.append(f"{CLIENT_INBOX_PREFIX}.{name}.>")
        case Role.NEWCOMER:
            subscribe.append(f"{inboxes.NEWCOMER_INBOX_PREFIX}.>")
    return Permissions(publish=_unique(publish), subscribe=_unique(subscribe))


def server_config(credentials: Sequence[Credential], *, tls: TlsFiles | None = None) -> str:
    """The part of the NATS server's configuration that knows these users and nobody else.

    Goes into a configuration file of your own, or into `EmbeddedServerConfig.extra_config`. It contains the
    passwords: keep it unreadable for others.
    """
    users = "\n".join(map(_user, credentials))
    text = f"accounts {{\n  {ACCOUNT} {{\n    jetstream: enabled\n    users: [\n{users}\n    ]\n  }}\n}}\n"
    return text if tls is None else text + _tls(tls)


def _narrowed(subject: Subject, node_id: str) -> str:
    """The subject with wildcards, for a node with its own id in place of any node's."""
    tokens = zip(subject.address.split("."), subject.all.split("."), strict=True)
    return ".".join(node_id if node_id and name == "{node_id}" else token for name, token in tokens)


def _user(credential: Credential) -> str:
    allowed = permissions(credential.role, credential.node_id or credential.user)
    return (
        f"      {{ user: {json.dumps(credential.user)}, password: {json.dumps(credential.password)}\n"
        f"        permissions: {{\n"
        f"          publish: {{ allow: {json.dumps(allowed.publish)} }}\n"
        f"          subscribe: {{ allow: {json.dumps(allowed.subscribe)} }}\n"
        f"        }}\n"
        f"      }}"
    )


def _tls(tls: TlsFiles) -> str:
    lines = [f"cert_file: {json.dumps(tls.cert_file)}", f"key_file: {json.dumps(tls.key_file)}"]
    if tls.ca_file:
        lines += [f"ca_file: {json.dumps(tls.ca_file)}", "verify: true"]
    return "tls {\n  " + "\n  ".join(lines) + "\n}\n"


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
