"""Names of the headers that messages carry. Case-sensitive, as on the wire."""

from __future__ import annotations

from typing import Final

# Request, set by the caller.
REQUEST_ID: Final = "Sollol-Request-Id"
CANCEL_SECRET: Final = "Sollol-Cancel-Secret"  # noqa: S105 the name of a header, not a secret
"""A secret of the caller's choice, without which its request cannot be cancelled."""
CALLER: Final = "Sollol-Caller"
"""Who asks, as a word that a gateway chose for the key: failures of one caller's requests alone prove little."""
CONTROL_INBOX: Final = "Sollol-Control"
"""Where the dispatcher tells `execution.RequestNews`: who took the request, its place in the queue, its node."""
RESEND: Final = "Sollol-Resend"
"""How often this request was sent again after its dispatcher died; absent means 0."""
WAITED: Final = "Sollol-Waited"
"""Seconds that a request has waited already, when it is sent again or is a try of a job."""
NUMBER: Final = "Sollol-Number"
"""Number of the next attempt of a request that one dispatcher handed to another."""
JOB_PLACE: Final = "Sollol-Job-Place"
"""Of a try of a job: when the server stored the job (nanoseconds of Unix time), its number in its stream, and how many
jobs of its priority waited behind it, with a space between."""
JOB: Final = "Sollol-Job"
"""The job that the request is a try of: it is recorded under the job too, waits without limit unless a deadline is
given, and is given back by the dispatcher that runs the job when that drains before a node works on it."""
RESUME: Final = "Sollol-Resume"
"""Who goes on with an answer that breaks off, so that its attempt may be stopped with `moved`: `1`, the caller itself;
`dispatcher`, a dispatcher for a caller that only listens."""
CONTINUE: Final = "Sollol-Continue"
"""Length of the body in bytes: behind it, `continuation.ContinueFrom` as JSON says what was said of the answer."""
STREAM: Final = "Sollol-Stream"
"""Chunks and an empty message on the bus, whatever the body's own `stream` says: `1`, a message for each; `joined`, one
for those that come close together."""
JOINED: Final = "joined"
PATH: Final = "Sollol-Path"
"""The engine's path of a passthrough request, in origin form."""
TRACEPARENT: Final = "traceparent"
VIA: Final = "Sollol-Via"
"""Which gateways and nodes a request came through, with commas between: one that comes round is refused."""

# Routing fields as headers: `X-Sollol-Priority` and so on; see `routing.Routing`.
ROUTING_PREFIX: Final = "X-Sollol-"

# Requests of operators.
OPERATOR: Final = "Sollol-Operator"
"""`acts.Operator` as JSON: who asks for what only operators may, for the trail."""

# Exec, set by the dispatcher (control role only).
REPLY_TO: Final = "Sollol-Reply-To"
"""The caller's inbox: the only place where the node may publish tokens."""
EXEC: Final = "Sollol-Exec"
"""`execution.Exec` as JSON."""

# Replies.
DECISION: Final = "Sollol-Decision"
"""`decision.Decision` as JSON, on the first message of a reply."""
FIGURES: Final = "Sollol-Figures"
"""`execution.Figures` as JSON, on the last message of a reply."""
CHUNKS: Final = "Sollol-Chunks"
"""How many messages came before this last, empty one."""
PART: Final = "Sollol-Part"
"""`i/n`: this message is part i of n of one chunk that was too large for one message."""
CONTENT_TYPE: Final = "Content-Type"
RETRY_AFTER: Final = "Retry-After"
"""On an error: whole seconds after which asking again may succeed, where waiting is what helps."""

# Jobs.
JOB_RUN: Final = "Sollol-Job-Run"
"""How often the job is run by request, on a message that runs it again; absent means 1."""
JOB_STATUS: Final = "Sollol-Job-Status"
"""`jobs.JobStatus` as JSON, on a dead letter."""

# NATS conventions.
SCHEDULE: Final = "Nats-Schedule"
"""`@at` and an instant: when the server publishes a delayed message."""
SERVICE_ERROR: Final = "Nats-Service-Error"
SERVICE_ERROR_CODE: Final = "Nats-Service-Error-Code"
MSG_ID: Final = "Nats-Msg-Id"
EXPECTED_STREAM: Final = "Nats-Expected-Stream"
EXPECTED_LAST_SEQUENCE: Final = "Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
TTL: Final = "Nats-TTL"
TRACE_DEST: Final = "Nats-Trace-Dest"
TRACE_ONLY: Final = "Nats-Trace-Only"
"""The server says where a message would go, and delivers it to nobody."""
STATUS: Final = "Status"
NO_RESPONDERS: Final = "503"
