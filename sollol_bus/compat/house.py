"""The fleet of a program in a thread of its own, so that plain functions and coroutines of any loop may use it.

What is open when the program ends is closed then, before Python takes its threads away.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # what registers an exit handler after it is called before it: see `_close_all`
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar, cast

from sollol_bus.compat.config import SOLLOLConfig
from sollol_bus.compat.fleet import Fleet
from sollol_bus.loop_thread import LoopThread

log = logging.getLogger(__name__)

T = TypeVar("T")

_CLOSED: Final = "SOLLOL does not run: call start(), or `await initialize()`, first"
_LAST_WORDS_S: Final = 2.0
_BEGUN_MAX: Final = 1024
_open: Final[set[House]] = set()
_lock: Final = threading.Lock()


class House:
    """Opens and closes a fleet, and hands work to it. Opening it twice, or closing it twice, does nothing.

    Args:
        config: Which fleet; read when it is opened.
        has_gateway: Whether a fleet of its own serves HTTP too.
    """

    def __init__(self, config: Callable[[], SOLLOLConfig], *, has_gateway: bool) -> None:
        self._config = config
        self._has_gateway = has_gateway
        self._thread = LoopThread("sollol", _CLOSED)
        self._changing = threading.Lock()
        self._fleet: Fleet | None = None
        self._begun: set[Future[None]] = set()

    @property
    def fleet(self) -> Fleet:
        """The fleet.

        Raises:
            RuntimeError: It is not open.
        """
        if self._fleet is None:
            raise RuntimeError(_CLOSED)
        return self._fleet

    @property
    def is_open(self) -> bool:
        """Whether it takes work."""
        return self._fleet is not None

    @property
    def thread(self) -> LoopThread:
        """Where it runs."""
        return self._thread

    def open(self) -> None:
        """Returns when the fleet takes requests; the caller's thread waits.

        Raises:
            SollolError: It is not there, or something cannot start; nothing is left of it.
        """
        with self._changing:
            if self._fleet is not None:
                return
            fleet = Fleet(self._config(), has_gateway=self._has_gateway)
            self._thread.start()
            try:
                self._thread.run(fleet.start())
            except BaseException:
                self._thread.stop()
                raise
            self._fleet = fleet
        with _lock:
            _open.add(self)

    def close(self) -> None:
        """Ends all that `open` began; the caller's thread waits."""
        with self._changing:
            fleet, self._fleet = self._fleet, None
            if fleet is None:
                return
            try:
                concurrent.futures.wait(list(self._begun), _LAST_WORDS_S)
                self._thread.run(fleet.close())
            finally:
                self._thread.stop()
                with _lock:
                    _open.discard(self)

    def run(self, make: Callable[[Fleet], Coroutine[Any, Any, T]]) -> T:
        """What the fleet's work gives; the caller's thread waits."""
        return self._thread.run(make(self.fleet))

    async def ask(self, make: Callable[[Fleet], Coroutine[Any, Any, T]]) -> T:
        """What the fleet's work gives; the caller's loop goes on meanwhile, and cancelling ends the work."""
        return await self._thread.ask(make(self.fleet))

    def begin(self, make: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
        """Has the fleet do something for which nobody waits, but for `settled` and, for a moment, `close`."""
        if len(self._begun) >= _BEGUN_MAX:
            log.warning("left out, since too much is on its way already", extra={"action": "compat_left_out"})
            return
        made = asyncio.run_coroutine_threadsafe(make(self.fleet), self._thread.loop)
        self._begun.add(made)
        made.add_done_callback(self._ended)

    async def settled(self) -> None:
        """Returns when all that was begun has ended."""
        await asyncio.gather(*map(asyncio.wrap_future, list(self._begun)), return_exceptions=True)

    def _ended(self, made: Future[None]) -> None:
        self._begun.discard(made)
        if not made.cancelled() and (error := made.exception()) is not None:
            log.warning("the fleet did not take it: %s", error, extra={"action": "compat_refused"})

    def either(self, make: Callable[[Fleet], Coroutine[Any, Any, T]]) -> T:
        """What the fleet's work gives; on a running loop, which must not wait here, the coroutine that gives it."""
        if is_on_a_loop():
            return cast("T", self.ask(make))
        return self.run(make)


def is_on_a_loop() -> bool:
    """Whether the caller is a coroutine or a callback, so that waiting would hold up others."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _close_all() -> None:
    with _lock:
        houses = list(_open)
    for house in houses:
        with contextlib.suppress(Exception):  # the program ends, and the next one is to be closed as well
            house.close()


# Exit handlers proper come too late: by then Python takes no work for other threads, which closing needs.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
