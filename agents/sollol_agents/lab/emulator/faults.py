"""Faults of an emulated node: which one strikes a request, by schedule or by chance."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from sollol_agents.requests.names import canonical

if TYPE_CHECKING:
    from random import Random

INFERENCE_PATHS: Final = (
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
)


class FaultKind(StrEnum):
    """What goes wrong."""

    REFUSE = "refuse"  # the port is closed for `duration_s`: connection refused
    RESTART = "restart"  # all models and running requests are gone, same address
    KILL_RUNNERS = "kill_runners"  # the engines behind the loaded models are killed; the server lives on
    PS_LAG = "ps_lag"  # /api/ps shows what it showed when this struck, for `duration_s`
    RESET = "reset"  # the connection is reset, before the headers or after `after_tokens`
    LOAD_ERROR = "load_error"  # 500 with the text of a failed load
    OUT_OF_MEMORY = "out_of_memory"  # 500 with the text of an allocation that failed
    ERROR_LINE = "error_line"  # an error inside the stream after `after_tokens`
    END_EARLY = "end_early"  # the stream ends properly but without its last message
    TRUNCATE = "truncate"  # the stream ends in the middle of a message
    STALL = "stall"  # silence for `duration_s` after `after_tokens`; 0 until the client leaves
    HANG = "hang"  # no answer at all for `duration_s`; 0 until the client leaves
    SLOW = "slow"  # every token takes `factor` times as long
    WRONG_CONTENT = "wrong_content"  # 200 with something that is no answer


NODE_FAULTS: Final = frozenset({FaultKind.REFUSE, FaultKind.RESTART, FaultKind.KILL_RUNNERS, FaultKind.PS_LAG})
"""Kinds that strike the node at a time; all others strike a request."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault and when it strikes; durations are real seconds, never compressed."""

    kind: FaultKind
    path: Annotated[str, msgspec.Meta(description="path it strikes; empty means every inference path")] = ""
    model: Annotated[str, msgspec.Meta(description="model it strikes; empty means every model")] = ""
    chance: Annotated[float, msgspec.Meta(ge=0, le=1, description="probability for each matching request")] = 1.0
    times: Annotated[int, msgspec.Meta(ge=0, description="how often it strikes; 0 without end")] = 1
    skip: Annotated[int, msgspec.Meta(ge=0, description="matching requests that pass before the first")] = 0
    after_tokens: Annotated[int, msgspec.Meta(ge=0, description="tokens sent before it strikes")] = 0
    duration_s: Annotated[float, msgspec.Meta(ge=0, description="how long it lasts in seconds")] = 0.0
    factor: Annotated[float, msgspec.Meta(ge=1, description="slow-down of `slow`")] = 10.0
    at_s: Annotated[float, msgspec.Meta(ge=0, description="seconds after it was set before it can strike")] = 0.0
    until_s: Annotated[float, msgspec.Meta(ge=0, description="seconds after it was set when it ends; 0 never")] = 0.0


class _Armed:
    """A fault with its counters."""

    def __init__(self, fault: Fault, now: float) -> None:
        self.fault = fault
        self.set_at = now
        self.seen = 0
        self.struck = 0

    @property
    def is_spent(self) -> bool:
        return bool(self.fault.times) and self.struck >= self.fault.times

    def matches(self, path: str, model: str, now: float) -> bool:
        fault, age_s = self.fault, now - self.set_at
        if age_s < fault.at_s or (fault.until_s and age_s >= fault.until_s):
            return False
        if fault.model and canonical(fault.model) != canonical(model):
            return False
        return path == fault.path if fault.path else path in INFERENCE_PATHS


class FaultBox:
    """The faults that are set, and the random source of those that strike by chance."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._armed: list[_Armed] = []

    def __bool__(self) -> bool:
        return bool(self._armed)

    def arm(self, fault: Fault, now: float) -> None:
        """Sets a fault that strikes requests."""
        assert fault.kind not in NODE_FAULTS
        self._armed.append(_Armed(fault, now))

    def clear(self) -> None:
        """Removes every fault."""
        self._armed.clear()

    def strike(self, path: str, model: str, now: float) -> Fault | None:
        """Returns the fault that hits this request, if one does; the first one set wins."""
        for armed in self._armed:
            if armed.is_spent or not armed.matches(path, model, now):
                continue
            armed.seen += 1
            if armed.seen <= armed.fault.skip or self._rng.random() >= armed.fault.chance:
                continue
            armed.struck += 1
            self._armed = [one for one in self._armed if not one.is_spent]
            return armed.fault
        return None
