"""The rest of an answer as a node says it: native objects, whatever dialect the request speaks."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from sollol_bus.errors import BackendBrokeProtocol

_NS_PER_MS: Final = 1e6


class Rest(msgspec.Struct, frozen=True):
    """One object of it; the counts stand in the last one, and are those of the whole answer."""

    response: str = ""
    thinking: str = ""
    done: bool = False
    done_reason: str = "stop"
    stopping_word: str = ""
    """The text at which it ended, where the engine tells."""
    created_at: str = ""
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0

    @property
    def unix_s(self) -> int:
        """When it was said; 0 where it does not say so."""
        try:
            return int(dt.datetime.fromisoformat(self.created_at).timestamp())
        except (ValueError, OverflowError):
            return 0

    def timings(self, said_before: int) -> dict[str, Any]:
        """What llama-server tells of its work: all tokens, the answer's at the pace of the attempt that ended it."""
        prompt_ms = self.prompt_eval_duration / _NS_PER_MS
        token_ms = self.eval_duration / _NS_PER_MS / max(1, self.eval_count - said_before)
        return {
            "cache_n": 0,
            "prompt_n": self.prompt_eval_count,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": prompt_ms / max(1, self.prompt_eval_count),
            "prompt_per_second": 1e3 * self.prompt_eval_count / prompt_ms if prompt_ms else 0.0,
            "predicted_n": self.eval_count,
            "predicted_ms": token_ms * self.eval_count,
            "predicted_per_token_ms": token_ms,
            "predicted_per_second": 1e3 / token_ms if token_ms else 0.0,
        }


_decoder = msgspec.json.Decoder(Rest)


def rest_of(piece: bytes) -> Rest:
    """One object of the rest.

    Raises:
        BackendBrokeProtocol: It is none.
    """
    try:
        return _decoder.decode(piece)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendBrokeProtocol("a piece of the rest is no native object") from error
