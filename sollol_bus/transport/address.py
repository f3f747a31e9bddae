"""Addresses of NATS servers: what they may be, and the user that may stand in one. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from sollol_bus.errors import ConfigError

_SCHEMES: Final = ("nats", "tls", "ws", "wss")


class Address(NamedTuple):
    """One or several servers of one NATS system."""

    url: str
    """Without a user; several are separated by commas."""
    user: str | None
    password: str | None
    """Without a user it is a token."""


def read_address(text: str) -> Address:
    """The servers in `text`, apart from the user that stands before an `@` in it.

    Raises:
        ConfigError: It is no address of a server, or names several users.
    """
    parts = [_split(one.strip(), text) for one in text.split(",")]
    users = {_user_of(part) for part in parts} - {(None, None)}
    if len(users) > 1:
        raise _refused(text, "it names several users")
    user, password = next(iter(users), (None, None))
    urls = (part._replace(netloc=part.netloc.rpartition("@")[2]).geturl().rstrip("/") for part in parts)
    return Address(",".join(urls), user, password)


def _split(one: str, text: str) -> SplitResult:
    if not one or not one.isprintable() or " " in one:
        raise _refused(
            text, "a server's address is missing in it" if not one else "it has spaces or control characters"
        )
    try:
        part = urlsplit(one if "://" in one else f"nats://{one}")
        port = part.port
    except ValueError as error:
        raise _refused(text, "its port or host cannot be read") from error
    if part.scheme not in _SCHEMES:
        raise _refused(text, f"it begins with none of {', '.join(f'{s}://' for s in _SCHEMES)}")
    if not part.hostname or port == 0:
        raise _refused(text, "it has no host" if not part.hostname else "its port is 0")
    if part.scheme in ("nats", "tls") and (part.path not in ("", "/") or part.query or part.fragment):
        raise _refused(text, "something follows its host and port")
    return part


def _user_of(part: SplitResult) -> tuple[str | None, str | None]:
    userinfo, at, _ = part.netloc.rpartition("@")
    if not at:
        return None, None
    user, colon, password = userinfo.partition(":")
    return (unquote(user), unquote(password)) if colon else (None, unquote(user))


def _refused(text: str, why: str) -> ConfigError:
    shown = "(hidden)" if "@" in text else repr(text[:200])
    return ConfigError(f"{shown} cannot be the address of a NATS server: {why}; it is like nats://HOST:4222")
