"""Child processes that announce themselves with `ready`, and end when we end, however we end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sollol_bus.errors import ConfigError
from sollol_bus.parts import Part
from sollol_bus.server.guard import guarded

_STOP_TIMEOUT_S = 10.0
_TAIL_CHARACTERS = 2000


class Spawned(Protocol):
    """A process as asyncio has it, as far as it is used here."""

    @property
    def pid(self) -> int:
        """Its id."""

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What it says."""

    async def wait(self) -> int:
        """How it ended, once it has."""


class Child(Part):
    """A Python module as a process of its own.

    Args:
        name: What it is called in messages.
        argv: What follows `python -m`.
        log_file: Where its stderr goes; appended, so that a restart keeps what was said before.
        start_timeout_s: Seconds until it must have printed `ready`.
        environ: Its environment; None: ours.
        pass_fds: Descriptors of ours that it keeps under their numbers.
    """

    def __init__(
        self,
        name: str,
        *argv: str,
        log_file: Path,
        start_timeout_s: float = 30.0,
        environ: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.served: dict[str, str] = {}
        """What it said before `ready`: the rest of each line by its first word."""
        self._argv = argv
        self._log_file = log_file
        self._start_timeout_s = start_timeout_s
        self._environ = environ
        self._pass_fds = pass_fds
        self._process: Spawned | None = None
        self._lifeline: asyncio.StreamWriter | None = None

    def __repr__(self) -> str:
        return f"<Child {self.name} {self.served} exit_code={self.exit_code}>"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._require_process().pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: by that signal), or None while it runs or before it starts."""
        return self._process.returncode if self._process is not None else None

    async def log_text(self) -> str:
        """Everything it wrote to stderr so far."""
        data = await asyncio.to_thread(self._log_file.read_bytes)
        return data.decode(errors="replace")

    async def start(self) -> None:
        """Returns when it has printed `ready`.

        Raises:
            ConfigError: It ended before that, or was not ready in time.
        """
        with await asyncio.to_thread(self._log_file.open, "ab") as errors:
            self._process = await self._spawn(errors.fileno())
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._wait_ready(self._process)
        except TimeoutError as error:
            await self.close()
            raise ConfigError(
                f"{self.name} was not ready within {self._start_timeout_s:g} s: {await self._said()}"
            ) from error
        except BaseException:
            await self.close()
            raise

    async def _spawn(self, errors: int) -> Spawned:
        """Starts it; what it complains of goes to `errors`."""
        command = guarded([sys.executable, "-m", *self._argv], parent_pid=os.getpid())
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is ours: we stop the children in order
            env=self._environ,
            pass_fds=self._pass_fds,
        )
        self._lifeline = process.stdin
        return process

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal; one that has ended gets none."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await self._require_process().wait()

    async def close(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Asks it to end and waits; kills it when it takes too long. Safe to call twice."""
        process = self._process
        if process is None:
            return
        self.signal(signal.SIGCONT)  # a suspended process hears nothing else
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()
        finally:
            if self._lifeline is not None:
                self._lifeline.close()

    def _require_process(self) -> Spawned:
        if self._process is None:
            raise RuntimeError(f"{self.name} has not started")
        return self._process

    async def _wait_ready(self, process: Spawned) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == "ready":
                return
            self.served[word] = rest
        raise ConfigError(f"{self.name} ended before it was ready: {await self._said()}")

    async def _said(self) -> str:
        """The last line that it wrote to stderr."""
        lines = (await self.log_text())[-_TAIL_CHARACTERS:].strip().splitlines()
        return lines[-1] if lines else f"see {self._log_file}"
