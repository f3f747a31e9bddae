"""The system under test as processes, each started the way a user starts it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

_READY_WITHIN_S = 60.0
Through = Callable[[str], list[str]]
"""Of an actor's name, the module and arguments that run it in their process; nothing: it runs as users start it."""


def _as_users(_: str) -> list[str]:
    return []


class Process:
    """One child process that says `ready`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, lines: list[str]) -> None:
        self.name = name
        self._process = process
        self.lines = lines
        """What it printed up to and including `ready`."""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def rss_mib(self) -> float:
        """Resident memory in MiB."""
        return float(psutil.Process(self._process.pid).memory_info().rss / 2**20)

    @property
    def cpu_s(self) -> float:
        """Processor seconds used so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def address(self, name: str) -> str:
        """The address it printed on the line that begins with `name`."""
        for line in self.lines:
            head, _, rest = line.partition(" ")
            if head == name:
                return rest.strip()
        raise LookupError(f"{self.name} printed no {name!r} line: {self.lines}")

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Asks it to stop, and makes it stop after 10 s."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def launch(
    name: str, arguments: list[str], *, log_dir: Path, environment: dict[str, str] | None = None
) -> Process:
    """Starts `python -m …` and waits for its `ready` line.

    Raises:
        RuntimeError: It ended, or was not ready in time; the message holds its log.
    """
    log_file = log_dir / f"{name}.log"
    with log_file.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
    assert process.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + _READY_WITHIN_S
    while not lines or lines[-1] != "ready":
        try:
            raw = await asyncio.wait_for(process.stdout.readline(), deadline - time.monotonic())
        except TimeoutError:
            raw = b""
        if not raw:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise RuntimeError(f"{name} was not ready: {lines}\n{log_file.read_text()[-4000:]}")
        lines.append(raw.decode().strip())
    return Process(name, process, lines)


@asynccontextmanager
async def running(
    name: str, arguments: list[str], *, log_dir: Path, environment: dict[str, str] | None = None
) -> AsyncIterator[Process]:
    """A process that ends with the context."""
    process = await launch(name, arguments, log_dir=log_dir, environment=environment)
    try:
        yield process
    finally:
        await process.stop()


def instant_engine(model: str, *more: str) -> list[str]:
    """The command of an emulated engine without any delay."""
    return ["sollol_agents.lab.emulator", "--preset", "instant", "--model", f"{model}=1", "--port", "0", *more]


@asynccontextmanager
async def control(
    nats_url: str, *, log_dir: Path, creds_file: str = "", through: Through = _as_users
) -> AsyncIterator[dict[str, Process]]:
    """Scorer, recorder and dispatcher, each a process of its own."""
    async with AsyncExitStack() as stack:
        recorder = ["recorder", "--database", str(log_dir / "bench.sqlite")]
        processes = {}
        for arguments in (["scorer"], recorder, ["dispatcher"]):
            name = arguments[0]
            processes[name] = await stack.enter_async_context(
                actor(arguments, nats_url, log_dir, creds_file=creds_file, through=through)
            )
        yield processes


@asynccontextmanager
async def node(
    nats_url: str, engine_url: str, *, slots: int, log_dir: Path, creds_file: str = "", through: Through = _as_users
) -> AsyncIterator[Process]:
    """One node in front of an engine."""
    arguments = ["node", "--id", "bench", "--url", engine_url, "--engine", "ollama", "--slots", str(slots)]
    async with actor(arguments, nats_url, log_dir, creds_file=creds_file, through=through) as process:
        yield process


@asynccontextmanager
async def fleet(
    nats_url: str, engine_url: str, *, slots: int, log_dir: Path, through: Through = _as_users
) -> AsyncIterator[dict[str, Process]]:
    """Scorer, recorder, dispatcher and one node, each a process of its own."""
    async with (
        control(nats_url, log_dir=log_dir, through=through) as processes,
        node(nats_url, engine_url, slots=slots, log_dir=log_dir, through=through) as process,
    ):
        yield processes | {"node": process}


@asynccontextmanager
async def actor(
    arguments: list[str], nats_url: str, log_dir: Path, *, creds_file: str = "", through: Through = _as_users
) -> AsyncIterator[Process]:
    """One `sollol` command on a server."""
    command = [*through(arguments[0]), "sollol_agents.cli", *arguments, "--nats", nats_url, "--log-level", "error"]
    shown = {"SOLLOL_NATS_CREDS_FILE": creds_file} if creds_file else None
    async with running(arguments[0], command, log_dir=log_dir, environment=shown) as process:
        yield process
