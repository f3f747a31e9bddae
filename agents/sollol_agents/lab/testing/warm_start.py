"""Starts processes of this software as forks of one that has imported it, in a tenth of the time.

    with warm_start.nursery():
        async with ProcessFleet(tmp_path) as fleet:
            ...

They are processes like any other: see `nursery`, which is that one. Where forks are not to be had, or the environment
says something to Python itself or to the loader of libraries, `order` has none, and they are started as a user does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Final

import msgspec

from sollol_agents.children import Child, Spawned
from sollol_agents.lab.testing.nursery import ORDER_BYTES_MAX, Order
from sollol_bus.server.guard import guarded

_STDIN_BYTES_MAX: Final = 32_000
"""A pipe holds it, whether or not it is read."""
_FOR_ITSELF: Final = ("PYTHON", "LD_", "LANG", "LC_", "MALLOC_")
"""Beginnings of variables that a process reads before it runs anything of ours."""


class Nursery:
    """The process that is forked; it ends with `close`, and its forks with it."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.setblocking(False)
        number = str(theirs.fileno())
        self._environ = dict(os.environ)
        self._process = subprocess.Popen(  # noqa: S603 ourselves
            guarded([sys.executable, "-m", "sollol_agents.lab.testing.nursery", number], parent_pid=os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # not a terminal, as with those that it stands for
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        self.nothing = os.open(os.devnull, os.O_RDONLY)
        """A stdin that is empty."""

    def order(self, argv: Sequence[str], environ: Mapping[str, str], streams: tuple[int, int, int]) -> int | None:
        """Starts a process; the end of a pipe that tells `pid N` and `code N`, or None where it must start anew.

        Args:
            argv: What follows `python -m`.
            environ: Its whole environment.
            streams: Its stdin, stdout and stderr, which stay open here.
        """
        if of_python(environ) != of_python(self._environ):
            return None
        data = msgspec.json.encode(Order(argv=tuple(argv), environ=dict(environ)))
        if len(data) > ORDER_BYTES_MAX:
            return None
        told, tells = os.pipe()
        try:
            socket.send_fds(self._orders, [data], [*streams, tells])
        except BlockingIOError:  # it is behind
            os.close(told)
            return None
        finally:
            os.close(tells)
        return told

    def close(self) -> None:
        """Ends it, and whatever it still runs."""
        self._orders.close()
        os.close(self.nothing)
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def of_python(environ: Mapping[str, str]) -> dict[str, str]:
    """What an environment says to Python itself and to the loader of libraries."""
    return {name: value for name, value in environ.items() if name.startswith(_FOR_ITSELF)}


_current: list[Nursery] = []


@contextlib.contextmanager
def nursery() -> Iterator[None]:
    """Lets processes start as forks for as long as the block lasts, where the system can."""
    if sys.platform != "linux" or os.environ.get("SOLLOL_TEST_START") == "anew":
        yield
        return
    made = Nursery()
    _current.append(made)
    try:
        yield
    finally:
        _current.remove(made)
        made.close()


def current() -> Nursery | None:
    """The one that is open, if one is."""
    return _current[-1] if _current else None


class _Following:
    """What comes out of a pipe goes to `take`, an empty end too; closed once.

    Not a transport of the loop: uvloop closes the descriptor of a file twice, and it may be somebody else's by then.
    """

    def __init__(self, pipe: int, take: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._take = take
        os.set_blocking(pipe, False)
        self._loop.add_reader(pipe, self._read)

    def close(self) -> None:
        """Reads no more."""
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._pipe, 65_536)
            if not data:
                self.close()
            self._take(data)


def _read_from(pipe: int) -> tuple[asyncio.StreamReader, _Following]:
    reader = asyncio.StreamReader()
    return reader, _Following(pipe, lambda data: reader.feed_data(data) if data else reader.feed_eof())


class Fork:
    """A process that a nursery has started, used like one of asyncio's."""

    def __init__(self, told: int, stdout: int) -> None:
        self.stdout, self._said = _read_from(stdout)
        self._seen = b""
        self._pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._telling = _Following(told, self._on_told)

    @property
    def pid(self) -> int:
        """Its id, once it has begun."""
        return self._pid.result()

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._code.result() if self._code.done() else None

    async def begun(self) -> None:
        """Returns once it has an id."""
        await asyncio.shield(self._pid)

    async def wait(self) -> int:
        """How it ended, once it has."""
        code = await asyncio.shield(self._code)
        self._said.close()
        return code

    def _on_told(self, data: bytes) -> None:
        *lines, self._seen = (self._seen + data).split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            (self._pid if word == b"pid" else self._code).set_result(int(number))
        if not data:  # or the nursery has died, and everything with it
            for future in (self._pid, self._code):
                if not future.done():
                    future.set_result(-signal.SIGKILL)


class WarmChild(Child):
    """A child process that is a fork while a nursery is open and its environment allows it."""

    async def _spawn(self, errors: int) -> Spawned:
        warm = current()
        if warm is None:
            return await super()._spawn(errors)
        environ = os.environ if self._environ is None else self._environ
        out, theirs = os.pipe()
        told = warm.order(self._argv, environ, (warm.nothing, theirs, errors))
        os.close(theirs)
        if told is None:
            os.close(out)
            return await super()._spawn(errors)
        fork = Fork(told, out)
        await fork.begun()
        return fork


async def run(argv: Sequence[str], environ: Mapping[str, str], stdin: bytes = b"") -> tuple[int, bytes, bytes] | None:
    """Runs a fork to its end: its exit code, and what it wrote to stdout and stderr; None where there is none."""
    warm = current()
    if warm is None or len(stdin) > _STDIN_BYTES_MAX:
        return None
    (asks, fills), (out, tells_out), (err, tells_err) = os.pipe(), os.pipe(), os.pipe()
    os.set_blocking(fills, False)
    os.write(fills, stdin)
    os.close(fills)
    told = warm.order(argv, environ, (asks, tells_out, tells_err))
    for theirs in (asks, tells_out, tells_err):
        os.close(theirs)
    if told is None:
        os.close(out)
        os.close(err)
        return None
    fork = Fork(told, out)
    reader, noting = _read_from(err)
    try:
        said, noted = await asyncio.gather(fork.stdout.read(), reader.read())
        return await fork.wait(), said, noted
    finally:
        noting.close()
        if fork.returncode is None:
            await fork.begun()
            with contextlib.suppress(ProcessLookupError):
                os.kill(fork.pid, signal.SIGKILL)
            await fork.wait()


class Program:
    """A module that says something and ends when it is told to, for tests without a loop; a fork where it can be.

    Args:
        argv: What follows `python -m`.
        errors: Where what it complains of goes.
    """

    def __init__(self, *argv: str, errors: IO[str]) -> None:
        warm = current()
        out, theirs = os.pipe()
        told = warm.order(argv, os.environ, (warm.nothing, theirs, errors.fileno())) if warm is not None else None
        self._anew: subprocess.Popen[bytes] | None = None
        if told is None:
            self._anew = subprocess.Popen(  # noqa: S603 ourselves
                [sys.executable, "-m", *argv], stdin=subprocess.DEVNULL, stdout=theirs, stderr=errors
            )
        os.close(theirs)
        self.stdout = os.fdopen(out, "r")
        """What it says, line by line."""
        self._told = os.fdopen(told, "r") if told is not None else None

    @functools.cached_property
    def pid(self) -> int:
        """Its id."""
        if self._told is None:
            assert self._anew is not None
            return self._anew.pid
        return int(self._told.readline().split()[1])

    def end(self, timeout_s: float = 30) -> int:
        """Asks it to end; its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        try:
            return self._code(timeout_s)
        finally:
            self.stdout.close()

    def _code(self, timeout_s: float) -> int:
        if self._told is None:
            assert self._anew is not None
            return self._anew.wait(timeout_s)
        with self._told:
            if not select.select([self._told], [], [], timeout_s)[0]:
                raise TimeoutError(f"process {self.pid} does not end")
            words = self._told.readline().split()
            return int(words[1]) if words else -signal.SIGKILL  # the nursery has died, and everything with it
