"""What an authority signs, in the form that a NATS server in operator mode reads.

An operator vouches for accounts, an account for users, and the server checks signatures alone: a new member needs no
change on it, and one that is revoked is named in the account's claims, which are pushed to it while it runs. Claims are
JSON Web Tokens signed with Ed25519, version 2 of their form: https://docs.nats.io (JWT).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec
import nkeys

from sollol_bus.errors import ConfigError
from sollol_bus.transport.naming import caller_said_in, own_subjects
from sollol_schemas.inboxes import client_inbox_prefix

_HEAD: Final = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_UNLIMITED: Final = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT_LIMITS: Final = _UNLIMITED | {"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
_STORE_LIMITS: Final = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


class Kind(Enum):
    """Whose key it is."""

    OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
    ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
    USER = nkeys.PREFIX_BYTE_USER


def new_seed(kind: Kind) -> str:
    """A fresh private key, as the text that NATS writes."""
    return bytes(nkeys.encode_seed(os.urandom(32), kind.value)).decode()


def public_key(seed: str) -> str:
    """The public key of a seed.

    Raises:
        ConfigError: It is none.
    """
    return bytes(_pair(seed).public_key).decode()


def is_user_key(text: str) -> bool:
    """Whether a text is the public key of a user."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return False
    return len(raw) == 35 and raw[0] == Kind.USER.value and nkeys.crc16(raw[:-2]) == int.from_bytes(raw[-2:], "little")


def operator_claims(operator_seed: str, system_account: str, *, now: float) -> str:
    """Who the operator is, and which account belongs to the server itself."""
    claims = {"type": "operator", "version": 2, "system_account": system_account}
    return _signed(operator_seed, public_key(operator_seed), "sollol", claims, now=now)


class Scope(NamedTuple):
    """What all users may do whose claims one key signed; the account's claims say it, theirs do not."""

    role: str
    key: str
    """Public key of the signer."""
    publish: Sequence[str]
    """Subjects; `{{name()}}` stands for the user's name."""
    subscribe: Sequence[str]
    admits_all: bool = False
    """Whether claims alone admit, without a proof of the user's key: for those who have none yet."""
    answers_s: float = 0.0
    """How long they may publish to the reply subject of a message that they received; 0: not at all."""
    payload_bytes: int = -1
    """The largest message that they may send."""


def account_claims(
    operator_seed: str,
    account: str,
    name: str,
    *,
    now: float,
    scopes: Sequence[Scope] = (),
    revoked: Mapping[str, int] | None = None,
    keeps: bool = False,
) -> str:
    """What an account may do, what its users may do by their scope, and which of them are revoked.

    Args:
        operator_seed: Signs.
        account: Its public key.
        name: Its name.
        now: Unix seconds.
        scopes: Of its users.
        revoked: Public keys of users, and until when what was signed for them counts no more, in unix seconds.
        keeps: Whether it has JetStream.
    """
    limits = _ACCOUNT_LIMITS | (_STORE_LIMITS if keeps else {})
    claims: dict[str, Any] = {"type": "account", "version": 2, "limits": limits}
    if scopes:
        claims["signing_keys"] = [
            {
                "kind": "user_scope",
                "key": scope.key,
                "role": scope.role,
                "template": {
                    **_UNLIMITED,
                    "payload": scope.payload_bytes,
                    "pub": {"allow": list(scope.publish)},
                    "sub": {"allow": list(scope.subscribe)},
                    "bearer_token": scope.admits_all,
                    **_answers(scope.answers_s),
                },
            }
            for scope in scopes
        ]
    if revoked:
        claims["revocations"] = dict(revoked)
    return _signed(operator_seed, account, name, claims, now=now)


def user_claims(
    signer_seed: str, user: str, name: str, *, now: float, account: str = "", tags: Sequence[str] = ()
) -> str:
    """Who a user is.

    Args:
        signer_seed: Signs: the account's own, or the one of a scope.
        user: Its public key.
        name: Its name.
        now: Unix seconds.
        account: Public key of the account, where the signer has a scope; without, the user may say and hear everything.
        tags: Words about it for whoever reads its credentials.
    """
    claims: dict[str, Any] = {"type": "user", "version": 2}
    if tags:
        claims["tags"] = list(tags)
    claims |= {"issuer_account": account} if account else _UNLIMITED
    return _signed(signer_seed, user, name, claims, now=now)


def creds_text(claims: str, seed: str) -> str:
    """A credentials file as every client of NATS reads it; a caller's says how its owner has to ask and listen."""
    shown = f"-----BEGIN NATS USER JWT-----\n{claims}\n------END NATS USER JWT------\n\n"
    caller = caller_said_in(shown)
    if caller:  # between the two, where every client expects to find words
        prefix = client_inbox_prefix(caller)
        shown += f"Asks on subjects below {own_subjects(caller)[:-1]} with the inbox prefix {prefix}\n\n"
    return f"{shown}-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"


def _answers(answers_s: float) -> dict[str, Any]:
    return {"resp": {"max": -1, "ttl": int(answers_s * 1e9)}} if answers_s else {}


def _pair(seed: str) -> nkeys.KeyPair:
    try:
        return nkeys.from_seed(bytearray(seed.encode()))
    except (nkeys.NkeysError, ValueError) as error:
        raise ConfigError("a key of the fleet cannot be read") from error


def _signed(seed: str, subject: str, name: str, claims: Mapping[str, Any], *, now: float) -> str:
    pair = _pair(seed)
    body = {"iss": pair.public_key.decode(), "sub": subject, "name": name, "iat": int(now), "nats": claims}
    body["jti"] = base64.b32encode(hashlib.sha256(msgspec.json.encode(body)).digest()).decode().rstrip("=")
    text = _base64(_HEAD) + b"." + _base64(msgspec.json.encode(body))
    return (text + b"." + _base64(pair.sign(text))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
