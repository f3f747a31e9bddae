"""What an invitation says to one person: one short text that is pasted into one command."""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from sollol_bus.errors import ConfigError

_BEGINS: Final = "sollol-"


class Token(msgspec.Struct, frozen=True, array_like=True):
    """Where the fleet's server is, how it is known, and the secret of an invitation."""

    addresses: tuple[str, ...]
    """Host and port; the first that answers is taken."""
    fingerprint: bytes
    """SHA-256 of the certificate of the fleet's authority."""
    secret: str

    def __repr__(self) -> str:
        """The token without its secret."""
        return f"Token({', '.join(self.addresses)})"


def written(token: Token) -> str:
    """The token as text without characters that a shell reads."""
    return _BEGINS + base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")


def read(text: str) -> Token:
    """The token in a text.

    Raises:
        ConfigError: It is none, or a part of one.
    """
    body = "".join(text.split()).removeprefix(_BEGINS)
    try:
        token = msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Token)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ConfigError(
            "that is no token, or only a part of one; copy the whole line that `sollol invite` printed"
        ) from error
    if not token.addresses or len(token.fingerprint) != 32:
        raise ConfigError("that token names no server; ask for a new one: sollol invite")
    return token
