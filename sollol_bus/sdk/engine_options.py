"""Options of an engine that are given by name: `temperature=0.2` goes where the engine reads it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sollol_bus.errors import BadRequest

OPTIONS: Final = frozenset(
    {
        *("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "stop", "num_predict", "num_keep"),
        *("repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty", "penalize_newline"),
        *("mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "num_ctx", "num_batch", "num_gpu", "main_gpu"),
        *("num_thread", "use_mmap", "use_mlock", "low_vram", "numa", "vocab_only"),
    }
)
"""Names that Ollama reads inside `options`; beside it they would be passed over without a word."""
_OTHER_WORDS: Final = {"max_tokens": "num_predict"}


def with_options(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields of a body with the options among them where they belong; named ones win over those in `options`.

    Raises:
        BadRequest: `options` is no mapping.
    """
    named = {_OTHER_WORDS.get(name, name): value for name, value in fields.items() if _is_option(name)}
    if not named:
        return dict(fields)
    given = fields.get("options") or {}
    if not isinstance(given, Mapping):
        raise BadRequest(f"options must be a mapping of names to values, not {type(given).__name__}")
    rest = {name: value for name, value in fields.items() if not _is_option(name)}
    return {**rest, "options": {**given, **{name: value for name, value in named.items() if value is not None}}}


def _is_option(name: str) -> bool:
    return name in OPTIONS or name in _OTHER_WORDS
