"""An emulated Ollama node: HTTP in front, an emulated machine behind.

It is a test instrument and never a real engine: it computes nothing, its answers
are countdowns, its times come from a model of a machine. `/emulator/state` says so
and shows the fake GPU; `POST /emulator/faults` sets faults from another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from sollol_agents.lab.emulator import http
from sollol_agents.lab.emulator.faults import INFERENCE_PATHS, NODE_FAULTS, Fault, FaultBox, FaultKind
from sollol_agents.lab.emulator.models import ModelStore, default_models, parse_model
from sollol_agents.lab.emulator.origins import Visitors
from sollol_agents.lab.emulator.presets import PRESETS
from sollol_agents.lab.emulator.recorded import RECORDED
from sollol_agents.lab.emulator.refusals import RedirectError, RefusalError
from sollol_agents.lab.emulator.refusing import redirect, refuse
from sollol_agents.lab.emulator.residency import Residency, RunnerDiedError
from sollol_agents.lab.emulator.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from types import TracebackType

    from sollol_agents.lab.emulator.config import EmulatorConfig
    from sollol_agents.lab.emulator.http import Request, Responder
    from sollol_agents.lab.emulator.models import ModelSpec
    from sollol_agents.lab.emulator.presets import Preset

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024
_BASE_MIB: Final = 400  # what a GPU's driver keeps for itself


class EmulatedNode:
    """A running emulated node; use it as `async with EmulatedNode(config) as node`.

    Attributes:
        url: base address, such as `http://127.0.0.1:41234`.
        requests: how many requests came in on each path.
        in_flight: requests that are being answered now.
    """

    def __init__(self, config: EmulatorConfig) -> None:
        self.url = ""
        self.requests: Counter[str] = Counter()
        self.in_flight = 0
        self._config = config
        self._preset = resolve_preset(config)
        self._rng = Random(config.seed)
        self._faults = FaultBox(self._rng)
        self._store = ModelStore(_models(config, self._preset))
        self._residency = Residency(config, self._preset, self._rng, self._spawn)
        self._routes = Routes(config, self._preset, self._store, self._residency, self._faults)
        self._connections: set[http.HttpProtocol] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._visitors = Visitors(config.host, config.origins)
        self._server: asyncio.Server | None = None
        self._port = config.port
        self._stop = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<EmulatedNode {self._config.name} {self.url or 'not started'} in_flight={self.in_flight}>"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        # The group must be entered and left by one task, and a test fixture may enter and leave
        # this context in two; the owner of this task is __aexit__.
        self._life = loop.create_task(self._live(started), name=f"emulator:{self._config.name}")
        try:
            await started
        except asyncio.CancelledError:
            self._life.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._life is not None:
            await self._life

    def inject(self, fault: Fault) -> None:
        """Sets a fault; it strikes at once or when its conditions are met."""
        if fault.kind not in NODE_FAULTS:
            self._faults.arm(fault, self._residency.now())
        elif fault.at_s:
            asyncio.get_running_loop().call_later(fault.at_s, self._strike_node, fault)
        else:
            self._strike_node(fault)

    def clear_faults(self) -> None:
        """Removes every fault that has not struck yet."""
        self._faults.clear()

    def state(self) -> dict[str, Any]:
        """Returns the emulated machine's state as `/emulator/state` shows it."""
        runners = self._residency.runners()
        return {
            "emulated": True,
            "note": "an emulated Ollama node: nothing is computed here, all times come from a model",
            "name": self._config.name,
            "preset": self._config.preset,
            "time_scale": self._config.time_scale,
            "gpu": self._gpu(),
            "ram_total_mib": self._preset.ram_mib,
            "requests": dict(self.requests),
            "in_flight": self.in_flight,
            "waiting_for_load": self._residency.waiting_for_load,
            "runners_started": self._residency.started,
            "last_starts": list(self._residency.starts),
            "models": [
                {
                    "name": runner.loaded.model.name,
                    "slots": runner.loaded.slots,
                    "running": runner.batch.running,
                    "waiting": runner.batch.waiting,
                }
                for runner in runners
            ],
        }

    def _gpu(self) -> dict[str, Any] | None:
        """Returns the fake GPU, None for a machine without one."""
        if not self._preset.vram_mib:
            return None
        runners = self._residency.runners()
        used = _BASE_MIB + sum(runner.loaded.vram_bytes for runner in runners) // _MIB
        return {
            "name": self._preset.gpu_name,
            "memory_total_mib": self._preset.vram_mib,
            "memory_used_mib": min(used, self._preset.vram_mib),
            "utilization_ratio": 1.0 if any(runner.batch.running for runner in runners) else 0.0,
        }

    # life

    async def _live(self, started: asyncio.Future[None]) -> None:
        """Serves until told to stop; every task of the node belongs to this group."""
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._listen()
                self._spawn(self._residency.serve_queue(), name="queue")
                self._prepare()
                started.set_result(None)
                await self._stop.wait()
                self._close()
                for task in self._tasks:
                    task.cancel()
        except BaseExceptionGroup as group:
            if started.done():
                raise
            # what keeps a node from starting is the caller's to read: a taken port, an unknown model
            started.set_exception(group.exceptions[0])
        finally:
            self._close()

    def _prepare(self) -> None:
        """Loads what shall be in memory from the start, and sets the first faults."""
        for name in self._config.preload:
            model = self._store.find(name)
            if model is None:
                raise ValueError(f"preload: there is no model {name!r} among {[m.name for m in self._store.all()]}")
            self._residency.preload(model)
        if self._preset.is_instant and not self._config.preload:
            for model in self._store.all():
                self._residency.preload(model)
        for fault in self._config.faults:
            self.inject(fault)

    async def _listen(self) -> None:
        """Opens the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: http.HttpProtocol(self._handle, self._connections),
            self._config.host,
            self._port,
            backlog=1024,
        )
        self._port = self._server.sockets[0].getsockname()[1]
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        self.url = f"http://{host}:{self._port}"

    def _close(self) -> None:
        """Closes the port and every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.abort()

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Runs a coroutine as long as the node lives."""
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # requests

    def _handle(self, request: Request, responder: Responder) -> None:
        """Answers a request, at once or in a task that ends when the client leaves."""
        path = request.path
        self.requests[path] += 1
        headers = self._visitors.headers(request) if request.origin else b""
        if headers is None or not self._visitors.knows_host(request.host):
            responder.extra = self._routes.allow_line(request)
            responder.send(403)
            return
        responder.extra = headers
        try:
            work = self._work(request, responder)
        except RefusalError as error:
            refuse(responder, path, error)
            return
        except RedirectError as error:
            redirect(request, responder, error)
            return
        if work is not None:
            task = self._spawn(self._guard(work, request, responder), name=path)
            # not at once: a task cancelled before its first step would never await its work
            loop = asyncio.get_running_loop()
            responder.on_gone = lambda: loop.call_soon(task.cancel)

    def _work(self, request: Request, responder: Responder) -> Coroutine[Any, Any, None] | None:
        """Answers at once or returns the coroutine that will."""
        if request.path.startswith("/emulator/"):
            self._control(request, responder)
            return None
        if self._faults and request.path not in INFERENCE_PATHS:
            fault = self._faults.strike(request.path, "", self._residency.now())
            if fault is not None:
                return self._struck(fault, request, responder)
        return self._routes.answer(request, responder)

    async def _guard(self, work: Coroutine[Any, Any, None], request: Request, responder: Responder) -> None:
        """Runs the work of a request and turns what it raises into an answer."""
        self.in_flight += 1
        try:
            await work
        except RefusalError as error:
            refuse(responder, request.path, error, is_stream=responder.is_stream)
        except RunnerDiedError:
            responder.reset()
        except Exception:
            log.exception("a request failed", extra={"action": "emulator_request"})
            responder.reset()
        finally:
            self.in_flight -= 1

    async def _struck(self, fault: Fault, request: Request, responder: Responder) -> None:
        """Performs a fault on a path that does not generate."""
        if fault.kind in {FaultKind.HANG, FaultKind.STALL}:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fault.duration_s or None):
                    await asyncio.Event().wait()
            work = self._routes.answer(request, responder)
            if work is not None:
                await work
        elif fault.kind is FaultKind.WRONG_CONTENT:
            responder.send(200, b"<html><body>It works!</body></html>", http.TEXT)
        elif fault.kind in {FaultKind.LOAD_ERROR, FaultKind.OUT_OF_MEMORY, FaultKind.ERROR_LINE}:
            refuse(responder, request.path, RefusalError("internal error", 500))
        else:
            responder.reset()

    def _control(self, request: Request, responder: Responder) -> None:
        """Answers the emulator's own paths, which no Ollama has."""
        match request.method, request.path:
            case "GET", "/emulator/state":
                responder.send(200, msgspec.json.encode(self.state()))
            case "POST", "/emulator/faults":
                self._set_fault(request, responder)
            case "DELETE", "/emulator/faults":
                self.clear_faults()
                responder.send(200, b"{}")
            case _:
                responder.send(404, b"404 page not found", http.PLAIN)

    def _set_fault(self, request: Request, responder: Responder) -> None:
        try:
            fault = msgspec.json.decode(request.body, type=Fault)
        except msgspec.DecodeError as error:
            raise RefusalError(f"json: {error}") from error
        self.inject(fault)
        responder.send(200, b"{}")

    def _strike_node(self, fault: Fault) -> None:
        """Performs a fault of the whole node."""
        if fault.kind is FaultKind.PS_LAG:
            self._routes.freeze_ps(self._residency.now() + fault.duration_s)
            return
        if fault.kind is FaultKind.KILL_RUNNERS:
            self._residency.kill_all()
            return
        self._residency.drop_all()
        for task in [task for task in self._tasks if task.get_name().startswith("/")]:
            task.cancel()
        if fault.kind is FaultKind.RESTART:
            for connection in list(self._connections):
                connection.abort()
            return
        self._close()
        if fault.duration_s:
            loop = asyncio.get_running_loop()
            loop.call_later(fault.duration_s, lambda: self._spawn(self._listen(), name="listen"))


def _models(config: EmulatorConfig, preset: Preset) -> Iterable[ModelSpec]:
    """Returns the models on the disk at the start."""
    if config.model:
        return [parse_model(text) for text in config.model]
    return RECORDED if preset.is_recorded else default_models(preset)


def resolve_preset(config: EmulatorConfig) -> Preset:
    """Returns the machine of a configuration, with the rates it overrides.

    Raises:
        ValueError: there is no such preset.
    """
    preset = PRESETS.get(config.preset)
    if preset is None:
        raise ValueError(f"preset: {config.preset!r} is none of {', '.join(PRESETS)}")
    return msgspec.structs.replace(
        preset,
        decode_tps=config.decode_tps or preset.decode_tps,
        prefill_tps_8b=config.prefill_tps or preset.prefill_tps_8b,
    )


async def serve_emulator(config: EmulatorConfig, *, on_ready: Callable[[str], None]) -> None:
    """Serves an emulated node until cancelled; calls `on_ready` with its address when it answers."""
    async with EmulatedNode(config) as node:
        on_ready(node.url)
        await asyncio.Event().wait()
