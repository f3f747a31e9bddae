"""Requests to a node's control subject, and the operator's requests that are forwarded there."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from sollol_schemas.errors import ErrorBody
from sollol_schemas.prices import NodePrice
from sollol_schemas.stores import NodeClaim
from sollol_schemas.units import BusId, Count, NodeName, Seconds, Term, Weight

BlobDigest = Annotated[
    str, Meta(pattern=r"^sha256[:-][0-9a-f]{64}$(?!\n)", description="`sha256:` and the hexadecimal digest of a file.")
]


STILL_AT_IT: Final = b"{}"
"""Sent between the objects of an operation that takes long: it tells nothing but that the node is still at it."""


class ControlPing(msgspec.Struct, frozen=True, kw_only=True, tag="control.ping.v1"):
    """Is the node alive? Answered at once with `ControlReply`."""


class ControlDrain(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.drain.v1"):
    """Take no new work (or, with `is_draining` false, take it again)."""

    is_draining: bool = True
    lets_finish: bool = False
    """Whether answers that could go on elsewhere finish where they are."""


class ControlLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.load.v1"):
    """Load a model into memory."""

    model: str
    keep_alive_s: float | None = None


class ControlUnload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.unload.v1"):
    """Unload a model; refused while it is busy."""

    model: str


class ControlPull(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.pull.v1"):
    """Download a model; answered with a stream of progress objects and an empty message."""

    model: str


class EngineOperation(StrEnum):
    """What can be asked of an engine about its models, beside inference."""

    TAGS = "tags"  # the models on its disk
    PS = "ps"  # the models in its memory
    SHOW = "show"  # one model's details
    CREATE = "create"  # a model from another, or from blobs; answers with progress
    PULL = "pull"  # download a model; answers with progress
    PUSH = "push"  # upload a model to a registry; answers with progress
    COPY = "copy"
    DELETE = "delete"
    RECOMMENDATIONS = "recommendations"  # models that the engine's vendor recommends
    BLOB = "blob"  # whether a blob exists; `digest` in the body


class ControlEngine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.engine.v1"):
    """Ask the engine itself; answered with the engine's own objects, one a message, and an empty message."""

    operation: EngineOperation
    body: dict[str, Any] = {}


class ControlBlob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.blob.v1"):
    """Fetch a file of a model for the engine; answered with `{"status"}` and an empty message.

    The node asks for one piece after the other on `source`, by number from 0; an empty one ends the file. So nobody
    sends faster than the engine takes, and a file whose digest is wrong never gets to the engine whole.
    """

    digest: BlobDigest
    source: str
    """An inbox of whoever has the file."""


class ControlSet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.set.v1"):
    """Change the node's weight, labels or price; a label set to the empty string is removed."""

    weight: Weight | None = None
    labels: dict[str, str] = {}
    price: NodePrice | None = None
    """Replaces the whole price; None leaves it."""


class ControlSleep(msgspec.Struct, frozen=True, kw_only=True, tag="control.sleep.v1"):
    """Go to sleep, if nothing runs; only a node that is configured to sleep does."""


class ControlCut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.cut.v1"):
    """Stop an attempt whose caller goes on elsewhere, with `moved`; refused when it is not resumable, or is over."""

    attempt_id: BusId
    term: Term
    reason: str = ""
    """Why, in a sentence for the caller and the trail."""
    cause: str = ""
    """A `CutReason`: who is moved for another's sake, or for its own, may go on here too."""


class ControlWake(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.wake.v1"):
    """Wake another node, as it is configured here; or, without one, be awake yourself."""

    node_id: str = ""
    mac: str = ""
    broadcast: str = ""


class ControlAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.attempt.v1"):
    """What became of an attempt? The end of one is told again to its caller and its dispatcher, while it is kept."""

    attempt_id: BusId


class AttemptState(StrEnum):
    """What a node knows of an attempt."""

    UNKNOWN = "unknown"  # never seen, or forgotten
    RUNNING = "running"  # in a slot; nothing has reached the caller
    STREAMING = "streaming"  # in a slot; the first chunk is out
    ENDED_SPOKEN = "ended_spoken"  # over; the caller got the answer or the error
    ENDED_SILENT = "ended_silent"  # over; nothing ever reached the caller


class StateQuestion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an attempt? Asked by a caller whose stream has been silent for a while; any dispatcher answers."""

    node_id: BusId
    attempt_id: BusId
    within_s: Seconds = 0.0
    """A node that answers neither of two questions, each within so long, is to be called lost; 0: its silence tells
    nothing."""


class StateAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="attempt.state.v1"):
    """What its node says of an attempt; when it has ended, the node has just told its end again."""

    state: AttemptState
    chunks: Count | None = None
    """Of a stream that has ended: how many messages came before the last, empty one."""


class DispatcherPing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Does the dispatcher live, and does it still hold a request?"""

    request_id: BusId | None = None


class DispatcherPong(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The dispatcher lives."""

    is_held: bool = True
    """Whether it holds the request that was asked about; false: it was answered, or given up."""


ControlRequest = (
    ControlAttempt
    | ControlPing
    | ControlDrain
    | ControlLoad
    | ControlUnload
    | ControlPull
    | ControlEngine
    | ControlBlob
    | ControlSet
    | ControlSleep
    | ControlCut
    | ControlWake
)


class ControlReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="control.reply.v1"):
    """The node's answer to a control request."""

    node_id: BusId
    instance: BusId
    is_draining: bool = False
    in_flight: Count = 0
    is_away: bool = False
    """The node is not on the bus: what was asked is kept, and holds when it comes."""
    host: str = ""
    """The machine on which the node runs, in the answer to `ControlPing`."""
    attempt_state: AttemptState | None = None
    """The answer to `ControlAttempt`."""
    chunks: Count | None = None
    """Of a stream that has ended: how many messages came before the last, empty one."""
    error: ErrorBody | None = None
    """Why it was not done; None: it was."""


class ClaimRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node's process claims the id of the node, or makes sure that it still owns it."""

    claim: NodeClaim
    is_starting: bool = False
    """Whether this process does not listen under the id yet: then whoever answers there is another one."""


class ClaimReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a claim."""

    revision: Count = 0
    """Of the entry that says so; 0: it is not kept, because another process owns the id, or the store is away."""
    owner: NodeClaim | None = None
    """The living process that owns the id, when it is another one."""


class HandOverRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A node takes no new work: whose answers may others go on with?"""

    instance: BusId


class HandOverReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The models, by their names on that node, that another node in service has with the same fingerprint."""

    models: tuple[str, ...] = ()


class LeaveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A node wants to speak into an inbox again."""

    inbox: str
    ticket: str
    """Of the exec whose answer goes there."""


class LeaveReply(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it may, from now on."""

    is_given: bool


class AdminRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator's request about one node, on `sollol.v1.admin.node.<operation>`."""

    node_id: NodeName
    lets_finish: bool = False
    """Of `drain`: whether answers that could go on elsewhere finish where they are."""
    model: str = ""
    keep_alive_s: float | None = None
    weight: Weight | None = None
    labels: dict[str, str] = {}
    price: NodePrice | None = None
    """Replaces the whole price; None leaves it."""
