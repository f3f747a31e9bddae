"""Functions that a program wants called with a result: where they run, and what becomes of their errors."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sollol_bus.compat.results import Result

log = logging.getLogger(__name__)

Callback = Callable[[Result], Any]


def delivery(callback: Callback) -> Callable[[Result], None]:
    """Takes a result on the fleet's loop and calls `callback`, which may be a coroutine function.

    It runs on the loop on which this was called. Where there was none, or it has ended, a coroutine function runs on
    the fleet's loop, and any other function in a thread, so that it may itself ask the fleet and wait.
    """
    try:
        home: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        home = None

    def deliver(result: Result) -> None:
        if home is not None and not home.is_closed():
            made: Future[None] = asyncio.run_coroutine_threadsafe(_call(callback, result), home)
            made.add_done_callback(_say_what_failed)
            return
        loop = asyncio.get_running_loop()
        if inspect.iscoroutinefunction(callback):
            asyncio.run_coroutine_threadsafe(_call(callback, result), loop).add_done_callback(_say_what_failed)
        else:
            loop.run_in_executor(None, callback, result).add_done_callback(_say_what_failed)

    return deliver


async def _call(callback: Callback, result: Result) -> None:
    made = callback(result)
    if inspect.isawaitable(made):
        await made


def _say_what_failed(made: Future[Any] | asyncio.Future[Any]) -> None:
    if not made.cancelled() and (error := made.exception()) is not None:
        log.error("a callback failed", exc_info=error, extra={"action": "callback_failed"})
