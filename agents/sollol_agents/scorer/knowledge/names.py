"""Names of models: what counts as the same model on different engines."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """The form under which two spellings of one model compare equal.

    As Ollama does it: the case does not matter and a missing tag means `latest`.
    """
    text = name.strip().lower()
    return text if ":" in text.rpartition("/")[2] else f"{text}:latest"
