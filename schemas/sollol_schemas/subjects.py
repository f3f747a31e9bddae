"""Every subject of the bus: builder, wildcard and the table from which documents and permissions are made.

Builders trust their arguments: ids are checked with `ids.is_bus_id` where they enter the system, because an
unchecked id could change the meaning of a subject.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

V1: Final = "sollol.v1"

# Requests of callers.
GENERATE: Final = f"{V1}.generate"
CHAT: Final = f"{V1}.chat"
EMBED: Final = f"{V1}.embed"
PASSTHROUGH: Final = f"{V1}.passthrough"
ROUTE: Final = f"{V1}.route"
CANCEL: Final = f"{V1}.cancel"

# Queries.
NODES: Final = f"{V1}.nodes"
MODELS: Final = f"{V1}.models"
STATS: Final = f"{V1}.stats"
RELIABILITY: Final = f"{V1}.reliability"
RECENT: Final = f"{V1}.recent"
WHY_ALL: Final = f"{V1}.why.*"
ADMIN_NODE_ALL: Final = f"{V1}.admin.node.*"
ADMIN_STRATEGY: Final = f"{V1}.admin.strategy"
ADMIN_BREAKER: Final = f"{V1}.admin.breaker"
STRATEGY_EVENT: Final = f"{V1}.events.strategy"
RESET_EVENT: Final = f"{V1}.events.reset"
ADMIN_METRICS_RESET: Final = f"{V1}.admin.metrics.reset"

# The scorer's own.
GRANT: Final = f"{V1}.scorer.grant"
RELEASE: Final = f"{V1}.scorer.release"
SCORER_ROUTE: Final = f"{V1}.scorer.route"

# Durable jobs.
JOB_SUBMIT_ALL: Final = f"{V1}.jobs.submit.*.*"
JOB_ENQUEUE: Final = f"{V1}.jobs.enqueue"
JOB_GET: Final = f"{V1}.jobs.get"
JOB_LIST: Final = f"{V1}.jobs.list"
JOB_CANCEL: Final = f"{V1}.jobs.cancel"
JOB_DEAD: Final = f"{V1}.jobs.dead"
JOB_RETRY: Final = f"{V1}.jobs.retry"
JOB_PURGE: Final = f"{V1}.jobs.purge"
JOB_DELAYED_ALL: Final = f"{V1}.jobs.delayed.*.*"
JOB_DUE_ALL: Final = f"{V1}.jobs.due.*.*"
JOB_RESULT_ALL: Final = f"{V1}.jobs.result.*"
JOB_LETTER_ALL: Final = f"{V1}.jobs.letter.*"
JOB_CALLBACK_ALL: Final = f"{V1}.jobs.callback.*"
JOB_CALLBACK_ROOT: Final = "callbacks."
"""Results are delivered to subjects below this one, or into callers' inboxes, and nowhere else."""
JOB_PRIORITIES: Final = range(11)

# Wildcards.
TELEMETRY_ALL: Final = f"{V1}.telemetry.*"
LOAD_ALL: Final = f"{V1}.load.*"
EVENTS_ALL: Final = f"{V1}.events.>"
ROUTING_EVENTS_ALL: Final = f"{V1}.events.routing.*"
OUTCOMES_ALL: Final = f"{V1}.events.outcome.*"
NODE_EVENTS_ALL: Final = f"{V1}.events.node.*.*"
OFFICE_EVENTS_ALL: Final = f"{V1}.events.scorer.*"
PRELOAD_EVENTS_ALL: Final = f"{V1}.events.preload.*"
BREAKER_EVENTS_ALL: Final = f"{V1}.events.breaker.*.*"
JOB_EVENTS_ALL: Final = f"{V1}.events.job.*.*"

# Inboxes. Only these prefixes may receive tokens.
CLIENT_INBOX_PREFIXES: Final = ("_INBOX.", "_INBOX_cli.")
CONTROL_INBOX_PREFIX: Final = "_INBOX_ctl"
GATEWAY_INBOX_PREFIX: Final = "_INBOX_cli"
"""A gateway is of the control role, but takes tokens as a client does."""

# Streams, buckets and queue groups.
EVENTS_STREAM: Final = "SOLLOL_EVENTS"
NODES_BUCKET: Final = "SOLLOL_NODES"
LEASES_BUCKET: Final = "SOLLOL_LEASES"
SETTINGS_BUCKET: Final = "SOLLOL_SETTINGS"
LEARNED_BUCKET: Final = "SOLLOL_LEARNED"
JOBS_STREAM: Final = "SOLLOL_JOBS"
DELAYED_STREAM: Final = "SOLLOL_DELAYED"
RESULTS_STREAM: Final = "SOLLOL_RESULTS"
LETTERS_STREAM: Final = "SOLLOL_LETTERS"
CALLBACKS_STREAM: Final = "SOLLOL_CALLBACKS"
ADVISORIES_STREAM: Final = "SOLLOL_ADVISORIES"
JOBS_BUCKET: Final = "SOLLOL_JOB"
JOB_BLOBS: Final = "SOLLOL_JOB_BLOBS"
BATCHES_BUCKET: Final = "SOLLOL_BATCHES"
FILES_STORE: Final = "SOLLOL_FILES"
DISPATCHERS: Final = "dispatchers"
RECORDERS: Final = "recorders"
SCORER_LEASE: Final = "scorer"
RECORDER_LEASE: Final = "recorder"
NO_NODE: Final = "_none"


def why(request_id: str) -> str:
    """Where everything recorded about one request is asked for."""
    return f"{V1}.why.{request_id}"


def admin_node(operation: str) -> str:
    """Where an operator asks for `operation` (drain, undrain, load, unload, pull, set) on one node."""
    return f"{V1}.admin.node.{operation}"


def scorer_probe(instance: str) -> str:
    """Answers while this instance of the scorer lives."""
    return f"{V1}.scorer.probe.{instance}"


def dispatcher_probe(instance: str) -> str:
    """Answers while this instance of a dispatcher lives."""
    return f"{V1}.dispatcher.probe.{instance}"


def node_exec(node_id: str) -> str:
    """Where a node takes work."""
    return f"{V1}.node.{node_id}.exec"


def node_cancel(node_id: str) -> str:
    """Where a node is told to stop an attempt."""
    return f"{V1}.node.{node_id}.cancel"


def node_control(node_id: str) -> str:
    """Where a node answers probes and control requests."""
    return f"{V1}.node.{node_id}.control"


def attempt(node_id: str, attempt_id: str) -> str:
    """Where a node reports on one attempt to the dispatcher that started it."""
    return f"{V1}.attempt.{node_id}.{attempt_id}"


def telemetry(node_id: str) -> str:
    """A node's full heartbeat."""
    return f"{V1}.telemetry.{node_id}"


def load(node_id: str) -> str:
    """A node's change of load."""
    return f"{V1}.load.{node_id}"


def routing_event(mode: str) -> str:
    """Every decision taken in one mode."""
    return f"{V1}.events.routing.{mode}"


def outcome_event(node_id: str) -> str:
    """Outcomes of one node's attempts; `NO_NODE` for requests that reached none."""
    return f"{V1}.events.outcome.{node_id}"


def node_event(node_id: str, state: str) -> str:
    """A node's change of state."""
    return f"{V1}.events.node.{node_id}.{state}"


def preload_event(node_id: str) -> str:
    """A node was told to load a model that nobody waits for yet."""
    return f"{V1}.events.preload.{node_id}"


def office_event(instance: str) -> str:
    """A scorer takes or leaves office."""
    return f"{V1}.events.scorer.{instance}"


def breaker_event(node_id: str, state: str) -> str:
    """A circuit breaker's change of state."""
    return f"{V1}.events.breaker.{node_id}.{state}"


def job_submit(priority: int | str, job_id: str) -> str:
    """Where a job is stored for work; a priority of `*` finds it whatever its priority."""
    return f"{V1}.jobs.submit.{priority}.{job_id}"


def job_delayed(priority: int | str, job_id: str) -> str:
    """Where a job waits for its time."""
    return f"{V1}.jobs.delayed.{priority}.{job_id}"


def job_due(priority: int | str, job_id: str) -> str:
    """Where a job appears when its time has come."""
    return f"{V1}.jobs.due.{priority}.{job_id}"


def job_result(job_id: str) -> str:
    """Where a job's result is stored."""
    return f"{V1}.jobs.result.{job_id}"


def job_letter(job_id: str) -> str:
    """Where the dead letter of a job is kept."""
    return f"{V1}.jobs.letter.{job_id}"


def job_callback(job_id: str) -> str:
    """Where a result waits until it was delivered."""
    return f"{V1}.jobs.callback.{job_id}"


def job_event(job_id: str, news: str) -> str:
    """What happens to one job."""
    return f"{V1}.events.job.{job_id}.{news}"


def is_callback_subject(subject: str) -> bool:
    """Whether a result may be delivered to `subject`: below `callbacks.`, or in a caller's inbox."""
    below = subject.removeprefix(JOB_CALLBACK_ROOT)
    return is_client_inbox(subject) or (below != subject and is_client_inbox(CLIENT_INBOX_PREFIXES[0] + below))


def node_inbox_prefix(node_id: str) -> str:
    """A node's own inbox space."""
    return f"_INBOX_{node_id}"


def is_client_inbox(subject: str) -> bool:
    """Whether tokens may be published to `subject`: a concrete subject inside the callers' inbox space."""
    return (
        subject.startswith(CLIENT_INBOX_PREFIXES)
        and subject.isascii()
        and len(subject) <= 256
        and not any(c in "*> \t\r\n" for c in subject)
        and ".." not in subject
        and not subject.endswith(".")
    )


def last_token(subject: str) -> str:
    """The last token of a subject."""
    return subject.rpartition(".")[2]


class Role(StrEnum):
    """Who may speak on the bus; credentials carry exactly one role."""

    CLIENT = "client"  # callers: requests, queries, jobs
    NODE = "node"  # one node monitor, under its own id only
    CONTROL = "control"  # scorer, dispatcher, recorder, gateway
    OBSERVER = "observer"  # dashboards: read only


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the subject table."""

    address: str
    """The subject with its parameters in braces."""
    summary: str
    senders: tuple[Role, ...]
    receivers: tuple[Role, ...]
    payload: str
    """Name of the Struct in the body; `engine` for a body in the engine's own dialect."""
    reply: str = ""
    """Name of the Struct of the reply, `engine` for chunks and an empty message; empty: no reply."""
    queue_group: str = ""

    @property
    def wildcard(self) -> str:
        """The subject with `*` for every parameter."""
        return ".".join("*" if t.startswith("{") else t for t in self.address.split("."))


_CALLERS = (Role.CLIENT, Role.CONTROL)
_READERS = (Role.CLIENT, Role.CONTROL, Role.OBSERVER)
_CTL = (Role.CONTROL,)
_NODE = (Role.NODE,)
_WATCHERS = (Role.CONTROL, Role.OBSERVER)

CHANNELS: Final[tuple[Channel, ...]] = (
    Channel(
        address=GENERATE,
        summary="Generate text from a prompt (Ollama's body plus routing fields).",
        senders=_CALLERS,
        receivers=_CTL,
        payload="engine",
        reply="engine",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=CHAT,
        summary="Answer a conversation (Ollama's body plus routing fields).",
        senders=_CALLERS,
        receivers=_CTL,
        payload="engine",
        reply="engine",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=EMBED,
        summary="Embed texts (Ollama's body plus routing fields).",
        senders=_CALLERS,
        receivers=_CTL,
        payload="engine",
        reply="engine",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=PASSTHROUGH,
        summary="Any other engine path, named in the Sollol-Path header; the body is forwarded as it is.",
        senders=_CALLERS,
        receivers=_CTL,
        payload="engine",
        reply="engine",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=ROUTE,
        summary="Where would this run, and why? Takes the body of generate, chat or embed; never grants.",
        senders=_CALLERS,
        receivers=_CTL,
        payload="engine",
        reply="DecisionEvent",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=CANCEL,
        summary="Cancel a request, with the secret its caller chose.",
        senders=_CALLERS,
        receivers=_CTL,
        payload="CancelRequest",
        reply="CancelReply",
    ),
    Channel(
        address=NODES,
        summary="The fleet as the scorer sees it.",
        senders=_READERS,
        receivers=_CTL,
        payload="",
        reply="NodesReply",
    ),
    Channel(
        address=MODELS,
        summary="Every model of the fleet.",
        senders=_READERS,
        receivers=_CTL,
        payload="",
        reply="ModelsReply",
    ),
    Channel(
        address=STATS,
        summary="Statistics of the cluster.",
        senders=_READERS,
        receivers=_CTL,
        payload="StatsRequest",
        reply="StatsReply",
        queue_group=RECORDERS,
    ),
    Channel(
        address=RELIABILITY,
        summary="Reliability per node and model.",
        senders=_READERS,
        receivers=_CTL,
        payload="ReliabilityRequest",
        reply="ReliabilityReply",
        queue_group=RECORDERS,
    ),
    Channel(
        address=RECENT,
        summary="The latest outcomes and node events.",
        senders=_READERS,
        receivers=_CTL,
        payload="RecentRequest",
        reply="RecentReply",
        queue_group=RECORDERS,
    ),
    Channel(
        address=f"{V1}.why.{{request_id}}",
        summary="Everything recorded about one request.",
        senders=_READERS,
        receivers=_CTL,
        payload="",
        reply="WhyReply",
        queue_group=RECORDERS,
    ),
    Channel(
        address=f"{V1}.admin.node.{{operation}}",
        summary="An operator's request about one node: drain, undrain, load, unload, pull, set.",
        senders=_CTL,
        receivers=_CTL,
        payload="AdminRequest",
        reply="ControlReply",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=ADMIN_METRICS_RESET,
        summary="Forget recorded outcomes and reliability.",
        senders=_CTL,
        receivers=_CTL,
        payload="ReliabilityRequest",
        reply="ReliabilityReply",
        queue_group=RECORDERS,
    ),
    Channel(
        address=ADMIN_STRATEGY,
        summary="The scorer's strategy and the settings that may change at run time: ask, or change them.",
        senders=_CTL,
        receivers=_CTL,
        payload="StrategyRequest",
        reply="StrategyReply",
    ),
    Channel(
        address=ADMIN_BREAKER,
        summary="The circuit breakers: ask, or close some by force.",
        senders=_CTL,
        receivers=_CTL,
        payload="BreakerRequest",
        reply="BreakersReply",
    ),
    Channel(
        address=STRATEGY_EVENT,
        summary="The strategy or one of its settings changed.",
        senders=_CTL,
        receivers=_READERS,
        payload="StrategyEvent",
    ),
    Channel(
        address=RESET_EVENT,
        summary="An operator had breakers closed or reliability forgotten.",
        senders=_CTL,
        receivers=_WATCHERS,
        payload="ResetEvent",
    ),
    Channel(
        address=GRANT,
        summary="A dispatcher asks for a slot; answered by the scorer in office, possibly several times.",
        senders=_CTL,
        receivers=_CTL,
        payload="GrantRequest",
        reply="GrantReply",
    ),
    Channel(
        address=RELEASE,
        summary="A dispatcher no longer wants a slot.",
        senders=_CTL,
        receivers=_CTL,
        payload="GrantRelease",
    ),
    Channel(
        address=SCORER_ROUTE,
        summary="A decision without a grant.",
        senders=_CTL,
        receivers=_CTL,
        payload="RouteRequest",
        reply="DecisionEvent",
    ),
    Channel(
        address=f"{V1}.scorer.probe.{{instance}}",
        summary="Answers while this scorer lives.",
        senders=_CTL,
        receivers=_CTL,
        payload="",
        reply="",
    ),
    Channel(
        address=f"{V1}.dispatcher.probe.{{instance}}",
        summary="Answers while this dispatcher lives.",
        senders=_CALLERS,
        receivers=_CTL,
        payload="",
        reply="",
    ),
    Channel(
        address=f"{V1}.node.{{node_id}}.exec",
        summary="Work for a node: envelope in the Sollol-Exec header, the caller's body as it is.",
        senders=_CTL,
        receivers=_NODE,
        payload="engine",
        reply="AttemptReport",
    ),
    Channel(
        address=f"{V1}.node.{{node_id}}.cancel",
        summary="Stop an attempt.",
        senders=_CTL,
        receivers=_NODE,
        payload="CancelAttempt",
    ),
    Channel(
        address=f"{V1}.node.{{node_id}}.control",
        summary="Probe, drain, load, unload, pull, weight and labels.",
        senders=(Role.CONTROL, Role.NODE),
        receivers=_NODE,
        payload="ControlRequest",
        reply="ControlReply",
    ),
    Channel(
        address=f"{V1}.attempt.{{node_id}}.{{attempt_id}}",
        summary="A node's reports on one attempt.",
        senders=_NODE,
        receivers=_CTL,
        payload="AttemptReport",
        reply="StartAnswer",
    ),
    Channel(
        address=f"{V1}.telemetry.{{node_id}}",
        summary="A node's full heartbeat, once a second.",
        senders=_NODE,
        receivers=_WATCHERS,
        payload="Telemetry",
    ),
    Channel(
        address=f"{V1}.load.{{node_id}}",
        summary="A node's change of load, at most 20 a second.",
        senders=_NODE,
        receivers=_WATCHERS,
        payload="LoadUpdate",
    ),
    Channel(
        address=f"{V1}.events.routing.{{mode}}",
        summary="Every routing decision.",
        senders=_CTL,
        receivers=_READERS,
        payload="DecisionEvent",
    ),
    Channel(
        address=f"{V1}.events.outcome.{{node_id}}",
        summary="How each attempt ended.",
        senders=(Role.NODE, Role.CONTROL),
        receivers=_WATCHERS,
        payload="Outcome",
    ),
    Channel(
        address=f"{V1}.events.node.{{node_id}}.{{state}}",
        summary="A node changed its state.",
        senders=_CTL,
        receivers=_READERS,
        payload="NodeEvent",
    ),
    Channel(
        address=f"{V1}.events.preload.{{node_id}}",
        summary="A node loaded a model before a request needed it there.",
        senders=_CTL,
        receivers=_READERS,
        payload="PreloadEvent",
    ),
    Channel(
        address=f"{V1}.events.scorer.{{instance}}",
        summary="A scorer took or left office.",
        senders=_CTL,
        receivers=_WATCHERS,
        payload="OfficeEvent",
    ),
    Channel(
        address=f"{V1}.events.breaker.{{node_id}}.{{state}}",
        summary="A circuit breaker changed its state.",
        senders=_CTL,
        receivers=_READERS,
        payload="BreakerEvent",
    ),
    Channel(
        address=f"{V1}.jobs.submit.{{priority}}.{{job_id}}",
        summary="Submit a durable job with one JetStream publish; its priority is 0 to 10.",
        senders=_CALLERS,
        receivers=_CTL,
        payload="Job",
    ),
    Channel(
        address=JOB_ENQUEUE,
        summary="Submit a durable job by request: it is checked first, then stored.",
        senders=_CALLERS,
        receivers=_CTL,
        payload="EnqueueRequest",
        reply="EnqueueReply",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=JOB_GET,
        summary="What is known about one job, and its answer in further messages up to an empty one.",
        senders=_READERS,
        receivers=_CTL,
        payload="JobGet",
        reply="JobReply",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=JOB_LIST,
        summary="The latest jobs, and how many wait.",
        senders=_READERS,
        receivers=_CTL,
        payload="JobListRequest",
        reply="JobListReply",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=JOB_DEAD,
        summary="The jobs of which a dead letter is kept: every try failed, or none could succeed.",
        senders=_READERS,
        receivers=_CTL,
        payload="JobListRequest",
        reply="JobListReply",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=JOB_CANCEL,
        summary="Cancel a job, wherever it is in its life.",
        senders=_CALLERS,
        receivers=_CTL,
        payload="JobRef",
        reply="JobReply",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=JOB_RETRY,
        summary="Run a job again of which a dead letter is kept.",
        senders=_CALLERS,
        receivers=_CTL,
        payload="JobRef",
        reply="EnqueueReply",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=JOB_PURGE,
        summary="Forget jobs that have ended, with their results.",
        senders=_CTL,
        receivers=_CTL,
        payload="JobPurgeRequest",
        reply="JobPurgeReply",
        queue_group=DISPATCHERS,
    ),
    Channel(
        address=f"{V1}.jobs.delayed.{{priority}}.{{job_id}}",
        summary="A job that is not due yet; the server moves it when it is.",
        senders=_CTL,
        receivers=_CTL,
        payload="Job",
    ),
    Channel(
        address=f"{V1}.jobs.due.{{priority}}.{{job_id}}",
        summary="A delayed job whose time has come; dispatchers move it to the others.",
        senders=(),
        receivers=_CTL,
        payload="Job",
    ),
    Channel(
        address=f"{V1}.jobs.result.{{job_id}}",
        summary="How a job ended; stored, and never twice for the same run.",
        senders=_CTL,
        receivers=_READERS,
        payload="JobResult",
    ),
    Channel(
        address=f"{V1}.jobs.letter.{{job_id}}",
        summary="The dead letter of a job: the job as it was submitted, and in a header how it ended.",
        senders=_CTL,
        receivers=_CTL,
        payload="Job",
    ),
    Channel(
        address=f"{V1}.jobs.callback.{{job_id}}",
        summary="A result that waits until it was delivered.",
        senders=_CTL,
        receivers=_CTL,
        payload="JobCallback",
    ),
    Channel(
        address=f"{V1}.events.job.{{job_id}}.{{news}}",
        summary="Something happened to a job.",
        senders=_CTL,
        receivers=_READERS,
        payload="JobEvent",
    ),
)
