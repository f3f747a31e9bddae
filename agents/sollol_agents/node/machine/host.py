"""The machine's processor and memory. The only module that meets psutil."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from typing import Final

import msgspec
import psutil

_MIB: Final = 1024 * 1024
_ADDRESSES_MAX: Final = 16


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one moment."""

    cpu_count: int
    cpu_load_ratio: float
    """Load average of one minute per core."""
    ram_total_mib: float
    ram_available_mib: float
    name: str
    addresses: tuple[str, ...] = ()
    """Of the machine, without those that every machine has."""
    is_remote: bool = False
    """Another machine than the agent's: nothing of it is measured, its memory may be stated."""


def told_addresses(found: Iterable[str]) -> tuple[str, ...]:
    """Those of the addresses by which a machine may be called: IPv4 first, 16 at most, none that every machine has."""
    usable = set()
    for text in found:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:  # of a network card
            continue
        if not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast):
            usable.add(address)
    return tuple(map(str, sorted(usable, key=lambda one: (one.version, int(one)))))[:_ADDRESSES_MAX]


def local_addresses() -> frozenset[str]:
    """The IP addresses of this machine's interfaces, without zones."""
    return frozenset(one.address.partition("%")[0] for found in psutil.net_if_addrs().values() for one in found)


def sample_host(known: HostSample | None = None) -> HostSample:
    """The machine now; reads a few files.

    Args:
        known: An earlier sample whose name, cores and addresses still hold: finding those is most of the work.
    """
    memory = psutil.virtual_memory()
    cores = known.cpu_count if known is not None else os.cpu_count() or 1
    return HostSample(
        cpu_count=cores,
        cpu_load_ratio=max(0.0, psutil.getloadavg()[0]) / cores,
        ram_total_mib=memory.total / _MIB,
        ram_available_mib=memory.available / _MIB,
        name=known.name if known is not None else socket.gethostname(),
        addresses=known.addresses if known is not None else told_addresses(local_addresses()),
    )
