"""What the AsyncAPI document says beside the Structs: other messages, headers, and how it is known who asks."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sollol_contract import wire
from sollol_schemas import continuation, inboxes, subjects
from sollol_schemas import headers as h
from sollol_schemas.routing import ROUTING_FIELDS, Routing, routing_header
from sollol_schemas.stores import KEPT

Schema = dict[str, Any]

_TEXT: Final = {"type": "string"}
_JSON_OF = "JSON of {}."


class Fixed(NamedTuple):
    """A message that is described by hand."""

    summary: str
    payload: Schema
    headers: str = ""
    """Name of the schema of its headers."""


class CallersOwn(NamedTuple):
    """A subject that a caller names, and where it is told something."""

    address: str | None
    """None: an inbox."""
    summary: str
    messages: tuple[str, ...]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _headers(name: str, described: dict[str, str]) -> Schema:
    properties = {header: {**_TEXT, "description": text} for header, text in described.items()}
    return {"title": name, "type": "object", "properties": properties}


_ROUTING: Final = {
    routing_header(field): f"The routing field `{field}`; wins over the body."
    for field in Routing.__struct_fields__
    if field in ROUTING_FIELDS
}
_TRACE: Final = {h.TRACEPARENT: "W3C trace context."}
_STORED_ONCE: Final = "What the server drops a second message by, when it comes within two minutes: {}."

_GOING_ON: Final[Schema] = {
    "title": "GoingOn",
    "type": "object",
    "properties": {
        continuation.CONTINUE_FROM: _ref("ContinueFrom"),
        continuation.RESUME: {
            "type": "boolean",
            "description": "Of a native call: the dispatcher goes on by itself with an answer that breaks off.",
        },
    },
}

FIXED: Final[dict[str, Fixed]] = {
    "Empty": Fixed(
        "A message whose body is not read; an empty one means the defaults where there is something to say.",
        {"title": "NotRead"},
    ),
    "EngineRequest": Fixed(
        "A request in the engine's own dialect.",
        {
            "title": "EngineBody",
            "description": "The engine's own body. Native calls may carry the routing fields at its top level.",
            "allOf": [_GOING_ON, _ref("Routing")],
        },
        "RequestHeaders",
    ),
    "ForwardedBody": Fixed(
        "Work for a node: the caller's body as it came.", {"title": "CallersBody", "type": "object"}, "ExecHeaders"
    ),
    "EngineChunk": Fixed(
        "One chunk of the engine's answer, or the whole answer.", {"title": "EngineChunkBody"}, "ChunkHeaders"
    ),
    "StreamEnd": Fixed(
        "The end of a stream: an empty body.", {"title": "Nothing", "type": "string", "maxLength": 0}, "EndHeaders"
    ),
    "AnswerPart": Fixed(
        "A piece of a job's answer, at most 512 KiB of JSON; put together they are the `body` of its result.",
        {"title": "AnswerText"},
    ),
    "PullProgress": Fixed(
        "What an engine says about its models in its own words: how far a download is, or what a model is.",
        {"title": "EngineProgress", "type": "object"},
    ),
    "SubmittedJob": Fixed("A job as it is submitted.", _ref("Job"), "SubmitHeaders"),
    "BareJob": Fixed(
        "A job as an engine's bare body: its kind follows from `messages`, `input` or `prompt`.",
        {"title": "BareBody", "type": "object"},
        "SubmitHeaders",
    ),
    "DeadLetter": Fixed("The job as it was submitted, and how it ended.", _ref("Job"), "LetterHeaders"),
    "PubAck": Fixed("JetStream's answer: the message is stored, or why it is not.", _ref("PubAck")),
    "Error": Fixed("An error.", _ref("ErrorBody"), "ErrorHeaders"),
}
"""Messages that are no Struct by themselves."""

HEADERS_OF: Final = {
    "Outcome": "OutcomeHeaders",
    "JobCallback": "CallbackHeaders",
    "JobResult": "ResultHeaders",
    **dict.fromkeys({row.value for row in KEPT} - {"", "StrategyRequest", "JobStatus"}, "KeptHeaders"),
    **{
        name: "OperatorHeaders"
        for row in subjects.SUBJECTS
        if row.address.startswith(f"{subjects.V1}.admin.")
        or row.all in (subjects.JOB_PURGE, subjects.SCORER_GROUPS_SET)
        for name in wire.members(row.payload)
    },
}
"""Schema of the headers of messages whose body is a Struct."""

PAYLOADS: Final = {
    subjects.JOB_SUBMIT.all: ("SubmittedJob", "BareJob"),
    subjects.JOB_DELAYED.all: ("SubmittedJob", "BareJob"),
    subjects.JOB_DUE.all: ("SubmittedJob", "BareJob"),
    subjects.JOB_LETTER.all: ("DeadLetter",),
}
"""Messages on a subject, where they are more than the Struct that the table names."""
_CONTROLLED: Final = ("ControlReply", "PullProgress", "StreamEnd", "Error")
REPLIES: Final = {
    subjects.ADMIN_NODE.all: _CONTROLLED,
    subjects.NODE_CONTROL.all: _CONTROLLED,
    subjects.ATTEMPT.all: ("StartAnswer", "PubAck"),
    subjects.JOB_SUBMIT.all: ("PubAck",),
    subjects.JOB_GET: ("JobReply", "AnswerPart", "StreamEnd", "Error"),
}
"""Replies, where they are more than the Struct that the table names."""

CALLERS_OWN: Final = {
    "control-inbox": CallersOwn(
        None,
        f"What becomes of a request meanwhile, in the inbox that its header {h.CONTROL_INBOX} named.",
        wire.members("RequestNews"),
    ),
    "callbacks.subject": CallersOwn(
        f"{inboxes.JOB_CALLBACK_ROOT}{{subject}}",
        "How a job ended, at the subject that it named for it; an inbox of the caller's is as good.",
        ("JobResult",),
    ),
}
"""Where callers are told things beside replies."""

SCHEMAS: Final[dict[str, Schema]] = {
    "RequestHeaders": _headers(
        "RequestHeaders",
        {
            h.REQUEST_ID: "The request's id, chosen by the caller; the same on every retry.",
            h.CANCEL_SECRET: "A secret without which the request cannot be cancelled.",
            h.CONTROL_INBOX: "Inbox that is told Taken, RequestWaiting and RequestGranted, as they happen.",
            h.RESEND: "How often the request was sent again after its dispatcher died.",
            h.WAITED: "Seconds that it has waited already, when it is sent again or is a try of a job.",
            h.STREAM: "Chunks and an empty message, whatever the body's own `stream` says: `1`, a message for each; "
            "`joined`, one for those that come close together, with a line feed between native objects.",
            h.RESUME: "Who goes on with an answer that breaks off: `1`, the caller; `dispatcher`, a dispatcher for it.",
            h.CONTINUE: "Length of the body in bytes; behind it stands what was said so far, JSON of ContinueFrom.",
            h.PATH: "The engine's path, on passthrough.",
            h.CALLER: "Who asks; of a member it is the name in the subject, whatever was written here.",
            h.NUMBER: "Number of its next attempt; set by a dispatcher that hands it to another.",
            h.JOB: "The job that the request is a try of; set by the runner of jobs.",
            h.JOB_PLACE: "Of a try of a job: when it was stored (ns), its number, and how many waited behind it.",
            h.VIA: "Which gateways and nodes it came through, with commas between.",
            **_TRACE,
            **_ROUTING,
        },
    ),
    "ExecHeaders": _headers(
        "ExecHeaders",
        {
            h.EXEC: _JSON_OF.format("Exec"),
            h.REPLY_TO: "The caller's inbox, the only place where the node may publish tokens.",
        },
    ),
    "ChunkHeaders": _headers(
        "ChunkHeaders",
        {
            h.DECISION: _JSON_OF.format("Decision") + " On the first message.",
            h.FIGURES: _JSON_OF.format("Figures") + " On a reply of one message.",
            h.PART: "i/n: this message is part i of n of one chunk.",
            h.CONTENT_TYPE: "The engine's content type, on passthrough.",
        },
    ),
    "EndHeaders": _headers(
        "EndHeaders",
        {h.CHUNKS: "How many messages came before this one.", h.FIGURES: _JSON_OF.format("Figures")},
    ),
    "ErrorHeaders": _headers(
        "ErrorHeaders",
        {
            h.SERVICE_ERROR: "The error in words.",
            h.SERVICE_ERROR_CODE: "An HTTP-like status.",
            h.RETRY_AFTER: "Whole seconds after which asking again may succeed, where waiting is what helps.",
        },
    ),
    "KeptHeaders": _headers(
        "KeptHeaders",
        {
            h.EXPECTED_LAST_SUBJECT_SEQUENCE: "Revision of the value that this one replaces; `0`: there is none.",
            h.TTL: "Seconds after which the value is forgotten.",
        },
    ),
    "ResultHeaders": _headers(
        "ResultHeaders",
        {h.EXPECTED_LAST_SUBJECT_SEQUENCE: "Number of the result of an earlier run; `0`: there is none."},
    ),
    "SubmitHeaders": _headers(
        "SubmitHeaders",
        {
            h.MSG_ID: _STORED_ONCE.format("the job's id"),
            h.EXPECTED_LAST_SUBJECT_SEQUENCE: "`0`: refuse the job when one waits under its subject.",
            h.JOB_RUN: "How often the job is run by request, on a message that runs it again; absent means 1.",
            h.EXPECTED_STREAM: "Refuse the job unless the stream with this name takes it.",
            h.EXPECTED_LAST_SEQUENCE: "Refuse the job unless this is the number of the stream's last message.",
            h.SCHEDULE: "`@at` and an instant: when the server publishes a delayed job.",
            **_TRACE,
            **_ROUTING,
        },
    ),
    "LetterHeaders": _headers("LetterHeaders", {h.JOB_STATUS: _JSON_OF.format("JobStatus") + " How the job ended."}),
    "OutcomeHeaders": _headers("OutcomeHeaders", {h.MSG_ID: _STORED_ONCE.format("the attempt's id")}),
    "OperatorHeaders": _headers(
        "OperatorHeaders", {h.OPERATOR: _JSON_OF.format("Operator") + " Who asks, for the trail of what operators did."}
    ),
    "CallbackHeaders": _headers("CallbackHeaders", {h.MSG_ID: _STORED_ONCE.format("the job's id and its run")}),
    "PubAck": {
        "title": "PubAck",
        "description": "What JetStream answers to a message that it is asked to store.",
        "type": "object",
        "properties": {
            "stream": {**_TEXT, "description": "The stream that has it; empty when it was refused."},
            "seq": {"type": "integer", "minimum": 0, "description": "Its number there."},
            "duplicate": {"type": "boolean", "description": "It was stored already; nothing was stored now."},
            "domain": {**_TEXT, "description": "The JetStream domain, where there are several."},
            "error": {
                "title": "PubAckError",
                "type": "object",
                "description": "Why it is not stored.",
                "properties": {
                    "code": {"type": "integer", "description": "An HTTP-like status."},
                    "err_code": {"type": "integer", "description": "Which error, in NATS' own numbers."},
                    "description": {**_TEXT, "description": "It in words."},
                },
            },
        },
    },
}
"""Schemas of headers, and of what NATS itself answers."""

SECURITY: Final[dict[str, Schema]] = {
    "credentialsFile": {
        "type": "asymmetricEncryption",
        "description": "A credentials file of NATS: claims that the fleet signed, and a key that signs the server's "
        "challenge. The claims name the member and its role.",
    },
    "userPassword": {
        "type": "userPassword",
        "description": "User and password, where the server has a list of users.",
    },
    "token": {"type": "apiKey", "in": "password", "description": "A token, where the server has one for everybody."},
}
"""How a member shows who it is; an open bus asks for nothing."""
