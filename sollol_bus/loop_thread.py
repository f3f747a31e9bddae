"""An event loop in a thread of its own, for what outlives or has no loop of its caller's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """A loop that runs from `start` to `stop`; work for it may come from any thread.

    Args:
        name: The thread's.
        closed: What to tell whoever uses it while it does not run.
    """

    def __init__(self, name: str, closed: str) -> None:
        self._name = name
        self._closed = closed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether it takes work."""
        return self._loop is not None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop.

        Raises:
            RuntimeError: It does not run.
        """
        if self._loop is None:
            raise RuntimeError(self._closed)
        return self._loop

    def start(self) -> None:
        """Starts the loop."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops the loop; what still runs on it is cancelled. A second time does nothing."""
        loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_wind_up(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, for which this thread waits; whatever ends the waiting ends the work.

        Raises:
            RuntimeError: The loop does not run, or it is this very thread that runs it.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("this thread runs the loop and cannot wait for it: use the coroutine instead")
        future = asyncio.run_coroutine_threadsafe(work, self._loop_for(work))
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, for which another loop waits; cancelling the waiting cancels the work."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop_for(work)))

    def _loop_for(self, work: Coroutine[Any, Any, Any]) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            work.close()
        return self.loop


async def _wind_up() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
