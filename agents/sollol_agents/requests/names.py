"""Names of models: which spellings mean one model. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_REGISTRY: Final = "registry.ollama.ai"
_NAMESPACE: Final = "library"
_CLOUD: Final = "cloud"
_HOST: Final = r"\w[\w.:-]{0,349}"
_NAMESPACES: Final = r"\w[\w-]{0,79}"
_PART: Final = r"\w[\w.-]{0,79}"
_GRAMMAR: Final = re.compile(rf"((({_HOST})/)?{_NAMESPACES}/)?{_PART}(:{_PART})?", re.ASCII)


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


def tagged(name: str) -> str:
    """A model's name with its tag, otherwise as it is spelled."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def is_valid(name: str) -> bool:
    """Whether Ollama takes a name: `[[HOST/]NAMESPACE/]MODEL[:TAG]` of letters, digits and a few signs."""
    return _GRAMMAR.fullmatch(name) is not None


def is_of_cloud(name: str) -> bool:
    """Whether a name means a model that Ollama's vendor runs: its tag is `cloud`, or ends in `-cloud`."""
    tag = name.strip().lower().rpartition("/")[2].partition(":")[2]
    return tag == _CLOUD or tag.endswith(f"-{_CLOUD}")


def in_full(name: str) -> str:
    """A name with everything that need not be said."""
    short = canonical(name)
    missing = {0: f"{_REGISTRY}/{_NAMESPACE}/", 1: f"{_REGISTRY}/"}
    return missing.get(short.count("/"), "") + short
