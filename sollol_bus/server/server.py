"""A nats-server of our own, as a child process: what `sollol up` and the tests run on.

The child ends with us, whatever kills us, and is started again on the same port when it dies by itself. Clients
see such a restart as a reconnect; JetStream's files survive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from sollol_bus.errors import ConfigError
from sollol_bus.parts import Part
from sollol_bus.server.config import (
    CONFIG_NAME,
    LOG_NAME,
    EmbeddedServerConfig,
    default_store_dir,
    find_binary,
    render,
)
from sollol_bus.server.guard import guarded
from sollol_bus.server.room import FreeBytes, Room, free_bytes, store_bytes
from sollol_bus.server.store import StoreClaim, adopt_streams, taken, try_claim

__all__ = ["EmbeddedServer", "EmbeddedServerConfig"]

log = logging.getLogger(__name__)

_POLL_S = 0.01
_STDERR_NAME = "nats-server.err"
_START_WITHIN_S = 15.0
_STOP_WITHIN_S = 10.0  # for its flush
_BACK_OFF_S = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_STABLE_S = 30.0  # a server that lived this long is not in a crash loop
_TAIL_BYTES = 8192
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 where it listens, and who is meant by that here


class _Ports(msgspec.Struct):
    """The file in which the server tells where it listens."""

    nats: list[str] = []
    monitoring: list[str] = []


class EmbeddedServer(Part):
    """A nats-server with JetStream on this machine, for as long as the `async with` block lasts.

    Entering waits until the server accepts clients. Leaving ends it with SIGTERM, which flushes JetStream.
    Start it from the main thread's event loop.

    Args:
        config: Ports, directories and limits.
        platform: How the child is bound to our life; see `guard`.
        claim_within_s: How long a predecessor may take to let go of the store directory.
        max_restarts: Deaths in a row after which the server is given up.
        free: Tells how many bytes are free on the disk of a folder.
    """

    def __init__(
        self,
        config: EmbeddedServerConfig | None = None,
        *,
        platform: str = sys.platform,
        claim_within_s: float = 3.0,
        max_restarts: int = 8,
        free: FreeBytes = free_bytes,
    ) -> None:
        self.config = config or EmbeddedServerConfig()
        self.store_dir = Path(self.config.store_dir or default_store_dir()).absolute()
        self._platform = platform
        self._claim_within_s = claim_within_s
        self._max_restarts = max_restarts
        self._port = self.config.port
        self._monitor_port = self.config.monitor_port
        self._extra_config = self.config.extra_config
        self._binary: Path | None = None
        self._claim: StoreClaim | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._given_up = asyncio.Event()
        self._log_start = 0
        self._free = free
        self._watcher: asyncio.Task[None] | None = None
        self.store_bytes = 0
        """How much JetStream may keep on this disk."""
        folder = self.store_dir
        self.room = Room(folder / CONFIG_NAME, folder / LOG_NAME, self._send_reload, free)
        """Whether there is room for that."""
        self.restarts = 0
        """How often the server was started again after an unexpected death."""

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.url} pid={self.pid} restarts={self.restarts}>"

    @property
    def port(self) -> int:
        """The port for clients; stays the same over restarts."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients of this machine connect."""
        host = _EVERYWHERE.get(self.config.host, self.config.host)
        return f"nats://[{host}]:{self._port}" if ":" in host else f"nats://{host}:{self._port}"

    @property
    def monitor_url(self) -> str | None:
        """Base address of the server's HTTP monitoring, or None when it is off."""
        return None if self._monitor_port is None else f"http://{self.config.host}:{self._monitor_port}"

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Returns once clients can connect; starting a running server does nothing.

        Raises:
            ConfigError: The binary is missing, the port or the store directory is taken, or the server refuses
                its configuration.
        """
        if self.pid is not None:
            return
        await self._end(signal.SIGKILL)  # a supervisor may be waiting to start it again, or have given up
        self._given_up.clear()
        try:
            self._binary = await asyncio.to_thread(find_binary)
            await self._claim_store()
            await asyncio.to_thread(self._check_port)
            await self._launch()
        except BaseException:
            await self._end_process(signal.SIGKILL)
            self._release()
            raise
        loop = asyncio.get_running_loop()
        # The supervisor belongs to this object: `close` and `kill` cancel and await it.
        self._supervisor = loop.create_task(self._supervise(), name="nats-server supervisor")
        self._watcher = loop.create_task(self.room.watch(), name="nats-server room")
        log.info("nats-server listens on %s", self.url, extra={"action": "server_start", "pid": self.pid})

    async def close(self) -> None:
        """Ends the server and waits for it; closing twice, or before start, does nothing."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Ends the server as a crash of the machine would; it stays down until `start`. For tests."""
        await self._end(signal.SIGKILL)

    async def wait_given_up(self) -> None:
        """Returns when the server died so often in a row that it is no longer started again."""
        await self._given_up.wait()

    async def reload(self, extra_config: str) -> None:
        """Makes the running server read a new `extra_config`: users that are gone are cut, others stay."""
        self._extra_config = extra_config
        await asyncio.to_thread(self._write_config)
        self._send_reload()

    def _send_reload(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def _claim_store(self) -> None:
        """Waits a little for a predecessor that is still flushing after its owner was killed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._claim_within_s
        while True:
            self._claim = await asyncio.to_thread(try_claim, self.store_dir)
            if self._claim is not None:
                return
            if loop.time() >= deadline:
                raise await asyncio.to_thread(taken, self.store_dir)
            await asyncio.sleep(_POLL_S * 5)

    def _check_port(self) -> None:
        for port in (self._port, self._monitor_port):
            if not port:
                continue
            family = socket.AF_INET6 if ":" in self.config.host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.config.host, port))
                except OSError as error:
                    raise self._port_error(port, error.strerror or str(error)) from error

    def _port_error(self, port: int, why: str) -> ConfigError:
        return ConfigError(
            f"port={port} on {self.config.host} cannot be used for nats-server: {why}; choose another port, "
            "0 for any free one, or use the server that runs there"
        )

    def _write_config(self) -> None:
        config = msgspec.structs.replace(self.config, extra_config=self._extra_config)
        text = render(
            config,
            self.store_dir,
            port=self._port,
            monitor_port=self._monitor_port,
            store_bytes=self.store_bytes,
        )
        path = self.store_dir / CONFIG_NAME
        # Credentials may be in there: never readable by others, not even while it is written.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)

    async def _launch(self) -> None:
        """Starts the process and waits until it accepts clients."""
        assert self._claim is not None
        assert self._binary is not None
        stderr_fd = await asyncio.to_thread(self._prepare_files)
        argv = [str(self._binary), "-c", str(self.store_dir / CONFIG_NAME)]
        command = guarded(argv, parent_pid=os.getpid(), is_in_batches=True, platform=self._platform)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=stderr_fd,
                stderr=stderr_fd,
                cwd=self.store_dir,
                start_new_session=True,  # Ctrl-C in a terminal is ours: we drain first
                pass_fds=(self._claim.fd,),
            )
        finally:
            os.close(stderr_fd)
        try:
            async with asyncio.timeout(_START_WITHIN_S):
                await self._wait_ready(self._process)
        except TimeoutError as error:
            raise ConfigError(
                f"nats-server was not ready within {_START_WITHIN_S:g} s: {await asyncio.to_thread(self._complaint)}"
            ) from error

    def _prepare_files(self) -> int:
        assert self._claim is not None
        self._claim.remove_leftovers()
        before = adopt_streams(self.store_dir, self._extra_config)
        if before:
            extra = {"action": "store_adopted"}
            log.info("what account %s had stored is this fleet's from now on: jobs, keys, results", before, extra=extra)
        self.room.is_on = True
        self.store_bytes = store_bytes(self.store_dir, self._free(self.store_dir))
        self._write_config()
        log_file = self.store_dir / LOG_NAME
        self._log_start = log_file.stat().st_size if log_file.exists() else 0
        path = self.store_dir / _STDERR_NAME
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        while True:
            if process.returncode is not None:
                raise await asyncio.to_thread(self._start_error, process.returncode)
            ports = await asyncio.to_thread(self._read_ports, process.pid)
            if ports is not None:
                self._port = _port_of(ports.nats[0])
                if ports.monitoring:
                    self._monitor_port = _port_of(ports.monitoring[0])
                if await self._greets():
                    return
            await asyncio.sleep(_POLL_S)

    def _read_ports(self, pid: int) -> _Ports | None:
        for path in self.store_dir.glob(f"*_{pid}.ports"):
            try:
                ports = msgspec.json.decode(path.read_bytes(), type=_Ports)
            except (OSError, msgspec.DecodeError):
                continue  # still being written
            if ports.nats:
                return ports
        return None

    async def _greets(self) -> bool:
        """Whether the server sends its greeting to a new connection."""
        try:
            reader, writer = await asyncio.open_connection(self.config.host, self._port)
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO ")
        except OSError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _start_error(self, code: int) -> ConfigError:
        complaint = self._complaint()
        if "address already in use" in complaint:
            return self._port_error(self._port, complaint)
        return ConfigError(f"nats-server ended with code {code} while starting: {complaint}")

    def _complaint(self) -> str:
        """What the server wrote about its trouble since the last start."""
        told = _tail(self.store_dir / _STDERR_NAME, 0).strip()
        lines = _tail(self.store_dir / LOG_NAME, self._log_start).splitlines()
        bad = [line.partition("] ")[2] for line in lines if "[FTL]" in line or "[ERR]" in line]
        return " ".join([told, *bad[-3:]]).strip() or f"see {self.store_dir / LOG_NAME}"

    async def _supervise(self) -> None:
        """Starts the server again when it dies; gives up after too many deaths in a row."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while True:
            assert self._process is not None
            started_at = loop.time()
            code = await self._process.wait()
            deaths = 1 if loop.time() - started_at > _STABLE_S else deaths + 1
            log.error("nats-server ended with code %s", code, extra={"action": "server_died", "deaths": deaths})
            while deaths <= self._max_restarts and not await self._restart(deaths):
                deaths += 1
            if deaths > self._max_restarts:
                break
        log.critical(
            "nats-server died %d times in a row and is given up; see %s",
            deaths,
            self.store_dir / LOG_NAME,
            extra={"action": "server_given_up"},
        )
        self._given_up.set()

    async def _restart(self, deaths: int) -> bool:
        await asyncio.sleep(_BACK_OFF_S[min(deaths, len(_BACK_OFF_S)) - 1])
        try:
            await self._launch()
        except (ConfigError, OSError) as error:
            log.warning("nats-server did not start again: %s", error, extra={"action": "server_restart_failed"})
            await self._end_process(signal.SIGKILL)
            return False
        self.restarts += 1
        log.warning("nats-server was started again", extra={"action": "server_restart", "pid": self.pid})
        return True

    async def _end(self, signal_number: signal.Signals) -> None:
        tasks = [task for task in (self._watcher, self._supervisor) if task is not None]
        self._watcher = self._supervisor = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end_process(signal_number)
        self._release()

    async def _end_process(self, signal_number: signal.Signals) -> None:
        """Signals the server and waits; kills it when it does not end in time or when we are cancelled."""
        process = self._process
        if process is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal_number)
            async with asyncio.timeout(_STOP_WITHIN_S):
                await process.wait()
        except (TimeoutError, asyncio.CancelledError) as error:
            log.warning("nats-server did not end in time and is killed", extra={"action": "server_kill"})
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._process = None
            if process.stdin is not None:
                process.stdin.close()

    def _release(self) -> None:
        if self._claim is not None:
            self._claim.release()
            self._claim = None


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _tail(path: Path, start: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
