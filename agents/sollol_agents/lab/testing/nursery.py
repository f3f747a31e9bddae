"""`python -m sollol_agents.lab.testing.nursery FD`: one process of which the processes of a test run are forks.

Python's start and the imports of this software take most of a second of each process, and tests start hundreds. Here
that is done once. A fork is a process of its own all the same, with its own id, descriptors, environment and end, and
does what `python -m MODULE` does in the same folder. `warm_start` is the other side.

It is asked over a socket of packets, one for each process: an `Order`, with four descriptors. The fourth is a pipe into
which it writes `pid N` at the start and `code N` at the end of that process. It ends when the socket does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import time
from typing import Final

import msgspec

ORDER_BYTES_MAX: Final = 128 * 1024
_DESCRIPTORS: Final = 4
_CLI: Final = "sollol_agents.cli"
_ACTORS: Final = ("dispatcher", "gateway", "node", "recorder", "registrar", "scorer")
_OTHERS: Final = ("uvloop", "aiosqlite", "sollol_agents.stack", "sollol_agents.lab.emulator.__main__")
_DEAR: Final = {"dashboard": "sollol_agents.dashboard.actor", "top": "sollol_agents.top.app"}
"""What only some commands load, and takes as long as all else: imported when the first of them is asked for."""
_DEATH_OF_THE_PARENT: Final = 1


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A process that is to be started."""

    argv: tuple[str, ...]
    """What follows `python -m`."""
    environ: dict[str, str]


def prepare() -> None:
    """Imports what commands, actors and emulated engines run with."""
    importlib.import_module(f"{_CLI}.__main__")  # first, as it puts off what commands seldom need
    commands = importlib.import_module(f"{_CLI}.commands")
    for command in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{_CLI}.commands.{command.name}")
    for name in (*(f"sollol_agents.{actor}.actor" for actor in _ACTORS), *_OTHERS):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def serve(orders: socket.socket) -> Order | None:
    """Forks for each order: what it is, in the fork; None at the end, in the nursery."""
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    before = signal.signal(signal.SIGCHLD, lambda *_: None), signal.set_wakeup_fd(waker.fileno())
    told: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([orders, wake], [], [])
        if wake in ready:
            wake.recv(4096)
            _tell_ends(told)
        if orders not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(orders, ORDER_BYTES_MAX, _DESCRIPTORS)
        if not data:
            return None
        order = msgspec.json.decode(data, type=Order)
        dear = next((_DEAR[word] for word in order.argv[1:2] if word in _DEAR), None)
        if dear is not None:
            with contextlib.suppress(ImportError):  # an extra that is not installed: the command says so itself
                importlib.import_module(dear)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(before[1])
            signal.signal(signal.SIGCHLD, before[0])
            for end in (orders, wake, waker):
                end.close()
            for status in told.values():
                os.close(status)
            _settle(order, descriptors, parent)
            return order
        *streams, status = descriptors
        for one in streams:
            os.close(one)
        told[pid] = status
        _write(status, f"pid {pid}\n")


def _settle(order: Order, descriptors: list[int], parent: int) -> None:
    """Makes a fork what a new process would be, one that ends with its parent."""
    *streams, status = descriptors
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in (*streams, status):
        os.close(descriptor)
    os.setsid()
    ctypes.CDLL(None).prctl(_DEATH_OF_THE_PARENT, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    os.environ.clear()
    os.environ.update(order.environ)
    time.tzset()


def _tell_ends(told: dict[int, int]) -> None:
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = told.pop(pid)
        _write(pipe, f"code {os.waitstatus_to_exitcode(status)}\n")
        os.close(pipe)


def _write(pipe: int, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(pipe, text.encode())


def main() -> None:
    """Serves until the socket ends; a fork goes on as its module."""
    prepare()
    orders = socket.socket(fileno=int(sys.argv[1]))
    order = serve(orders)
    if order is not None:
        module, *words = order.argv
        sys.argv = [module, *words]
        for name in (module, f"{module}.__main__"):
            if not hasattr(sys.modules.get(name), "__path__"):
                sys.modules.pop(name, None)  # it runs anew, under the name of a program
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
