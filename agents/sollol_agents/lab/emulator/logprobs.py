"""The probabilities of tokens: the model is certain of each, and of the others what its weights make of them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from sollol_agents.lab.emulator import codes
from sollol_agents.lab.engine.vocabulary import BOS_ID

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.text import Piece

_OPENINGS: Final = frozenset({"<think>"})


def entries(piece: Piece, alternatives: int | None) -> list[dict[str, Any]] | None:
    """Returns what is told of one token, None for one of which nothing is.

    Args:
        piece: the token.
        alternatives: how many tokens are listed for it; None when no probability was asked for.
    """
    if alternatives is None or not (piece.channel != "hidden" or piece.token in _OPENINGS):
        return None
    entry = _entry(piece.token, 0)
    if alternatives:
        others = (
            codes.runners_up(piece.before or codes.token_text(BOS_ID), alternatives - 1) if alternatives > 1 else ()
        )
        entry["top_logprobs"] = [_entry(piece.token, 0), *(_entry(token, value) for token, value in others)]
    return [entry]


@functools.lru_cache(maxsize=256)
def _bytes(token: str) -> tuple[int, ...]:
    return tuple(token.encode("utf-8", "surrogatepass"))


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(_bytes(token))}
