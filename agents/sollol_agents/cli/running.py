"""Runs a command's coroutine, ended by Ctrl-C and SIGTERM; what runs for long runs on uvloop where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import msgspec

from sollol_agents.cli import exit_codes, lean_start, log_lines
from sollol_bus.errors import ConfigError, NotConnected
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connecting import advice
from sollol_bus.transport.connection import Bus, BusConfig, NoServer
from sollol_bus.waiting import delays

log = logging.getLogger(__name__)

_PORT: Final = 4222
_WEB_PORTS: Final = {"ws": 80, "wss": 443}
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 5.0
_TELL_EVERY_S = 30.0


def run(main: Callable[[], Coroutine[Any, Any, int]], *, is_long: bool = False) -> int:
    """The exit code of `main`; a signal cancels it, so that whatever it asked of the fleet is cancelled too.

    Args:
        main: What the command does.
        is_long: Whether a faster loop is worth the time that loading it takes: not for a question and its answer.
    """

    async def guarded() -> int:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            _hear(loop, number, task.cancel)
        try:
            return await main()
        except asyncio.CancelledError:
            return exit_codes.INTERRUPTED

    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    try:
        with asyncio.Runner(loop_factory=loop_factory() if is_long else None) as runner:
            return runner.run(guarded())
    finally:
        for number, handler in before.items():  # uvloop leaves them to a loop that is closed
            if handler is not None:
                signal.signal(number, handler)


def run_until_signalled(main: Callable[[asyncio.Queue[int]], Coroutine[Any, Any, int]]) -> int:
    """The exit code of `main`, which gets a queue of the signals that ask it to stop."""

    async def guarded() -> int:
        signals: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            _hear(loop, number, partial(signals.put_nowait, int(number)))
        try:
            return await main(signals)
        finally:
            _hear_no_more(loop)

    gc.freeze()  # what is there already stays
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(guarded())


def _hear(loop: asyncio.AbstractEventLoop, number: signal.Signals, act: Callable[[], object]) -> None:
    """Acts on a signal; where the loop has no handlers (Windows), Python's own wakes it."""
    try:
        loop.add_signal_handler(number, act)
    except NotImplementedError:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))


def _hear_no_more(loop: asyncio.AbstractEventLoop) -> None:
    """Lets signals that ask for the end do nothing: it has come, and is not to look like a death by them."""
    masks = hasattr(signal, "pthread_sigmask")
    if masks:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    for number in _STOP_SIGNALS:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    if masks:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where it is installed: half the latency of asyncio's own at low concurrency."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop  # noqa: PLC0415 not on every platform

    return uvloop.new_event_loop


async def server_there(bus: BusConfig, signals: asyncio.Queue[int]) -> bool:
    """Waits until a NATS server answers, for ever; False when a signal came before that.

    Raises:
        ConfigError: It refuses us, or the address cannot be one.
    """
    loop = asyncio.get_running_loop()
    waiting = loop.create_task(_wait_for_server(bus), name="waits for a NATS server")
    signalled = loop.create_task(signals.get(), name="waits for a signal")
    try:
        await asyncio.wait((waiting, signalled), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            waiting.result()
        return waiting.done()
    finally:
        for task in (waiting, signalled):
            task.cancel()
        await asyncio.gather(waiting, signalled, return_exceptions=True)


async def _wait_for_server(bus: BusConfig) -> None:
    loop = asyncio.get_running_loop()
    told_at = float("-inf")
    for delay_s in delays(_FIRST_RETRY_S, _LAST_RETRY_S):
        try:
            await expect_listener(bus)
            connection = await Bus.connect(bus)
        except (NoServer, NotConnected) as error:
            if loop.time() - told_at >= _TELL_EVERY_S:
                told_at = loop.time()
                log.warning("%s Tried again until there is one.", error, extra={"action": "server_awaited"})
            await asyncio.sleep(delay_s)
        else:
            await connection.close()
            return


def become(command: str) -> NoReturn:
    """Goes on as another command, which reads its settings where this one has written them."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "sollol_agents.cli", command])  # noqa: S606 ourselves


@contextlib.asynccontextmanager
async def connected(bus: BusConfig, name: str = "sollol-cli") -> AsyncIterator[Client]:
    """A client of the fleet, known to the server by `name`.

    Raises:
        NotConnected: No NATS server answers there.
    """
    client = Client(msgspec.structs.replace(bus, name=name))
    with log_lines.refusals_told_by_errors():
        try:
            await expect_listener(bus)
            await client.start()
        except ConfigError as error:
            raise NotConnected(error.message) from error
        try:
            yield client
        finally:
            await client.close()


async def expect_listener(bus: BusConfig) -> None:
    """Returns unless it is certain that nobody listens: a person is told at once, an actor waits for its server.

    Raises:
        NotConnected: Every address refuses connections, or its host has no such name.
    """
    why = ""
    for url in bus.url.split(","):
        found = urlsplit(url if "://" in url else f"nats://{url}")
        if found.scheme in _WEB_PORTS:
            lean_start.load_websockets()  # whoever connects passes here first
        try:
            connecting = asyncio.open_connection(found.hostname, found.port or _WEB_PORTS.get(found.scheme, _PORT))
            _, writer = await asyncio.wait_for(connecting, bus.connect_timeout_s)
        except (ConnectionRefusedError, socket.gaierror) as error:
            # what a loop makes of it differs; the system's words are the same everywhere
            why = os.strerror(errno.ECONNREFUSED) if isinstance(error, ConnectionRefusedError) else str(error.strerror)
        except (OSError, TimeoutError, ValueError):
            return  # whatever it is, connecting tells
        else:
            writer.close()
            return
    raise NotConnected(f"cannot connect to NATS at {bus.url}: {why}. {advice(why, bus.url)}")
