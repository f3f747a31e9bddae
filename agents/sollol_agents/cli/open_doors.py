"""Refuses to open to a network what knows nobody, unless somebody says that this is meant. Pure."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final

from sollol_agents.cli.declared import Parameter
from sollol_bus.errors import ConfigError

KEYS: Final = "set SOLLOL_GATEWAY_REQUIRE_KEY=true and make keys with `sollol keys create`"
DASHBOARD_KEYS: Final = "set SOLLOL_DASHBOARD_REQUIRE_KEY=true and make keys with `sollol keys create NAME --admin`"
OpenFlag = Annotated[
    bool,
    Parameter(
        name="--open",
        has_negative=False,
        show_default=False,
        help="Let whoever reaches this machine in, without users or keys: for a network that only you use.",
    ),
]


def refuse_open(what: str, host: str, remedy: str, *, is_open: bool) -> None:
    """Checks an address on which something listens that lets everybody in.

    Args:
        what: Listens there.
        host: The address.
        remedy: How to let only some in.
        is_open: Whether it is said that everybody is meant.

    Raises:
        ConfigError: Others than this machine reach the address, and nobody said that they shall.
    """
    if is_open or is_loopback(host):
        return
    raise ConfigError(
        f"{what} would listen on {host} and let whoever reaches this machine in: "
        f"{remedy}, or say --open if that is meant"
    )


def certificate_for(host: str, certificate: tuple[Path, Path] | None, *, is_open: bool) -> tuple[Path, Path] | None:
    """What a gateway encrypts with: the fleet's certificate wherever others than this machine reach it."""
    return None if is_open or is_loopback(host) else certificate


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than localhost may be anybody's."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
