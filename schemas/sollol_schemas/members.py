"""Who belongs to a fleet that knows its members, and how somebody becomes one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_schemas.instants import NOT_WRITTEN, take_over
from sollol_schemas.subjects import Role
from sollol_schemas.units import BusId, FormerInstant, Instant

Secret = Annotated[str, Meta(max_length=128, description="What an invitation says to one person.")]


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody who has credentials."""

    name: BusId
    role: Role
    key: Annotated[str, Meta(description="Public key of its NATS user.")]
    joined_at: Instant = ""
    since: FormerInstant = NOT_WRITTEN
    machine: Annotated[str, Meta(max_length=64)] = ""
    """Where it was when it joined, as it says."""

    def __post_init__(self) -> None:
        """Reads what older versions wrote."""
        take_over(self, "since", "joined_at")


class Invited(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who was invited and has not come yet."""

    name: BusId
    role: Role
    expires_at: Instant


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Asks to be admitted; without a secret, what the fleet's certificate is."""

    secret: Secret = ""
    key: Annotated[str, Meta(max_length=64, description="Public key of the NATS user to be.")] = ""
    machine: Annotated[str, Meta(max_length=64)] = ""


class JoinReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fleet's certificate, and of whoever showed a secret the credentials."""

    ca: str
    """Certificate of the fleet's authority, as PEM; empty: the server is open to everybody who listens on the way."""
    member: Member | None = None
    claims: str = ""
    """What the NATS server shall know of the member, signed."""


class Invite(msgspec.Struct, frozen=True, kw_only=True, tag="fleet.invite.v1"):
    """Invite somebody."""

    name: BusId
    role: Role
    is_again: bool = False
    """Whether it is a member that shall get new credentials."""


class Revoke(msgspec.Struct, frozen=True, kw_only=True, tag="fleet.revoke.v1"):
    """Admit a member no more, from now on."""

    name: BusId


class ListMembers(msgspec.Struct, frozen=True, kw_only=True, tag="fleet.list.v1"):
    """Who belongs to the fleet?"""


FleetRequest = Invite | Revoke | ListMembers


class FleetReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who belongs to the fleet, and what an invitation says."""

    members: tuple[Member, ...] = ()
    invited: tuple[Invited, ...] = ()
    token: str = ""
    """For the one who is invited."""
