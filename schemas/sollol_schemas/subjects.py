"""Every subject of the bus: one row each, from which code, permissions and documents are made.

A subject without parameters is a plain string; of one with parameters, `of` makes a subject and `all` is the wildcard.
Both trust their arguments: ids are checked with `ids.is_bus_id` where they enter the system, because an unchecked id
could change the meaning of a subject.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

V1: Final = "sollol.v1"
AS: Final = f"{V1}.as."
"""Where members ask under their own name: `sollol.v1.as.<user>.chat` is what `sollol.v1.chat` is on an open bus."""
ENGINE: Final = "engine"
"""Stands for a body in the engine's own dialect; as a reply, for chunks of it and an empty message."""
DISPATCHERS: Final = "dispatchers"
RECORDERS: Final = "recorders"
REGISTRARS: Final = "registrars"
NO_NODE: Final = "_none"
"""Stands for the node in the outcome of a request that never reached one."""
JOB_PRIORITIES: Final = range(11)


class Role(StrEnum):
    """Who may speak on the bus; credentials carry exactly one role."""

    CLIENT = "client"  # callers: requests, queries, jobs
    NODE = "node"  # one node monitor, under its own id only
    CONTROL = "control"  # scorer, dispatcher, recorder, gateway
    OBSERVER = "observer"  # dashboards: read only
    NEWCOMER = "newcomer"  # who has a token and no credentials yet: may ask to be admitted


MEMBERS: Final = (Role.CLIENT, Role.OBSERVER)
"""Who asks under its own name where the server knows names."""
NOBODY: Final = ()
"""The server itself."""
CONTROL: Final = (Role.CONTROL,)
NODE: Final = (Role.NODE,)
CALLERS: Final = (Role.CLIENT, Role.CONTROL)
WATCHERS: Final = (Role.CONTROL, Role.OBSERVER)
READERS: Final = (Role.CLIENT, Role.CONTROL, Role.OBSERVER)


class Subject:
    """One row.

    Args:
        pattern: The subject below `sollol.v1`, with its parameters in braces.
        by: Who may send to it.
        to: Who may receive it.
        payload: Name of the Struct or union in the body; `ENGINE`; empty: the body is not read.
        reply: Name of the Struct or union of the reply; `ENGINE`; empty: no reply.
        queue: The group of which one member gets each message; empty: everybody does.
    """

    __slots__ = ("address", "all", "by", "of", "payload", "queue", "reply", "to")

    table: list[Subject] = []  # noqa: RUF012 filled by the rows below and by nothing else

    def __init__(
        self,
        pattern: str,
        *,
        by: tuple[Role, ...],
        to: tuple[Role, ...],
        payload: str = "",
        reply: str = "",
        queue: str = "",
    ) -> None:
        self.address = f"{V1}.{pattern}"
        """The subject with its parameters in braces."""
        tokens = ["*" if token.startswith("{") else token for token in self.address.split(".")]
        self.all = ".".join(tokens)
        """The subject with `*` for every parameter; of one without parameters, the subject itself."""
        self.of = _builder(self.all.split("*"))
        """Makes the subject from its parameters, in their order; a parameter of `*` stays a wildcard."""
        self.by = by
        self.to = to
        self.payload = payload
        self.reply = reply
        self.queue = queue
        Subject.table.append(self)

    def __repr__(self) -> str:
        """The row's address."""
        return f"Subject({self.address!r})"


def _builder(parts: list[str]) -> Callable[..., str]:
    """As quick as a function written for one subject: some are made for every message."""
    match parts:
        case [whole]:
            return lambda: whole
        case [head, tail]:
            return lambda token: f"{head}{token}{tail}"
        case [head, middle, tail]:
            return lambda first, second: f"{head}{first}{middle}{second}{tail}"
        case [head, near, far, tail]:
            return lambda first, second, third: f"{head}{first}{near}{second}{far}{third}{tail}"
        case _:
            raise ValueError(f"at most three parameters: {'*'.join(parts)}")


def by_members(subject: str) -> str:
    """The subject, or pattern, under which members ask what a plain one asks; `*` stands for their names."""
    return f"{AS}*{subject.removeprefix(V1)}"


def last_token(subject: str) -> str:
    """The last token of a subject."""
    return subject.rpartition(".")[2]


# Requests of callers.
GENERATE: Final = Subject("generate", by=CALLERS, to=CONTROL, payload=ENGINE, reply=ENGINE, queue=DISPATCHERS).all
"""Generate text from a prompt (Ollama's body plus routing fields)."""
CHAT: Final = Subject("chat", by=CALLERS, to=CONTROL, payload=ENGINE, reply=ENGINE, queue=DISPATCHERS).all
"""Answer a conversation (Ollama's body plus routing fields)."""
EMBED: Final = Subject("embed", by=CALLERS, to=CONTROL, payload=ENGINE, reply=ENGINE, queue=DISPATCHERS).all
"""Embed texts (Ollama's body plus routing fields)."""
PASSTHROUGH: Final = Subject("passthrough", by=CALLERS, to=CONTROL, payload=ENGINE, reply=ENGINE, queue=DISPATCHERS).all
"""Any other engine path, named in the Sollol-Path header; the body is forwarded as it is."""
ROUTE: Final = Subject("route", by=CALLERS, to=CONTROL, payload=ENGINE, reply="DecisionEvent", queue=DISPATCHERS).all
"""Where would this run, and why? Takes the body of generate, chat or embed; never grants."""
CANCEL: Final = Subject("cancel", by=CALLERS, to=CONTROL, payload="CancelRequest", reply="CancelReply").all
"""Cancel a request, with the secret its caller chose."""
STATE: Final = Subject(
    "state", by=CALLERS, to=CONTROL, payload="StateQuestion", reply="StateAnswer", queue=DISPATCHERS
).all
"""What became of an attempt? Its node is asked, and tells the end again of one that has ended."""

# Queries.
NODES: Final = Subject("nodes", by=READERS, to=CONTROL, payload="NodesRequest", reply="NodesReply").all
"""The fleet as the scorer sees it."""
MODELS: Final = Subject("models", by=READERS, to=CONTROL, reply="ModelsReply").all
"""Every model of the fleet."""
SCALE: Final = Subject("scale", by=READERS, to=CONTROL, reply="ScaleReply").all
"""Whether each model has too few slots or too many."""
STATS: Final = Subject("stats", by=READERS, to=CONTROL, payload="StatsRequest", reply="StatsReply", queue=RECORDERS).all
"""Statistics of the cluster."""
RELIABILITY: Final = Subject(
    "reliability", by=READERS, to=CONTROL, payload="ReliabilityRequest", reply="ReliabilityReply", queue=RECORDERS
).all
"""Reliability per node and model."""
RECENT: Final = Subject(
    "recent", by=READERS, to=CONTROL, payload="RecentRequest", reply="RecentReply", queue=RECORDERS
).all
"""The latest outcomes and node events."""
USAGE: Final = Subject("usage", by=READERS, to=CONTROL, payload="UsageRequest", reply="UsageReply", queue=RECORDERS).all
"""Requests, tokens and seconds of slots, by team, caller, model or day; a caller is told of its own team."""
SCORER_GROUPS: Final = Subject(
    "scorer.groups", by=READERS, to=CONTROL, payload="GroupsRequest", reply="GroupsReply"
).all
"""Groups of models, with what was learnt of these."""
WHY: Final = Subject("why.{request_id}", by=READERS, to=CONTROL, reply="WhyReply", queue=RECORDERS)
"""Everything recorded about one request."""
FEEDBACK: Final = Subject(
    "feedback", by=CALLERS, to=CONTROL, payload="FeedbackRequest", reply="FeedbackReply", queue=RECORDERS
).all
"""How good an answer was; a client may say so of its own requests."""
FEEDBACK_HISTORY: Final = Subject(
    "feedback.history", by=CONTROL, to=CONTROL, reply="FeedbackHistory", queue=RECORDERS
).all
"""Former feedback, for a scorer to which nobody left what was learnt from it."""

# Requests of operators.
ADMIN_NODE: Final = Subject(
    "admin.node.{operation}", by=CONTROL, to=CONTROL, payload="AdminRequest", reply="ControlReply", queue=DISPATCHERS
)
"""An operator's request about one node: drain, undrain, load, unload, pull, set."""
ADMIN_METRICS_RESET: Final = Subject(
    "admin.metrics.reset",
    by=CONTROL,
    to=CONTROL,
    payload="ReliabilityRequest",
    reply="ReliabilityReply",
    queue=RECORDERS,
).all
"""Forget recorded outcomes and reliability."""
ADMIN_STRATEGY: Final = Subject(
    "admin.strategy", by=CONTROL, to=CONTROL, payload="StrategyRequest", reply="StrategyReply"
).all
"""The scorer's strategy and the settings that may change at run time: ask, or change them."""
ADMIN_BREAKER: Final = Subject(
    "admin.breaker", by=CONTROL, to=CONTROL, payload="BreakerRequest", reply="BreakersReply"
).all
"""The circuit breakers: ask, or close some by force."""
SCORER_GROUPS_SET: Final = Subject(
    "scorer.groups.set", by=CONTROL, to=CONTROL, payload="GroupChange", reply="GroupsReply"
).all
"""Make or remove a group of models, forget what was learnt of models, close the breaker of one."""
ADMIN_SLEEPERS: Final = Subject(
    "admin.sleepers", by=CONTROL, to=CONTROL, payload="SleepersRequest", reply="SleepersReply"
).all
"""The nodes that may sleep: ask, wake one, or send one to sleep."""

ADMIN_FLEET: Final = Subject(
    "admin.fleet", by=CONTROL, to=CONTROL, payload="FleetRequest", reply="FleetReply", queue=REGISTRARS
).all
"""Who belongs to the fleet: list, invite, give new credentials, revoke."""

ADMIN_ACTS: Final = Subject(
    "admin.acts", by=CONTROL, to=CONTROL, payload="ActsRequest", reply="ActsReply", queue=RECORDERS
).all
"""What operators did."""

# Of those who are no member yet.
JOIN: Final = Subject(
    "join", by=(Role.NEWCOMER,), to=CONTROL, payload="JoinRequest", reply="JoinReply", queue=REGISTRARS
).all
"""Ask to be admitted, with the secret of an invitation; without one, what the fleet's certificate is."""

# Between dispatchers and the scorer.
GRANT: Final = Subject("scorer.grant", by=CONTROL, to=CONTROL, payload="GrantRequest", reply="GrantReply").all
"""A dispatcher asks for a slot; answered by the scorer in office, possibly several times."""
RELEASE: Final = Subject("scorer.release", by=CONTROL, to=CONTROL, payload="GrantRelease").all
"""A dispatcher no longer wants a slot."""
SCORER_ROUTE: Final = Subject("scorer.route", by=CONTROL, to=CONTROL, payload="RouteRequest", reply="DecisionEvent").all
"""A decision without a grant."""
SCORER_PROBE: Final = Subject("scorer.probe.{instance}", by=CONTROL, to=CONTROL)
"""Answers while this scorer lives."""
DISPATCHER_PROBE: Final = Subject(
    "dispatcher.probe.{instance}", by=CALLERS, to=CONTROL, payload="DispatcherPing", reply="DispatcherPong"
)
"""Answers while this dispatcher lives, and whether it holds a request."""

# Between dispatchers and nodes.
NODE_EXEC: Final = Subject("node.{node_id}.exec", by=CONTROL, to=NODE, payload=ENGINE, reply="AttemptReport")
"""Work for a node: envelope in the Sollol-Exec header, the caller's body as it is."""
NODE_CANCEL: Final = Subject("node.{node_id}.cancel", by=CONTROL, to=NODE, payload="CancelAttempt")
"""Stop an attempt."""
NODE_LEAVE: Final = Subject("node.{node_id}.leave", by=CONTROL, to=NODE)
"""Empty, and its reply subject is an inbox: the server lets the node speak there from now on, for a while."""
NODE_CONTROL: Final = Subject(
    "node.{node_id}.control", by=CONTROL, to=NODE, payload="ControlRequest", reply="ControlReply"
)
"""Probe, drain, load, unload, pull, weight and labels, sleep, wake others."""
ATTEMPT: Final = Subject(
    "attempt.{node_id}.{attempt_id}", by=NODE, to=CONTROL, payload="AttemptReport", reply="StartAnswer"
)
"""A node's reports on one attempt; that of its end is acknowledged by JetStream as the outcome."""
LEAVE_WANTED: Final = Subject(
    "leave.{node_id}", by=NODE, to=CONTROL, payload="LeaveRequest", reply="LeaveReply", queue=DISPATCHERS
)
"""A node may not speak (any more) where it was to answer, and shows the ticket that came with the exec."""
NODE_CLAIM: Final = Subject(
    "claim.{node_id}", by=NODE, to=CONTROL, payload="ClaimRequest", reply="ClaimReply", queue=DISPATCHERS
)
"""A node claims its id; a dispatcher keeps the claim."""
NODE_OUTCOME: Final = Subject("outcome.{node_id}", by=NODE, to=CONTROL, payload="Outcome", queue=DISPATCHERS)
"""How an attempt ended, by its node: a dispatcher publishes it as an event, and JetStream acks that to the node."""
SLEEP: Final = Subject("sleep.{node_id}", by=NODE, to=CONTROL, payload="SleepRequest", reply="SleepReply")
"""A node asks whether it may go to sleep; the scorer in office answers."""
HAND_OVER: Final = Subject("handover.{node_id}", by=NODE, to=CONTROL, payload="HandOverRequest", reply="HandOverReply")
"""A node that takes no new work asks which of its answers may go on elsewhere; the scorer in office answers."""

# What nodes say about themselves.
TELEMETRY: Final = Subject("telemetry.{node_id}", by=NODE, to=WATCHERS, payload="Telemetry")
"""A node's full heartbeat, once a second."""
LOAD: Final = Subject("load.{node_id}", by=NODE, to=WATCHERS, payload="LoadUpdate")
"""A node's change of load, at most 20 a second."""

# Durable jobs.
JOB_SUBMIT: Final = Subject("jobs.submit.{priority}.{job_id}", by=CALLERS, to=CONTROL, payload="Job")
"""Submit a durable job with one JetStream publish; its priority is 0 to 10. Dispatchers take what members publish."""
JOB_ENQUEUE: Final = Subject(
    "jobs.enqueue", by=CALLERS, to=CONTROL, payload="EnqueueRequest", reply="EnqueueReply", queue=DISPATCHERS
).all
"""Submit a durable job by request: it is checked first, then stored."""
JOB_GET: Final = Subject("jobs.get", by=CALLERS, to=CONTROL, payload="JobGet", reply="JobReply", queue=DISPATCHERS).all
"""What is known about one job, and its answer in further messages up to an empty one."""
JOB_LIST: Final = Subject(
    "jobs.list", by=READERS, to=CONTROL, payload="JobListRequest", reply="JobListReply", queue=DISPATCHERS
).all
"""The latest jobs, and how many wait."""
JOB_DEAD: Final = Subject(
    "jobs.dead", by=READERS, to=CONTROL, payload="JobListRequest", reply="JobListReply", queue=DISPATCHERS
).all
"""The jobs of which a dead letter is kept: every try failed, or none could succeed."""
JOB_CANCEL: Final = Subject(
    "jobs.cancel", by=CALLERS, to=CONTROL, payload="JobRef", reply="JobReply", queue=DISPATCHERS
).all
"""Cancel a job, wherever it is in its life."""
JOB_RETRY: Final = Subject(
    "jobs.retry", by=CALLERS, to=CONTROL, payload="JobRef", reply="EnqueueReply", queue=DISPATCHERS
).all
"""Run a job again of which a dead letter is kept."""
JOB_PURGE: Final = Subject(
    "jobs.purge", by=CONTROL, to=CONTROL, payload="JobPurgeRequest", reply="JobPurgeReply", queue=DISPATCHERS
).all
"""Forget jobs that have ended, with their results."""
BATCH_TELL: Final = Subject(
    "batches.tell", by=CALLERS, to=CONTROL, payload="BatchTell", reply="BatchView", queue=DISPATCHERS
).all
"""A batch of jobs is being handed over, so far; the answer is how far its jobs are."""
BATCH_GET: Final = Subject(
    "batches.get", by=READERS, to=CONTROL, payload="BatchRef", reply="BatchView", queue=DISPATCHERS
).all
"""How far one batch is."""
BATCH_LIST: Final = Subject(
    "batches.list", by=READERS, to=CONTROL, payload="BatchListRequest", reply="BatchListReply", queue=DISPATCHERS
).all
"""How far the latest batches are."""
BATCH_CANCEL: Final = Subject(
    "batches.cancel", by=CALLERS, to=CONTROL, payload="BatchRef", reply="BatchView", queue=DISPATCHERS
).all
"""No more of a batch is handed over; its jobs are cancelled one by one by whoever asks."""
JOB_RETURNED: Final = Subject("jobs.returned.{priority}", by=CONTROL, to=CONTROL, payload="JobsReturned")
"""A dispatcher that leaves gave jobs back: the others take them ahead of what they have."""
JOB_DELAYED: Final = Subject("jobs.delayed.{priority}.{job_id}", by=CONTROL, to=CONTROL, payload="Job")
"""A job that is not due yet; the server moves it when it is."""
JOB_DUE: Final = Subject("jobs.due.{priority}.{job_id}", by=NOBODY, to=CONTROL, payload="Job")
"""A delayed job whose time has come; dispatchers move it to the others."""
JOB_RESULT: Final = Subject("jobs.result.{job_id}", by=CONTROL, to=CONTROL, payload="JobResult")
"""How a job ended that nobody owns; stored, and never twice for the same run."""
OWN_JOB_RESULT: Final = Subject("jobs.result.{user}.{job_id}", by=CONTROL, to=CALLERS, payload="JobResult")
"""How a user's job ended; stored, and never twice for the same run."""
JOB_LETTER: Final = Subject("jobs.letter.{job_id}", by=CONTROL, to=CONTROL, payload="Job")
"""The dead letter of a job: the job as it was submitted, and in a header how it ended."""
JOB_CALLBACK: Final = Subject("jobs.callback.{job_id}", by=CONTROL, to=CONTROL, payload="JobCallback")
"""A result that waits until it was delivered."""

# Events.
ROUTING_EVENT: Final = Subject("events.routing.{mode}", by=CONTROL, to=WATCHERS, payload="DecisionEvent")
"""Every routing decision; a client asks `why` of its own."""
DECISIONS_EVENT: Final = Subject("events.decisions", by=CONTROL, to=CONTROL, payload="Decisions").all
"""The decisions of some milliseconds in one message, as they are stored; each was told by itself as well."""
OUTCOME_EVENT: Final = Subject("events.outcome.{node_id}", by=CONTROL, to=WATCHERS, payload="Outcome")
"""How each attempt ended."""
CUT_EVENT: Final = Subject("events.cut.{node_id}", by=CONTROL, to=WATCHERS, payload="Cut")
"""A scorer moved an answer in its middle."""
NODE_EVENT: Final = Subject("events.node.{node_id}.{state}", by=CONTROL, to=READERS, payload="NodeEvent")
"""A node changed its state."""
PRELOAD_EVENT: Final = Subject("events.preload.{node_id}", by=CONTROL, to=READERS, payload="PreloadEvent")
"""A node loaded a model before a request needed it there."""
SCALE_EVENT: Final = Subject("events.scale", by=CONTROL, to=READERS, payload="ScaleEvent").all
"""A model has too few slots, too many, or enough again."""
SLEEP_EVENT: Final = Subject("events.sleep.{node_id}", by=CONTROL, to=READERS, payload="SleepEvent")
"""A node went to sleep, is woken, is back, or did not come."""
OFFICE_EVENT: Final = Subject("events.scorer.{instance}", by=CONTROL, to=WATCHERS, payload="OfficeEvent")
"""A scorer took or left office."""
BREAKER_EVENT: Final = Subject("events.breaker.{node_id}.{state}", by=CONTROL, to=READERS, payload="BreakerEvent")
"""A circuit breaker changed its state."""
STRATEGY_EVENT: Final = Subject("events.strategy", by=CONTROL, to=READERS, payload="StrategyEvent").all
"""The strategy or one of its settings changed."""
FEEDBACK_EVENT: Final = Subject("events.feedback", by=CONTROL, to=WATCHERS, payload="FeedbackEvent").all
"""Somebody told how good an answer was; scorers learn from it."""
RESET_EVENT: Final = Subject("events.reset", by=CONTROL, to=WATCHERS, payload="ResetEvent").all
"""An operator had breakers closed or reliability forgotten."""
JOB_EVENTS_ROOT: Final = f"{V1}.events.job"
JOB_EVENTS: Final = f"{JOB_EVENTS_ROOT}.>"
"""Everything that happens to jobs, whoever owns them."""
AUDIT_EVENT: Final = Subject("events.audit", by=CONTROL, to=CONTROL, payload="Act").all
"""An operator did something."""
JOB_EVENT: Final = Subject("events.job.{job_id}.{news}", by=CONTROL, to=CONTROL, payload="JobEvent")
"""Something happened to a job that nobody owns; not stored, the job's state tells as much."""
OWN_JOB_EVENT: Final = Subject("events.job.{user}.{job_id}.{news}", by=CONTROL, to=READERS, payload="JobEvent")
"""Something happened to a user's job; not stored, the job's state tells as much."""
STORED_EVENTS: Final = (
    DECISIONS_EVENT,
    *(event.all for event in (OUTCOME_EVENT, NODE_EVENT, PRELOAD_EVENT, OFFICE_EVENT, BREAKER_EVENT)),
    CUT_EVENT.all,
    SLEEP_EVENT.all,
    SCALE_EVENT,
    STRATEGY_EVENT,
    FEEDBACK_EVENT,
    RESET_EVENT,
    AUDIT_EVENT,
)
"""What the stream of events keeps."""

SUBJECTS: Final = tuple(Subject.table)
"""Every row, in this order."""
ASKED_BY_MEMBERS: Final = frozenset(row.all for row in SUBJECTS if set(MEMBERS) & set(row.by))
"""What clients or observers may ask."""
