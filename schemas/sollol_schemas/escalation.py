"""Escalation: an answer is checked, and asked for anew of another model of its group when it fails."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from sollol_schemas.headers import ROUTING_PREFIX
from sollol_schemas.units import Count, Seconds

CHECK: Final = "check"
"""The field of a native body, and of a job's, that says what an answer must be."""
CHECK_HEADER: Final = f"{ROUTING_PREFIX}Check"
"""The same as a header, for bodies of other dialects: JSON."""
CHECK_MAX_BYTES: Final = 16 * 1024
REGEX_MAX: Final = 1000


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an answer must be; one that is not is asked for anew of the next model of the group."""

    json_schema: dict[str, Any] | None = None
    """Its text is JSON that keeps this schema."""
    regex: Annotated[str, Meta(min_length=1, max_length=REGEX_MAX)] | None = None
    """Something in its text matches this expression, which knows neither look-around nor back references."""


class Tried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model whose answer failed the check, and what that answer took."""

    model: str
    why: str
    prompt_tokens: Count = 0
    output_tokens: Count = 0
    actual_s: Seconds = 0.0
