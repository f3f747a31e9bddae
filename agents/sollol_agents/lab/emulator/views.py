"""What an emulated node tells about its models: tags, ps, show and the OpenAI list."""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, Any, Final

from sollol_agents.lab.emulator.wire import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sollol_agents.lab.emulator.models import ModelSpec
    from sollol_agents.lab.emulator.scheduler import Loaded

_FOR_EVER: Final = dt.timedelta(days=106_751)  # the longest duration Go knows, about 292 years
_TEMPLATE: Final = "{{ .Prompt }}"


def details(model: ModelSpec) -> dict[str, Any]:
    """Returns the `details` object of a model."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
        "context_length": model.ctx_tokens,
        "embedding_length": model.width,
    }


def tags(models: Iterable[ModelSpec], modified_at: str) -> dict[str, Any]:
    """Returns the answer of /api/tags."""
    return {
        "models": [
            {
                "name": model.name,
                "model": model.name,
                "modified_at": modified_at,
                "size": model.file_bytes,
                "digest": model.digest,
                "details": details(model),
                "capabilities": list(model.capabilities),
            }
            for model in models
        ]
    }


def ps(loaded: Iterable[Loaded], *, now: float, wall: dt.datetime) -> dict[str, Any]:
    """Returns the answer of /api/ps.

    Args:
        loaded: models in memory; one that is still loading is not among them.
        now: the clock of `expires_at`.
        wall: the same instant as a calendar time.
    """
    return {
        "models": [
            {
                "name": one.model.name,
                "model": one.model.name,
                "size": one.size_bytes,
                "digest": one.model.digest,
                "details": details(one.model),
                "expires_at": _expiry(one.expires_at - now, wall),
                "size_vram": one.vram_bytes,
                "context_length": one.options.num_ctx or 0,
            }
            for one in loaded
        ]
    }


def show(model: ModelSpec, modified_at: str) -> dict[str, Any]:
    """Returns the answer of /api/show."""
    family = model.family
    return {
        "modelfile": f"# Modelfile of an emulated model\nFROM {model.name}\n",
        "parameters": "",
        "template": _TEMPLATE,
        "details": details(model),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": model.parameters,
            f"{family}.block_count": model.layers,
            f"{family}.context_length": model.ctx_tokens,
            f"{family}.embedding_length": model.width,
            f"{family}.attention.head_count": max(1, model.width // model.head_width),
            f"{family}.attention.head_count_kv": model.kv_heads,
            f"{family}.attention.key_length": model.head_width,
            f"{family}.attention.value_length": model.head_width,
        },
        "tensors": [],
        "capabilities": list(model.capabilities),
        "modified_at": modified_at,
    }


def openai_models(models: Iterable[ModelSpec], created: int) -> dict[str, Any]:
    """Returns the answer of /v1/models."""
    return {"object": "list", "data": [openai_model(model, created) for model in models]}


def openai_model(model: ModelSpec, created: int) -> dict[str, Any]:
    """Returns the answer of /v1/models/NAME."""
    return {"id": model.name, "object": "model", "created": created, "owned_by": "library"}


def _expiry(remaining_s: float, wall: dt.datetime) -> str:
    """Returns the calendar time of an expiry."""
    span = _FOR_EVER if math.isinf(remaining_s) else dt.timedelta(seconds=remaining_s)
    return rfc3339(wall + span)
