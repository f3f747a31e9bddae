"""Names of models: which spellings mean one model. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_REGISTRY: Final = "registry.ollama.ai"
_NAMESPACE: Final = "library"


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """The form under which two spellings of one model compare equal.

    As Ollama has it: neither case nor surrounding blanks matter, a missing tag means `latest`, and its own registry
    and that registry's `library` need not be named.
    """
    *where, model = name.strip().lower().split("/")
    if len(where) == 2 and where[0] == _REGISTRY:
        where = where[1:]
    if where == [_NAMESPACE]:
        where = []
    return "/".join([*where, model if ":" in model else f"{model}:latest"])
