"""Child processes that announce themselves with `ready`, and end when we end, however we end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from sollol_bus.errors import ConfigError
from sollol_bus.server_guard import guarded

_STOP_TIMEOUT_S = 10.0
_TAIL_BYTES = 2000


class Child:
    """A Python module as a process of its own.

    Args:
        name: What it is called in messages.
        argv: What follows `python -m`.
        log_file: Where its stderr goes.
        start_timeout_s: Seconds until it must have printed `ready`.
    """

    def __init__(self, name: str, *argv: str, log_file: Path, start_timeout_s: float = 30.0) -> None:
        self.name = name
        self.served: dict[str, str] = {}
        """What it said before `ready`: the rest of each line by its first word."""
        self._argv = argv
        self._log_file = log_file
        self._start_timeout_s = start_timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        command = guarded([sys.executable, "-m", *self._argv], parent_pid=os.getpid())
        with self._log_file.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is ours: we stop the children in order
            )
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._wait_ready(self._process)
        except TimeoutError as error:
            await self.stop()
            raise ConfigError(
                f"{self.name} was not ready within {self._start_timeout_s:g} s: {self._said()}"
            ) from error
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def kill(self) -> None:
        """Ends it as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Asks it to end and waits; kills it when it takes too long. Safe to call twice."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == "ready":
                return
            self.served[word] = rest
        raise ConfigError(f"{self.name} ended before it was ready: {self._said()}")

    def _said(self) -> str:
        text = self._log_file.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        return text.splitlines()[-1] if text else f"see {self._log_file}"
