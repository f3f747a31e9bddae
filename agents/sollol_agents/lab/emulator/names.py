"""Names of models: which ones Ollama takes, and which ones mean its vendor's cloud."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sollol_agents.lab.emulator.refusals import CloudError, RefusalError, not_found

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.models import ModelSpec, ModelStore

_REGISTRY: Final = "registry.ollama.ai"
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


def is_valid(name: str) -> bool:
    """True for `[[HOST/]NAMESPACE/]MODEL[:TAG]` of the characters that Ollama allows."""
    *where, last = name.split("/")
    model, colon, tag = last.partition(":")
    parts = [(_PART, model)] + ([(_PART, tag)] if colon else [])
    parts += list(zip((_NAMESPACE, _HOST), reversed(where), strict=False))
    return len(where) <= 2 and all(pattern.fullmatch(part) for pattern, part in parts)


def is_of_cloud(name: str) -> bool:
    """True for a name whose tag is `cloud` or ends in `-cloud`."""
    tag = name.strip().lower().rpartition("/")[2].partition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def find(store: ModelStore, name: str, *, is_required: bool, is_pull_advised: bool = False) -> ModelSpec:
    """Returns the model of that name.

    Args:
        store: the models on the disk.
        name: as it was sent.
        is_required: the path says so when the name is empty.
        is_pull_advised: the path says that a missing one might be pulled.

    Raises:
        RefusalError: the name is empty, none, of the cloud, or of no model here.
    """
    if not name:
        raise RefusalError("model is required") if is_required else not_found(name)
    if is_of_cloud(name):
        raise CloudError
    if not is_valid(name.strip()):
        raise RefusalError("invalid model name")
    model = store.find(name)
    if model is None:
        raise not_found(name, is_pull_advised=is_pull_advised)
    return model


def full_name(name: str) -> str:
    """Returns a name with its registry, its namespace and its tag."""
    *where, last = name.split("/")
    host, namespace = ([_REGISTRY, "library", *where])[-2:] if len(where) < 2 else where[-2:]
    if len(where) == 1:
        host, namespace = _REGISTRY, where[0]
    model, colon, tag = last.partition(":")
    if colon and not tag:
        tag = "!MISSING!"
    return f"{host}/{namespace}/{model}:{tag or 'latest'}"
