"""A program in a terminal of its own that nobody looks at: what it draws is read and thrown away."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from typing import Final, Self

ROWS: Final = 40
COLUMNS: Final = 120
_CHUNK: Final = 1 << 16
_SCREEN: Final = 1000
"""Bytes that no program writes before its first screen."""
_START_S: Final = 30.0
_STOP_S: Final = 10.0


class Terminal:
    """One program in a pseudo-terminal.

    Args:
        *argv: A module of Python and its arguments.
    """

    def __init__(self, *argv: str) -> None:
        self._argv = argv
        self._process: asyncio.subprocess.Process | None = None
        self._ours = -1
        self._drawn = 0
        self._has_drawn = asyncio.Event()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    async def drawn(self) -> None:
        """Returns when its first screen is drawn.

        Raises:
            TimeoutError: It draws nothing for half a minute.
        """
        await asyncio.wait_for(self._has_drawn.wait(), _START_S)

    def press(self, key: str) -> None:
        """Types one key."""
        os.write(self._ours, key.encode())

    async def __aenter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        environ = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *self._argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environ
        )
        os.close(theirs)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)

    def _read(self) -> None:
        try:
            self._drawn += len(os.read(self._ours, _CHUNK))
        except OSError:  # it has ended
            asyncio.get_running_loop().remove_reader(self._ours)
            return
        if self._drawn >= _SCREEN:
            self._has_drawn.set()
