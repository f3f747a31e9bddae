"""API keys as they are kept: hashes, never secrets."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_schemas.units import Instant, Priority


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key, without its secret."""

    key_id: str
    name: str
    secret_sha256: str
    created_at: Instant
    is_admin: bool = False
    """May pull, create, copy, push and delete models."""
    max_priority: Priority = 10
    """This and what follows is where older versions kept ceilings; `callers.Standing` has them now."""
    requests_per_minute: Annotated[float, Meta(ge=0, description="0: no ceiling.")] = 0.0
    max_concurrent: Annotated[int, Meta(ge=0, description="Requests open at a time; 0: no ceiling.")] = 0


class KeyRing(msgspec.Struct, frozen=True, kw_only=True):
    """Every key, as it is stored."""

    keys: tuple[ApiKey, ...]
