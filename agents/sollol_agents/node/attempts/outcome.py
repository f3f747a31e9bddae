"""An attempt's figures, and what its failure proves."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from sollol_schemas.errors import ErrorBody, ErrorCode, Owner
from sollol_schemas.events import FIGURES_DIGITS
from sollol_schemas.execution import Evidence, Figures
from sollol_schemas.slim import rounded

_MANY_TOKENS: Final = 8
_AT_ONCE: Final = 0.02
_NOTHING: Final = Figures().actual_s


def figures_of(
    told: Figures,
    *,
    accepted_at: float,
    began_at: float | None,
    first_at: float | None,
    last_at: float | None,
    output_chunks: int,
    now: float,
    load_s: float = 0.0,
    co_runners: float = 0.0,
    energy_j: float | None = None,
    gpu_share: float | None = None,
    **more: Any,  # noqa: ANN401 fields by name
) -> Figures:
    """The figures of an attempt: the engine's own where it tells them, the node's clock elsewhere.

    They have the digits that anybody reads, so that neither their callers nor their dispatchers need cut them.

    Args:
        told: What the engine told.
        accepted_at: When the attempt got its slot; instants are monotonic seconds.
        began_at: When the request went to the engine.
        first_at: When its first chunk came.
        last_at: When its last one came.
        output_chunks: How many came, each about one token.
        now: For an attempt that never got a chunk.
        load_s: Of the node's own load before it.
        co_runners: How many others ran meanwhile, on average.
        energy_j: What it drew.
        gpu_share: Of its model.
        **more: Further fields.
    """
    decode_s, prompt_s = told.decode_s, told.prompt_s
    output_tokens = output_chunks or None if told.output_tokens is None else told.output_tokens
    if first_at is not None and last_at is not None and began_at is not None:
        till_first_s, after_s = first_at - began_at, last_at - first_at
        if not _came_at_once(output_tokens or 0, till_first_s, after_s):
            decode_s = after_s if decode_s is None else decode_s
            prompt_s = till_first_s if prompt_s is None else prompt_s
    return msgspec.structs.replace(
        told,
        actual_s=_cut((last_at or now) - accepted_at),
        ttft_s=None if first_at is None else _cut(first_at - accepted_at),
        output_tokens=output_tokens,
        prompt_s=None if prompt_s is None else _cut(prompt_s),
        decode_s=None if decode_s is None else _cut(decode_s),
        load_s=_cut(told.load_s + load_s),
        slot_wait_s=_cut(told.slot_wait_s),
        co_runners=_cut(co_runners),
        energy_j=None if energy_j is None else _cut(energy_j),
        gpu_share=None if gpu_share is None else _cut(gpu_share),
        **more,
    )


def _cut(value: float) -> float:
    """What is not below 0, as it is told; nothing is the very 0 that is left out of a message."""
    return (rounded(value, FIGURES_DIGITS) if value > 0 else 0.0) or _NOTHING


def _came_at_once(output_tokens: int, till_first_s: float, after_s: float) -> bool:
    """Whether an answer was held back until it was whole: then the clock cannot tell reading from writing."""
    return output_tokens >= _MANY_TOKENS and after_s < _AT_ONCE * till_first_s


def is_doubtful(error: ErrorBody) -> bool:
    """Whether a question of our own may tell more of a failure than it tells itself."""
    return error.blamed in (Owner.ENGINE, Owner.UNCLEAR) and not _is_own_load(error)


def _is_own_load(error: ErrorBody) -> bool:
    """Whether a load failed that had nothing to do with what a caller asked: that was a question of our own."""
    return error.code is ErrorCode.LOAD_FAILED and error.blamed is Owner.ENGINE


def evidence_of(error: ErrorBody, caller: str, body: bytes, key: bytes) -> Evidence:
    """What a failure proves, as far as it tells itself; `key` keeps others from finding out what the body was."""
    word = hashlib.blake2b(body, key=key, digest_size=8).hexdigest()
    return Evidence(caller=caller, body=word, is_confirmed=_is_own_load(error))
