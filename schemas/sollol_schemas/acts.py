"""What operators did: the trail that the recorder keeps."""

from __future__ import annotations

import msgspec

from sollol_schemas.units import Count, Instant, Seconds


class Operator(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asks for an act, as its own program says; in the `Sollol-Operator` header."""

    who: str = ""
    """A member of the fleet, or an API key as `key-ID`; empty: nobody had to say a name."""
    host: str = ""
    """The machine from which it asked."""
    address: str = ""
    """From where it came over HTTP."""


class Act(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="act.v1"):
    """An operator did something. It holds no secrets."""

    act: str
    """`node.drain`, `fleet.revoke`, `keys.create` and so on."""
    by: Operator
    target: str = ""
    """The node, member, key or job that it was done to; empty: all of them, or the fleet."""
    details: dict[str, str] = {}
    at: Instant = ""
    """Told by the recorder: when the event was stored."""


class ActsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which acts are wanted."""

    since_s: Seconds = 0.0
    """Only those of the last so many seconds; 0: all that are kept."""
    limit: Count = 1000


class ActsReply(msgspec.Struct, frozen=True, kw_only=True, tag="acts.v1"):
    """The latest acts, newest first."""

    acts: tuple[Act, ...]
