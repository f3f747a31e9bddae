"""Execution: what a dispatcher sends to a node, what the node reports, and an attempt's figures."""

from __future__ import annotations

import msgspec

from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody
from sollol_schemas.prices import Currency
from sollol_schemas.units import BusId, Count, Joules, Money, Ratio, Seconds, Tokens, ToldId

GO_S = 2.0
"""How long a node may begin to speak to the caller on the strength of one `go`."""

HELD_S = 0.2
"""How long a node holds chunks that may leave together, so that one message says them."""

ABANDONED = "abandoned"
"""The `CancelAttempt.reason` of a dispatcher that gave an attempt up without its caller."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a failure proves of the place where it happened."""

    caller: str = ""
    """Whose request it was, as an opaque word; all whose name is not known count as one."""
    body: str = ""
    """What was asked, as an opaque word: the same for the same body."""
    is_confirmed: bool = False
    """Whether the engine failed a question of the agent's own, too."""


class Exec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="exec.v1"):
    """The metadata of one exec message, in the `Sollol-Exec` header; the body is the caller's own."""

    decision: Decision
    path: str = ""
    """The engine's path, for passthrough."""
    stream: bool = False
    """Whether the caller wants chunks; the node streams from its engine in any case."""
    is_joined: bool = False
    """Whether nobody reads those chunks one by one, so that what comes close together leaves as one message."""
    go_s: Seconds = GO_S
    deadline_s: Seconds = 600.0
    keep_alive_s: float | None = None
    has_tools: bool = False
    caller: str = ""
    """What older dispatchers said of who asked; the decision says it now."""
    is_resumable: bool = False
    """Whether the caller goes on with an answer that breaks off, so that the attempt may be cut."""
    is_bound: bool = False
    """Whether not every node that has the model would do for it, so that only who granted it may have it cut."""
    body_bytes: Count | None = None
    """Of an attempt that goes on: the length of the body, behind which `ContinueFrom` stands; None: it begins."""
    ticket: str = ""
    """What gets the node leave to speak to the caller again."""

    @property
    def attempt_id(self) -> str:
        """The attempt this exec starts."""
        return self.decision.attempt_id


class Figures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt took, measured by the node; in the `Sollol-Figures` header of the last message."""

    actual_s: Seconds = 0.0
    """From the node's acceptance to the last token."""
    ttft_s: Seconds | None = None
    """From the node's acceptance to the first token."""
    load_s: Seconds = 0.0
    slot_wait_s: Seconds = 0.0
    """Time the engine let the request wait for one of its own slots."""
    prompt_tokens: Tokens | None = None
    cached_tokens: Tokens | None = None
    """Prompt tokens the engine took from its prefix cache, where it tells."""
    output_tokens: Tokens | None = None
    prompt_s: Seconds | None = None
    decode_s: Seconds | None = None
    continued_tokens: Tokens = 0
    """Tokens of the answer that attempts before had said: of `prompt_tokens` those that this one read beside the
    prompt."""
    resumed: Count = 0
    """Told to a caller whose answer went on elsewhere: how often. The other figures are then those of the whole."""
    chunks: Count = 0
    co_runners: float = 0.0
    """Mean number of other attempts that ran beside this one."""
    gpu_share: Ratio | None = None
    """Part of the model that lay in video memory while it ran."""
    energy_j: Joules | None = None
    """Its share of what the node drew while it ran; None: not known."""
    expense: Money | None = None
    """What it cost: its share of the node's hours and of the energy, at the node's price; None: not known."""
    currency: Currency = ""
    left_out: tuple[str, ...] = ()
    """Fields of the body that the engine did not get: they would change how it runs the model for everybody."""


class AttemptAccepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="attempt.accepted.v1"):
    """The node took the attempt into a slot and asks for its first `go`; answered with `StartAnswer`."""

    attempt_id: ToldId
    instance: ToldId
    is_open: bool = False
    """Whether the node's server lets everybody speak: else the node gets leave to, just before each `go`."""


class AttemptStart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="attempt.start.v1"):
    """The node asks, after its `go` ran out, whether it may still publish the first chunk."""

    attempt_id: ToldId


class AttemptFirstToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="attempt.first_token.v1"):
    """The first chunk is out: from here on the attempt is never retried."""

    attempt_id: ToldId
    ttft_s: Seconds = 0.0


class AttemptDone(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="attempt.done.v1"):
    """The whole answer is out."""

    attempt_id: ToldId
    figures: Figures


class AttemptFailed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="attempt.failed.v1"):
    """The attempt ended without a whole answer."""

    attempt_id: ToldId
    error: ErrorBody
    is_streaming: bool = False
    """Whether a chunk had reached the caller: then the node has told the caller, and nobody retries."""
    figures: Figures | None = None
    evidence: Evidence | None = None
    """What the failure would prove of the node, if it is the node's."""


AttemptReport = AttemptAccepted | AttemptStart | AttemptFirstToken | AttemptDone | AttemptFailed


class StartAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the node may publish its first chunk: after `accepted` for `go_s`, after `start?` for good."""

    go: bool


class CancelAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="attempt.cancel.v1"):
    """Stop an attempt on a node."""

    attempt_id: BusId
    reason: str = ""


class Taken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="request.taken.v1"):
    """Which dispatcher took the request: the one that its caller watches from now on."""

    request_id: BusId
    dispatcher: BusId
    instance: BusId


class RequestWaiting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="request.waiting.v1"):
    """The request waits for a slot; told every 2 s while it does."""

    request_id: BusId
    position: Count = 0
    """How many requests are before it."""
    is_blocked: bool = False
    """Whether no node may take it at present: it waits for the fleet, not for its turn."""


class RequestGranted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="request.granted.v1"):
    """The request got a slot, first or again; told of a job, and to a caller who was told that the request waits."""

    request_id: BusId
    node_id: BusId


RequestNews = Taken | RequestWaiting | RequestGranted
"""What a dispatcher tells the caller's control inbox; best effort, a caller needs none of it but the first."""


class CancelRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Cancel a request, with the secret its caller chose."""

    request_id: BusId
    secret: str
    resend: Count | None = None
    """Ends only what was sent up to this resend; without it, every sending."""
    comes_again: bool = False
    """Ends it only while it waits for a slot: a job that is given back, for which another dispatcher will ask soon."""


class CancelReply(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the request was found and is being cancelled."""

    request_id: str
    is_cancelled: bool
