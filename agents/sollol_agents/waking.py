"""Wakes machines, and sends this one to sleep: magic packets, and commands that are configured on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import shlex
import socket
from typing import Final

from sollol_schemas.telemetry import MAC

COMMAND_S: Final = 60.0
"""A command may take so long."""
EVERYWHERE: Final = "255.255.255.255"
_PORT: Final = 9
_REPEATS: Final = 3
_OUTPUT_MAX: Final = 300


class NotWoken(Exception):
    """It could not be tried; the message says why."""


def magic_packet(mac: str) -> bytes:
    """What wakes the network card of that address: six times FF, and sixteen times the address.

    Raises:
        NotWoken: That is no address.
    """
    if not mac or not re.fullmatch(MAC.removesuffix(r"(?!\n)"), mac):
        raise NotWoken(f"{mac[:40]!r} is no MAC address like 00:00:5e:00:53:01")
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16


def broadcast_address(text: str) -> str:
    """Where a magic packet goes: an address of a private network, or everybody on this one.

    Raises:
        NotWoken: It is another address: nobody may have packets sent out of the house.
    """
    try:
        address = ipaddress.IPv4Address(text or EVERYWHERE)
    except ValueError as error:
        raise NotWoken(f"{text[:40]!r} is no IPv4 address") from error
    if str(address) != EVERYWHERE and not (address.is_private and not address.is_unspecified):
        raise NotWoken(f"{address} is no address of a private network")
    return str(address)


def send_magic_packet(mac: str, broadcast: str, *, port: int = _PORT) -> None:
    """Sends it, three times: it is not answered, and may be lost.

    Raises:
        NotWoken: It cannot be sent.
    """
    packet, address = magic_packet(mac), broadcast_address(broadcast)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            one.setblocking(False)
            for _ in range(_REPEATS):
                one.sendto(packet, (address, port))
    except OSError as error:
        raise NotWoken(f"the magic packet to {address} was not sent: {error}") from error


async def run_command(command: str, *, limit_s: float = COMMAND_S) -> str:
    """Runs a command of this machine's operator, without a shell; what went wrong, empty when nothing did."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        return f"the command cannot be read: {error}"
    if not words:
        return "the command is empty"
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        return f"{words[0]} was not started: {error}"
    try:
        async with asyncio.timeout(limit_s):
            output, _ = await process.communicate()
    except TimeoutError:
        return f"{words[0]} did not end within {limit_s:g} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    said = output.decode(errors="replace").strip()[-_OUTPUT_MAX:]
    return "" if process.returncode == 0 else f"{words[0]} ended with {process.returncode}: {said}".removesuffix(": ")
