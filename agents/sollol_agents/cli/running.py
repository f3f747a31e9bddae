"""Runs a command's coroutine: on uvloop where there is one, ended by Ctrl-C and SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec

from sollol_agents.cli import exit_codes
from sollol_bus.errors import ConfigError, NotConnected
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """The exit code of `main`; a signal cancels it, so that whatever it asked of the fleet is cancelled too."""

    async def guarded() -> int:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, task.cancel)
        try:
            return await main()
        except asyncio.CancelledError:
            return exit_codes.INTERRUPTED

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(guarded())


def run_until_signalled(main: Callable[[asyncio.Queue[int]], Coroutine[Any, Any, int]]) -> int:
    """The exit code of `main`, which gets a queue of the signals that ask it to stop."""

    async def guarded() -> int:
        signals: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, signals.put_nowait, int(number))
        return await main(signals)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(guarded())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where it is installed: half the latency of asyncio's own at low concurrency."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop  # noqa: PLC0415 not on every platform

    return uvloop.new_event_loop


@contextlib.asynccontextmanager
async def connected(bus: BusConfig, name: str = "sollol-cli") -> AsyncIterator[Client]:
    """A client of the fleet, known to the server by `name`.

    Raises:
        NotConnected: No NATS server answers there.
    """
    client = Client(msgspec.structs.replace(bus, name=name))
    try:
        await client.start()
    except ConfigError as error:
        raise NotConnected(error.message) from error
    try:
        yield client
    finally:
        await client.close()
