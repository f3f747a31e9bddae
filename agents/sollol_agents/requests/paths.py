"""Paths of engines: which ones serve requests, and which are closed to plain requests. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

_LENGTH_MAX: Final = 512
MANAGEMENT_PATHS: Final = (
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/blobs",
    "/api/me",
    "/api/signout",
    "/api/user",
)
"""Ollama's paths for models and the account. Nobody can open these: nodes are managed by their own subjects."""
CLOSED_PATHS: Final = (
    # llama.cpp: state of slots, settings, loading and unloading of models
    "/slots",
    "/props",
    "/models",
    "/lora-adapters",
    # vLLM and SGLang: adapters, sleep, caches, weights, profiling
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/sleep",
    "/wake_up",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/collective_rpc",
    "/start_profile",
    "/stop_profile",
    "/update_weights",
    "/update_weights_from_disk",
    "/update_weights_from_tensor",
    "/flush_cache",
    "/shutdown",
    # LM Studio
    "/api/v1/models",
    # Ollama: the vendor's cloud
    "/api/experimental",
    # an emulated node's own
    "/emulator",
)


def is_plain(path: str) -> bool:
    """Whether a path is in origin form and says where it leads: no host, no `..` or `//`, nothing spelled in code."""
    plain = path.partition("?")[0]
    return (
        path.startswith("/")
        and len(path) <= _LENGTH_MAX
        and path.isascii()
        and path.isprintable()
        and " " not in path
        and "#" not in path
        and not any(odd in plain.lower() for odd in ("//", "..", "\\", "%2f", "%5c", "%2e"))
    )


def is_management(path: str) -> bool:
    """Whether a path, with or without its query, changes what models or accounts an engine has."""
    return _is_below(_plain(path), MANAGEMENT_PATHS)


def is_closed(path: str, opened: Iterable[str] = ()) -> bool:
    """Whether a path, with or without its query, is closed or below one that is.

    Args:
        path: In origin form; percent signs are resolved, because engines do so too.
        opened: Closed paths that the operator opened, with what is below them.
    """
    plain = _plain(path)
    return _is_below(plain, MANAGEMENT_PATHS) or (_is_below(plain, CLOSED_PATHS) and not _is_below(plain, opened))


def _plain(path: str) -> str:
    return unquote(path.partition("?")[0]).lower().rstrip("/")


def _is_below(plain: str, paths: Iterable[str]) -> bool:
    return any(plain == one or plain.startswith(f"{one}/") for one in paths)
