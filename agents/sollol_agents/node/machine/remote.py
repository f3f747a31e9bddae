"""Whether an engine runs on another machine than its agent, and what is then said about that machine."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from sollol_agents.node.machine.host import HostSample, local_addresses, told_addresses
from sollol_schemas.telemetry import Gpu

log = logging.getLogger(__name__)

STATED: Final = "stated"
"""The driver of a GPU whose memory an operator told."""
_MIB_PER_GIB: Final = 1024.0
_RESOLVE_S: Final = 5.0


def host_of(url: str) -> str:
    """The host of an engine's URL; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_here(address: str, own: frozenset[str]) -> bool:
    """Whether an IP address is one of this machine, whose interfaces have the addresses `own`."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback or ip.is_unspecified or str(ip) in own


async def resolved(url: str) -> tuple[str, ...]:
    """The addresses of the host of `url`; none for a name that cannot be resolved."""
    host = host_of(url)
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        log.warning("the engine's host %r cannot be resolved: %s", host, error, extra={"action": "engine_unresolved"})
        return ()
    return tuple(str(address[0]) for *_, address in found)


async def are_here(addresses: Iterable[str]) -> bool:
    """Whether any of these addresses is one of this machine."""
    own = await asyncio.to_thread(local_addresses)
    return any(is_here(address, own) for address in addresses)


def unknown_host(name: str, ram_gb: float, addresses: Iterable[str] = ()) -> HostSample:
    """A machine of which nothing is known but, perhaps, its memory in GiB."""
    mib = ram_gb * _MIB_PER_GIB
    return HostSample(
        cpu_count=0,
        cpu_load_ratio=0.0,
        ram_total_mib=mib,
        ram_available_mib=mib,
        name=name,
        addresses=told_addresses(addresses),
        is_remote=True,
    )


def stated_gpus(vram_gb: float) -> tuple[Gpu, ...]:
    """The GPU that an operator stated by its memory in GiB; none for 0."""
    if not vram_gb:
        return ()
    mib = vram_gb * _MIB_PER_GIB
    return (Gpu(index=0, name="GPU", memory_total_mib=mib, memory_free_mib=mib, driver=STATED),)
