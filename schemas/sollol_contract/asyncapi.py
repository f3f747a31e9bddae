"""The AsyncAPI 3 document: every subject, who sends, who receives, what is answered, and every error code."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sollol_contract import descriptions, wire
from sollol_contract.json_schema import components
from sollol_schemas import errors, headers, subjects
from sollol_schemas.stores import KEPT, Kept
from sollol_schemas.subjects import SUBJECTS, Role, Subject

_TEXT: Final = {"type": "string"}
_DESCRIPTION: Final = """\
Independent actors on NATS that send each LLM request to the node that will finish it soonest.

A request is a NATS message with a reply subject inside the caller's inbox space. A streamed reply is one message
per chunk of the engine's answer and then one message with an empty body, whose headers carry the figures. An error
is one message with the headers Nats-Service-Error and Nats-Service-Error-Code and the body ErrorBody; in a stream
it is followed by the empty message. Unknown fields are ignored by every reader."""


def document(version: str) -> dict[str, Any]:
    """The whole document as plain data."""
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
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {k: v for subject in SUBJECTS for k, v in _channels(subject).items()},
        "operations": {k: v for subject in SUBJECTS for k, v in _operations(subject).items()},
        "components": {
            "messages": _messages(),
            "schemas": {**_HEADER_SCHEMAS, **schemas},
        },
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


def _channels(subject: Subject) -> dict[str, Any]:
    key = _key(subject)
    made: dict[str, Any] = {
        "address": subject.address,
        "summary": _summary(subject),
        "messages": _references(_payload_messages(subject)),
    }
    parameters = [t.strip("{}") for t in subject.address.split(".") if t.startswith("{")]
    if parameters:
        made["parameters"] = {name: {"description": f"One token: {name}."} for name in parameters}
    if subject.queue:
        made["bindings"] = {"nats": {"queue": subject.queue, "bindingVersion": "0.1.0"}}
        made["x-queue-group"] = subject.queue
    if not subject.reply:
        return {key: made}
    reply = {
        "address": None,
        "summary": f"Replies to {subject.address}, at the reply subject of the request.",
        "messages": _references(_reply_messages(subject)),
    }
    return {key: made, f"{key}.reply": reply}


def _operations(subject: Subject) -> dict[str, Any]:
    made = {}
    for action, roles in (("send", subject.by), ("receive", subject.to)):
        for role in roles:
            made[f"{role.value}.{action}.{_key(subject)}"] = _operation(subject, action, role)
    return made


def _operation(subject: Subject, action: str, role: Role) -> dict[str, Any]:
    key = _key(subject)
    made: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{key}"},
        "summary": _summary(subject),
        "tags": [{"name": role.value}],
    }
    if subject.reply:
        made["reply"] = {
            "address": {"location": "$message.header#/reply", "description": "The reply subject of the message."},
            "channel": {"$ref": f"#/channels/{key}.reply"},
        }
    return made


def _payload_messages(subject: Subject) -> tuple[str, ...]:
    if subject.payload == subjects.ENGINE:
        return ("Exec",) if subject.address.endswith(".exec") else ("EngineRequest",)
    return wire.members(subject.payload) if subject.payload else ("Empty",)


def _reply_messages(subject: Subject) -> tuple[str, ...]:
    if subject.reply == subjects.ENGINE:
        return ("EngineChunk", "StreamEnd", "Error")
    return (*wire.members(subject.reply), "Error")


def _references(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _messages() -> dict[str, Any]:
    structs = wire.structs()
    beside = (*wire.IN_HEADERS, "ErrorBody", "Routing")
    made: dict[str, Any] = {
        name: {
            "name": name,
            "summary": (structs[name].__doc__ or "").partition("\n")[0],
            "payload": {"$ref": f"#/components/schemas/{name}"},
        }
        for name in wire.messages()
        if name not in beside
    }
    return made | {name: _fixed(name, *row) for name, row in _FIXED.items()}


def _fixed(name: str, summary: str, payload: dict[str, Any], header_schema: str) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "summary": summary, "payload": payload}
    if header_schema:
        made["headers"] = {"$ref": f"#/components/schemas/{header_schema}"}
    return made


def _headers(described: dict[str, str]) -> dict[str, Any]:
    return {"type": "object", "properties": {n: {**_TEXT, "description": d} for n, d in described.items()}}


_JSON_OF = "JSON of {}."
_ROUTED: Final = {
    "description": "The engine's own body. Native calls may carry the routing fields at its top level.",
    "allOf": [{"type": "object"}, {"$ref": "#/components/schemas/Routing"}],
}
_FIXED: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "Empty": ("A message whose body is not read.", {}, ""),
    "EngineRequest": ("A request in the engine's own dialect.", _ROUTED, "RequestHeaders"),
    "Exec": ("Work for a node: the caller's body as it came.", {"type": "object"}, "ExecHeaders"),
    "EngineChunk": ("One chunk of the engine's answer, or the whole answer.", {}, "ChunkHeaders"),
    "StreamEnd": ("The end of a stream: an empty body.", {"type": "string", "maxLength": 0}, "EndHeaders"),
    "Error": ("An error.", {"$ref": "#/components/schemas/ErrorBody"}, "ErrorHeaders"),
}
_HEADER_SCHEMAS: Final = {
    "RequestHeaders": _headers(
        {
            headers.REQUEST_ID: "The request's id, chosen by the caller; the same on every retry.",
            headers.CANCEL_SECRET: "A secret without which the request cannot be cancelled.",
            headers.CONTROL_INBOX: "Inbox that is told Taken, RequestWaiting and RequestGranted, as they happen.",
            headers.RESEND: "How often the request was sent again after its dispatcher died.",
            headers.WAITED: "Seconds that it has waited already, when it is sent again or is a try of a job.",
            headers.NUMBER: "Number of its next attempt; set by a dispatcher that hands it to another.",
            headers.JOB: "The job that the request is a try of; set by the runner of jobs.",
            headers.PATH: "The engine's path, on passthrough.",
            headers.TRACEPARENT: "W3C trace context.",
            f"{headers.ROUTING_PREFIX}*": "Any routing field, e.g. X-Sollol-Priority; wins over the body.",
        }
    ),
    "ExecHeaders": _headers(
        {
            headers.EXEC: _JSON_OF.format("Exec"),
            headers.REPLY_TO: "The caller's inbox, the only place where the node may publish tokens.",
        }
    ),
    "ChunkHeaders": _headers(
        {
            headers.DECISION: _JSON_OF.format("Decision") + " On the first message.",
            headers.FIGURES: _JSON_OF.format("Figures") + " On a reply of one message.",
            headers.PART: "i/n: this message is part i of n of one chunk.",
            headers.CONTENT_TYPE: "The engine's content type, on passthrough.",
        }
    ),
    "EndHeaders": _headers(
        {
            headers.CHUNKS: "How many messages came before this one.",
            headers.FIGURES: _JSON_OF.format("Figures"),
        }
    ),
    "ErrorHeaders": _headers(
        {
            headers.SERVICE_ERROR: "The error in words.",
            headers.SERVICE_ERROR_CODE: "An HTTP-like status.",
        }
    ),
}
