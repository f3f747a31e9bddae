"""Who belongs to a fleet. Pure: whoever keeps the authority stores what each step returns.

The authority holds the keys that sign. It invites under a name and a role, admits whoever shows the secret of an
invitation, and revokes. A member's own private key never leaves its machine.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Final

import msgspec

from sollol_bus.errors import SollolError, error_from
from sollol_bus.server.rights import permissions
from sollol_bus.transport.naming import role_tag
from sollol_bus.trust.callers import refusal_of_name
from sollol_bus.trust.claims import (
    Kind,
    Scope,
    account_claims,
    is_user_key,
    new_seed,
    operator_claims,
    public_key,
    user_claims,
)
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.instants import NOT_WRITTEN, instant, seconds_of, take_over
from sollol_schemas.members import Member
from sollol_schemas.subjects import Role
from sollol_schemas.units import FormerInstant, Instant

INVITED_S: Final = 3600.0
"""How long an invitation is valid."""
_REMEMBERED_S: Final = 7 * 86400.0
"""How long it is known what became of one."""
_MOST_INVITATIONS: Final = 1000
_NEWCOMERS_BYTES: Final = 4096
_LONG_AGO: Final = 1.0
_HANDSHAKE_S: Final = 10
_NAME: Final = "{{name()}}"
SYSTEM: Final = "SYS"
ACCOUNT: Final = "SOLLOL"


class Invitation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place that waits for whoever shows its secret."""

    name: str
    role: Role
    expires_at: Instant = ""
    ends_at: FormerInstant = NOT_WRITTEN
    is_used: bool = False

    def __post_init__(self) -> None:
        """Reads what older versions wrote."""
        take_over(self, "ends_at", "expires_at")


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a fleet, its members, and whom it invited."""

    addresses: tuple[str, ...]
    """Hosts and ports under which members reach the server."""
    operator_seed: str
    system_seed: str
    account_seed: str
    signing_seeds: dict[Role, str]
    """Of each role: what they sign has its rights."""
    members: dict[str, Member] = {}
    invitations: dict[str, Invitation] = {}
    """Under the digest of their secret."""
    revoked: dict[str, int] = {}
    """Public keys that count no more, and since when in unix seconds, as the NATS server reads them."""

    def __repr__(self) -> str:
        """The authority without its keys."""
        return f"Authority({len(self.members)} members)"


def new_authority(addresses: Sequence[str] = ()) -> Authority:
    """An authority with fresh keys and no member, whose server is reached at these hosts and ports."""
    return Authority(
        addresses=tuple(addresses),
        operator_seed=new_seed(Kind.OPERATOR),
        system_seed=new_seed(Kind.ACCOUNT),
        account_seed=new_seed(Kind.ACCOUNT),
        signing_seeds={role: new_seed(Kind.ACCOUNT) for role in Role},
    )


def invited(authority: Authority, name: str, role: Role, secret: str, *, now: float, again: bool = False) -> Authority:
    """The authority with one more invitation.

    Args:
        authority: Invites.
        name: Of the member to be; a node's is its node id.
        role: What it may do.
        secret: Whoever shows it is admitted, once.
        now: Unix seconds.
        again: Whether `name` is a member that gets new credentials; what it has counts until the new ones are fetched.

    Raises:
        SollolError: `bad_request`: the name cannot be one, or is (not) taken.
    """
    why = refusal_of_name(name)
    if why:
        raise _refused(ErrorCode.BAD_REQUEST, why)
    if role is Role.NEWCOMER:
        raise _refused(ErrorCode.BAD_REQUEST, "a newcomer is nobody yet; invite a node, client, observer or operator")
    if again and name not in authority.members:
        raise _unknown(authority, name)
    if not again and name in authority.members:
        raise _refused(
            ErrorCode.BAD_REQUEST, f"{name} is a member already; `sollol fleet rotate {name}` gives it new credentials"
        )
    known = {
        digest: one
        for digest, one in authority.invitations.items()
        if now < seconds_of(one.expires_at) + _REMEMBERED_S and (one.name != name or one.is_used)
    }
    if len(known) >= _MOST_INVITATIONS:
        raise _refused(ErrorCode.BAD_REQUEST, f"{len(known)} invitations are open; wait until some have ended")
    known[digest_of(secret)] = Invitation(name=name, role=role, expires_at=instant(now + INVITED_S))
    return msgspec.structs.replace(authority, invitations=known)


def admitted(authority: Authority, secret: str, key: str, *, machine: str, now: float) -> tuple[Authority, Member]:
    """The authority with the member that showed the secret of an invitation.

    Args:
        authority: Admits.
        secret: Of the invitation.
        key: The member's public key.
        machine: Where it says that it runs.
        now: Unix seconds.

    Raises:
        SollolError: `forbidden`: nobody was invited with that secret, it was used, or it came too late.
    """
    if not is_user_key(key):
        raise _refused(ErrorCode.BAD_REQUEST, "that is no public key of a user")
    digest = digest_of(secret)
    found = authority.invitations.get(digest)
    if found is None:
        raise _refused(ErrorCode.FORBIDDEN, "this token is none of this fleet's; ask for a new one: sollol invite")
    if found.is_used:
        raise _refused(
            ErrorCode.FORBIDDEN, f"this token was used already; ask for a new one: {_again(authority, found)}"
        )
    if now >= seconds_of(found.expires_at):
        raise _refused(ErrorCode.FORBIDDEN, f"this token is too old; ask for a new one: {_again(authority, found)}")
    member = Member(name=found.name, role=found.role, key=key, machine=machine[:64], joined_at=instant(now))
    before = authority.members.get(found.name)
    revoked = authority.revoked if before is None else authority.revoked | {before.key: int(now)}
    return (
        msgspec.structs.replace(
            authority,
            members=authority.members | {member.name: member},
            invitations=authority.invitations | {digest: msgspec.structs.replace(found, is_used=True)},
            revoked=revoked,
        ),
        member,
    )


def enrolled(authority: Authority, member: Member) -> Authority:
    """The authority with a member that needs no invitation: one on its own machine."""
    return msgspec.structs.replace(authority, members=authority.members | {member.name: member})


def without(authority: Authority, name: str, *, now: float) -> Authority:
    """The authority that admits a member no more, and nobody whom it invited under that name.

    Raises:
        SollolError: `bad_request`: there is no such member.
    """
    member = authority.members.get(name)
    if member is None:
        raise _unknown(authority, name)
    return msgspec.structs.replace(
        authority,
        members={k: v for k, v in authority.members.items() if k != name},
        invitations={k: v for k, v in authority.invitations.items() if v.name != name or v.is_used},
        revoked=authority.revoked | {member.key: int(now)},
    )


def claims_of_member(authority: Authority, member: Member, *, now: float) -> str:
    """Who a member is; what it may do follows from who signs."""
    account = public_key(authority.account_seed)
    signer, tags = authority.signing_seeds[member.role], (role_tag(member.role),)
    return user_claims(signer, member.key, member.name, now=now, account=account, tags=tags)


def claims_of_fleet(authority: Authority, *, now: float) -> str:
    """What each role may do, and whose credentials count no more; pushed to the server while it runs."""
    scopes = []
    for role in Role:
        allowed = permissions(role, _NAME)
        is_newcomer = role is Role.NEWCOMER
        scopes.append(
            Scope(
                role=role.value,
                key=public_key(authority.signing_seeds[role]),
                publish=allowed.publish,
                subscribe=allowed.subscribe,
                answers_s=allowed.answers_s,
                admits_all=is_newcomer,
                payload_bytes=_NEWCOMERS_BYTES if is_newcomer else -1,
            )
        )
    return account_claims(
        authority.operator_seed,
        public_key(authority.account_seed),
        ACCOUNT,
        now=now,
        scopes=scopes,
        revoked=authority.revoked,
        keeps=True,
    )


def server_config(authority: Authority, *, folder: str) -> str:
    """The part of a NATS server's configuration that makes it know this fleet; there is no secret in it.

    Args:
        authority: Of the fleet.
        folder: Where the server keeps what is pushed to it, which is newer than what stands here.
    """
    system, account = public_key(authority.system_seed), public_key(authority.account_seed)
    newcomer = public_key(new_seed(Kind.USER))  # whoever has no credentials connects under it: nobody has its seed
    sentinel = user_claims(authority.signing_seeds[Role.NEWCOMER], newcomer, "newcomer", now=_LONG_AGO, account=account)
    of_system = account_claims(authority.operator_seed, system, SYSTEM, now=_LONG_AGO)
    return (
        f"operator: {operator_claims(authority.operator_seed, system, now=_LONG_AGO)}\n"
        f"system_account: {system}\n"
        f"default_sentinel: {sentinel}\n"
        f'resolver {{ type: full, dir: {msgspec.json.encode(folder).decode()}, allow_delete: false, interval: "2m" }}\n'
        f"resolver_preload {{\n  {system}: {of_system}\n"
        f"  {account}: {claims_of_fleet(authority, now=_LONG_AGO)}\n}}\n"
    )


def tls_config(certificate: str, key: str) -> str:
    """The part of a NATS server's configuration that encrypts its connections.

    Args:
        certificate: The file of the server's certificate.
        key: That of its key.
    """
    files = {"cert_file": certificate, "key_file": key}
    lines = [f"  {name}: {msgspec.json.encode(path).decode()}\n" for name, path in files.items()]
    # a busy or small machine takes longer for its first handshake than the 2 s that a server grants unasked
    return f"tls {{\n{''.join(lines)}  timeout: {_HANDSHAKE_S}\n}}\n"


def new_secret() -> str:
    """128 random bits."""
    return secrets.token_urlsafe(16)


def digest_of(secret: str) -> str:
    """Under what an invitation is kept, so that nobody who reads it can use it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _again(authority: Authority, one: Invitation) -> str:
    if one.name in authority.members:
        return f"sollol fleet rotate {one.name}"
    return f"sollol invite {'operator' if one.role is Role.CONTROL else one.role.value} {one.name}"


def _unknown(authority: Authority, name: str) -> SollolError:
    names = ", ".join(sorted(authority.members)) or "nobody"
    return _refused(ErrorCode.BAD_REQUEST, f"{name} is no member; there are: {names}")


def _refused(code: ErrorCode, message: str) -> SollolError:
    return error_from(ErrorBody(code=code, message=message))
