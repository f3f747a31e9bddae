"""The AsyncAPI 3 document: every subject, who sends, who receives, what is answered, and every error code."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sollol_contract import beside, descriptions, wire
from sollol_contract.examples import Examples
from sollol_contract.json_schema import components
from sollol_schemas import errors, subjects
from sollol_schemas.stores import KEPT, Kept
from sollol_schemas.subjects import AS, MEMBERS, SUBJECTS, V1, Role, Subject

_TEXT: Final = {"type": "string"}
_DESCRIPTION: Final = """\
Independent actors on NATS that send each LLM request to the node that will finish it soonest.

A request is a NATS message with a reply subject inside the caller's inbox space. A streamed reply is one message
per chunk of the engine's answer and then one message with an empty body, whose headers carry the figures. An error
is one message with the headers Nats-Service-Error and Nats-Service-Error-Code and the body ErrorBody; in a stream
it is followed by the empty message. Unknown fields are ignored by every reader. Instants are RFC 3339 in UTC, with Z
and milliseconds.

On a fleet that knows its members, clients and observers ask under their own name, on sollol.v1.as.{user}.… in place of
sollol.v1.…, and listen for answers below _INBOX_cli.{user}. only; the server refuses anything else. On an open bus, and
for the control role, the plain addresses hold."""
_USER: Final = "The name of the member that asks: its own, as its credentials say."


def document(version: str, examples: Examples) -> dict[str, Any]:
    """The whole document as plain data, with an example of each message."""
    schemas = components("#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "SOLLOL Bus",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
            "x-error-codes": _error_codes(),
            "x-kept": [_kept(row) for row in KEPT],
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "Any NATS server with JetStream. An open bus asks for no credentials.",
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in beside.SECURITY],
            }
        },
        "channels": {k: v for subject in SUBJECTS for k, v in _channels(subject).items()}
        | {key: _callers_channel(key, row) for key, row in beside.CALLERS_OWN.items()},
        "operations": {k: v for subject in SUBJECTS for k, v in _operations(subject).items()}
        | {k: v for key, row in beside.CALLERS_OWN.items() for k, v in _callers_operations(key, row).items()},
        "components": {
            "messages": _messages(examples),
            "schemas": {**beside.SCHEMAS, **schemas},
            "securitySchemes": beside.SECURITY,
        },
    }


def _callers_channel(key: str, row: beside.CallersOwn) -> dict[str, Any]:
    made = {"address": row.address, "summary": row.summary, "messages": _references(row.messages)}
    if row.address is not None:
        made["parameters"] = {key.rpartition(".")[2]: {"description": "What the caller chose, one token or more."}}
    return made


def _callers_operations(key: str, row: beside.CallersOwn) -> dict[str, Any]:
    return {
        f"{role.value}.{action}.{key}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{key}"},
            "summary": row.summary,
            "tags": [{"name": role.value}],
        }
        for role, action in ((Role.CONTROL, "send"), (Role.CLIENT, "receive"))
    }


def _kept(row: Kept) -> dict[str, Any]:
    value = {"$ref": f"#/components/schemas/{row.value}"} if row.value else _TEXT
    return {"bucket": row.bucket, "key": row.key, "value": value}


def _error_codes() -> list[dict[str, Any]]:
    said = descriptions.member_docs(errors)["ErrorCode"]
    return [
        {
            "code": code.value,
            "status": errors.STATUS[code],
            "retried_elsewhere": code in errors.RETRYABLE,
            "meaning": said[code.name],
        }
        for code in errors.ErrorCode
    ]


def _key(subject: Subject) -> str:
    return ".".join(t.strip("{}") for t in subject.address.removeprefix("sollol.v1.").split("."))


@lru_cache
def _summaries() -> dict[str, str]:
    """What stands below each row, by the row's wildcard."""
    said = descriptions.constant_docs(subjects)
    rows = ((getattr(subjects, name), text) for name, text in said.items())
    return {row.all if isinstance(row, Subject) else row: text for row, text in rows if isinstance(row, str | Subject)}


def _summary(subject: Subject) -> str:
    return _summaries()[subject.all]


def _is_asked_by_members(subject: Subject) -> bool:
    return bool(set(MEMBERS) & set(subject.by))


def _channels(subject: Subject) -> dict[str, Any]:
    key = _key(subject)
    made = {key: _channel(subject, subject.address)}
    if _is_asked_by_members(subject):
        made[f"as.user.{key}"] = _channel(subject, _by_members(subject))
    replies = _reply_messages(subject)
    if replies:
        made[f"{key}.reply"] = {
            "address": None,
            "summary": f"Replies to {subject.address}, at the reply subject of the request.",
            "messages": _references(replies),
        }
    return made


def _by_members(subject: Subject) -> str:
    return f"{AS}{{user}}{subject.address.removeprefix(V1)}"


def _channel(subject: Subject, address: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "address": address,
        "summary": _summary(subject),
        "messages": _references(_payload_messages(subject)),
    }
    if _is_asked_by_members(subject):
        other = _by_members(subject) if address == subject.address else subject.address
        made["description"] = (
            f"Members of a fleet ask on {other}, each under its own name."
            if address == subject.address
            else f"What {other} is on an open bus."
        )
    parameters = [token.strip("{}") for token in address.split(".") if token.startswith("{")]
    if parameters:
        made["parameters"] = {
            name: {"description": _USER if name == "user" else f"One token: {name}."} for name in parameters
        }
    if subject.queue:
        made["bindings"] = {"nats": {"queue": subject.queue, "bindingVersion": "0.1.0"}}
        made["x-queue-group"] = subject.queue
    return made


def _operations(subject: Subject) -> dict[str, Any]:
    made = {}
    for action, roles in (("send", subject.by), ("receive", subject.to)):
        for role in roles:
            key = _key(subject)
            made[f"{role.value}.{action}.{key}"] = _operation(subject, action, role, key)
            under_a_name = f"as.user.{key}"
            if _is_asked_by_members(subject) and (action == "receive" or role in MEMBERS):
                made[f"{role.value}.{action}.{under_a_name}"] = _operation(subject, action, role, under_a_name)
    return made


def _operation(subject: Subject, action: str, role: Role, channel: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": _summary(subject),
        "tags": [{"name": role.value}],
    }
    if _reply_messages(subject):
        made["reply"] = {
            "address": {"location": "$message.header#/reply", "description": "The reply subject of the message."},
            "channel": {"$ref": f"#/channels/{_key(subject)}.reply"},
        }
    return made


def _payload_messages(subject: Subject) -> tuple[str, ...]:
    if subject.all in beside.PAYLOADS:
        return beside.PAYLOADS[subject.all]
    if subject.payload == subjects.ENGINE:
        return ("ForwardedBody",) if subject.address.endswith(".exec") else ("EngineRequest",)
    return wire.members(subject.payload) if subject.payload else ("Empty",)


def _reply_messages(subject: Subject) -> tuple[str, ...]:
    if subject.all in beside.REPLIES:
        return beside.REPLIES[subject.all]
    if subject.reply == subjects.ENGINE:
        return ("EngineChunk", "StreamEnd", "Error")
    return (*wire.members(subject.reply), "Error") if subject.reply else ()


def _references(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _messages(examples: Examples) -> dict[str, Any]:
    structs = wire.structs()
    inside = {*wire.IN_HEADERS, "ErrorBody", "Routing", "ContinueFrom", "Job"}
    described = {
        name: beside.Fixed(
            (structs[name].__doc__ or "").partition("\n")[0],
            {"$ref": f"#/components/schemas/{name}"},
            beside.HEADERS_OF.get(name, ""),
        )
        for name in wire.messages()
        if name not in inside
    } | beside.FIXED
    return {name: _message(name, one, examples) for name, one in described.items()}


def _message(name: str, described: beside.Fixed, examples: Examples) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "title": name,
        "summary": described.summary,
        "payload": described.payload,
        "examples": [examples.of(name)],
    }
    if described.headers:
        made["headers"] = {"$ref": f"#/components/schemas/{described.headers}"}
    return made
