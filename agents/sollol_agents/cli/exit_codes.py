"""Exit codes, and errors as one line that says what to do."""

from __future__ import annotations

from typing import Final

from sollol_bus.errors import (
    BusError,
    ConfigError,
    NoResponders,
    NotConnected,
    NotPermitted,
    RequestTimedOut,
    SollolError,
)
from sollol_schemas.decision import RejectionReason
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.nearest import did_you_mean

OK: Final = 0
FAILED: Final = 1  # the request, or the actor, failed
USAGE: Final = 2  # a flag, a setting or the environment must be changed
NO_ANSWER: Final = 3  # nobody answers: no NATS server, no actor, no node
INTERRUPTED: Final = 130  # Ctrl-C or SIGTERM

_HINTS: Final[dict[ErrorCode, str]] = {
    ErrorCode.UNKNOWN_MODEL: "`sollol models` lists what there is, `sollol pull NODE MODEL` fetches one",
    ErrorCode.NO_NODES: "start one with `sollol node`, or look with `sollol doctor`",
    ErrorCode.NO_ELIGIBLE_NODE: "see `sollol nodes`",
    ErrorCode.QUEUE_FULL: "try again later, or add a node",
    ErrorCode.DEADLINE_UNREACHABLE: "allow more with --deadline-s, raise --priority, or add a node",
    ErrorCode.DEADLINE_EXCEEDED: "allow more with --deadline-s",
    ErrorCode.UNKNOWN_NODE: "`sollol nodes` lists them",
    ErrorCode.ATTEMPTS_EXHAUSTED: "`sollol reliability` shows which nodes fail, and how",
    ErrorCode.UNKNOWN_JOB: "`sollol jobs list` shows the latest",
    ErrorCode.UNAUTHORIZED: "give credentials with --nats-user and --nats-password, or --nats-creds-file",
}
_SOFT_HINT: Final = "--soft takes the best node there is"
_LIFTED_BY_SOFT: Final = frozenset(
    {
        RejectionReason.WRONG_LABELS,
        RejectionReason.TOO_LITTLE_VRAM,
        RejectionReason.NOT_RELIABLE_ENOUGH,
        RejectionReason.NOT_CPU,
        RejectionReason.NOT_CHOSEN_NODE,
    }
)
_MAY_ASK: Final = "a client's may: `sollol invite client NAME`, on the first machine"
_MAY_STEER: Final = "an operator's may: `sollol invite operator NAME`, on the first machine"
_NOBODY: Final = frozenset({ErrorCode.NO_NODES, ErrorCode.ACTOR_STOPPED})


def code_of(error: SollolError) -> int:
    """The exit code that an error ends a command with."""
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, (NotConnected, NoResponders, RequestTimedOut)) or error.body.code in _NOBODY:
        return NO_ANSWER
    return FAILED


def line_of(error: SollolError) -> str:
    """What went wrong and what to do, on one line."""
    text = " ".join(error.message.split())
    hint = _HINTS.get(error.body.code, "") if not isinstance(error, (ConfigError, BusError)) else ""
    if isinstance(error, (NoResponders, RequestTimedOut)):
        hint = "is `sollol up` running there? `sollol doctor` looks"
    if error.body.details.keys() == {"groups"}:
        hint = "`sollol group list` shows them"
    if isinstance(error, NotPermitted):
        hint = _MAY_STEER if any(part in text for part in (".admin.", "$")) else _MAY_ASK
    if error.body.code is ErrorCode.NO_ELIGIBLE_NODE and _is_liftable(error.body):
        hint = _SOFT_HINT
    if "did you mean" not in text:
        text += _meant(error.body)
    return f"sollol: {text}" + (f" ({hint})" if hint and "`" not in text else "")


def _is_liftable(body: ErrorBody) -> bool:
    """Whether `--soft` would lift the reason of some node."""
    told = body.details.get("nodes")
    reasons = told.values() if isinstance(told, dict) else ()
    return any(str(why).partition(":")[0] in _LIFTED_BY_SOFT for why in reasons)


def _meant(body: ErrorBody) -> str:
    """A name like the one that nobody knows."""
    for asked, known in (("model", "models"), ("node", "known")):
        word, names = body.details.get(asked), body.details.get(known)
        if isinstance(word, str) and isinstance(names, list):
            return did_you_mean(word, [str(name) for name in names])
    return ""
