"""Who asks: names of callers, their teams, and how much each may ask for.

A caller is a member of the fleet under its name, or an API key under `key-<id>`; no member is called so.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sollol_schemas.units import BusId, Priority

KEY_PREFIX: Final = "key-"
ANONYMOUS: Final = KEY_PREFIX
"""Whoever comes to a gateway without a key, where that has to be told from an operator."""
HIGHEST: Final = 10
"""The highest priority there is."""

Team = Annotated[str, Meta(pattern=r"^([A-Za-z0-9_-]{1,64})?$(?!\n)", description="A team; empty: one of its own.")]


def name_of_key(key_id: str) -> str:
    """What an API key is called where callers are named."""
    return f"{KEY_PREFIX}{key_id}"


def word_of(name: str) -> str:
    """The opaque word for a caller: the same everywhere, and it tells nodes nothing; empty for nobody."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest() if name else ""


class Standing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a caller belongs, and its ceilings; they hold over all gateways and dispatchers together."""

    team: Team = ""
    title: Annotated[str, Meta(max_length=64)] = ""
    """What people call it, where that is another name."""
    max_priority: Priority = HIGHEST
    """A request with a higher priority gets this one."""
    requests_per_minute: Annotated[float, Meta(ge=0, description="0: no ceiling.")] = 0.0
    max_concurrent: Annotated[int, Meta(ge=0, description="Requests open at a time; 0: no ceiling.")] = 0
    max_jobs: Annotated[int, Meta(ge=0, description="Jobs that wait or run; 0: no ceiling.")] = 0
    sees_all: bool = False
    """It is told of everybody's requests: an observer."""
    is_gone: bool = False
    """It was revoked; its name is kept for what it used."""


class Standings(msgspec.Struct, frozen=True, kw_only=True):
    """The standing of every caller, as it is stored."""

    callers: dict[BusId, Standing]
