"""`SOLLOL`: the fleet for programs without coroutines, as the documents start and stop it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from sollol_bus.compat.callbacks import Callback, delivery
from sollol_bus.compat.config import SOLLOLConfig
from sollol_bus.compat.fleet import Fleet
from sollol_bus.compat.integration import Messages, as_messages
from sollol_bus.compat.resources import health_of, stats_of
from sollol_bus.compat.results import Result
from sollol_bus.compat.shared import Shared
from sollol_bus.compat.streams import ChunkStream
from sollol_bus.errors import SollolError

log = logging.getLogger(__name__)

_NOT_RUNNING = "SOLLOL is not running"
_AT_RUN_TIME = frozenset({"routing_strategy", "default_routing_mode", "health_check_interval"})
"""Settings that need no new start."""


class SOLLOL(Shared):
    """A fleet with its gateway, in the background of a program. For `start` and `stop`, `with`, and `async with`.

        sollol = SOLLOL(SOLLOLConfig(hosts=["gpu-node-1:11434", "gpu-node-2:11434"], routing_strategy="performance"))
        sollol.start(blocking=False)
        print(sollol.generate("llama3.2", "Why is the sky blue?", temperature=0.7)["response"])
        sollol.stop()

    Requests wait for their answers in a plain function. Called on a running loop they give a coroutine, to be awaited.

    Args:
        config: Settings as an object or a mapping; None: the fleet of this machine, else its engines.
        settings: Further settings by name.
    """

    def __init__(self, config: SOLLOLConfig | Mapping[str, object] | None = None, **settings: object) -> None:
        super().__init__(config, settings, has_gateway=SOLLOLConfig.of(config, settings).gateway_enabled)
        self._stopped = threading.Event()

    # -- life ---------------------------------------------------------------------------------------------

    def start(self, blocking: bool = False) -> Self:
        """Returns when the fleet takes requests; with `blocking`, when `stop` was called or Ctrl-C was pressed.

        Raises:
            SollolError: It is not there, or something cannot start; nothing is left of it.
        """
        if self._house.is_open:
            log.info("SOLLOL is running already", extra={"action": "compat_started"})
            return self
        self._stopped.clear()
        self._house.open()
        if idle := self.config.without_effect:
            log.info("without effect here: %s", ", ".join(idle), extra={"action": "idle_settings"})
        if blocking:
            try:
                self._stopped.wait()
            except KeyboardInterrupt:
                log.info("SOLLOL stops", extra={"action": "compat_stopping"})
            finally:
                self.stop()
        return self

    def stop(self) -> None:
        """Ends all that `start` began; a second time does nothing."""
        self._house.close()
        self._stopped.set()

    close = stop

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def update_config(self, **settings: object) -> None:
        """Changes settings; the strategy at once, what needs a new start when it is started next, which is logged.

        Raises:
            ConfigError: A value cannot be used.
            SollolError: The fleet does not take it.
        """
        changed = self.config.changed(**settings)
        before, after = self.config.to_dict(), changed.to_dict()
        differ = {name for name in after if after[name] != before[name]}
        self.config = changed
        if not self._house.is_open:
            return
        self._house.fleet.config = changed
        if "routing_strategy" in differ:
            self._house.run(lambda fleet: fleet.client.set_strategy(changed.strategy))
        if later := sorted(differ - _AT_RUN_TIME - set(changed.without_effect)):
            log.warning("stop() and start() again for: %s", ", ".join(later), extra={"action": "restart_needed"})

    # -- requests -----------------------------------------------------------------------------------------

    def generate(self, model: str, prompt: str, **said: Any) -> Any:  # noqa: ANN401 whatever the documents allow
        """The whole answer to a prompt; the keywords are those of `SOLLOLIntegration.generate`.

        With `stream=True` it is what `generate_stream` gives.
        """
        if said.pop("stream", False):
            return self.generate_stream(model, prompt, **said)
        return self._house.either(lambda fleet: fleet.generate(model, prompt, said))

    def chat(self, model: str, messages: Messages | str, **said: Any) -> Any:  # noqa: ANN401 as above
        """The whole next message of a conversation, in `message`; a text is a conversation of one message.

        With `stream=True` it is what `chat_stream` gives.
        """
        if said.pop("stream", False):
            return self.chat_stream(model, messages, **said)
        return self._house.either(lambda fleet: fleet.chat(model, as_messages(messages), said))

    def embed(self, model: str, input: str | Sequence[str], **said: Any) -> Result:  # noqa: A002, ANN401 as above
        """One vector per text in `embeddings`; the first of them in `embedding`."""
        return self._house.either(lambda fleet: fleet.embed(model, input, said))

    def generate_stream(self, model: str, prompt: str, **said: Any) -> ChunkStream:  # noqa: ANN401 as above
        """An answer to a prompt as it streams in, for `for` and `async for`."""
        return ChunkStream(self._house, lambda fleet: fleet.stream(model, prompt, said))

    def chat_stream(self, model: str, messages: Messages | str, **said: Any) -> ChunkStream:  # noqa: ANN401 as above
        """The next message of a conversation as it streams in, for `for` and `async for`."""
        return ChunkStream(self._house, lambda fleet: fleet.stream(model, as_messages(messages), said))

    def generate_async(
        self,
        model: str,
        prompt: str,
        *,
        callback: Callback | None = None,
        async_callback: Callback | None = None,
        **said: Any,  # noqa: ANN401 as above
    ) -> str:
        """The id of a durable job that answers a prompt; see `SOLLOLIntegration.generate_async`."""
        tell = [delivery(one) for one in (callback, async_callback) if one is not None]

        async def submit(fleet: Fleet) -> str:
            return await fleet.submit(model, prompt, said, fleet.told(tell))

        return self._house.either(submit)

    def wait_for_task(self, task_id: str, timeout: float | None = None) -> Result:
        """The answer of a durable job, once it is done; see `SOLLOLIntegration.wait_for_task`."""
        return self._house.either(lambda fleet: fleet.wait(task_id, timeout))

    def distribute_task(
        self,
        task: Mapping[str, object],
        models: Sequence[str] | str | None = None,
        **said: Any,  # noqa: ANN401 as above
    ) -> list[Result]:
        """An answer to each prompt, in order; see `SOLLOLIntegration.distribute_task`."""
        return self._house.either(lambda fleet: fleet.distribute(task, models, said))

    # -- looking ------------------------------------------------------------------------------------------

    def get_status(self) -> Result:
        """`running`, the settings under `config`, and where everything listens under `endpoints`."""
        gateway = self.gateway_url
        own = self._house.fleet.own if self._house.is_open else None
        return Result(
            running=self._house.is_open,
            initialized=self._house.is_open,
            hosts=self.hosts,
            config=Result(self.config.to_dict()),
            port=int(gateway.rpartition(":")[2] or self.config.gateway_port),
            batch_processing_enabled=self.config.enable_batch_processing,
            ray_workers=self.config.ray_workers,
            dask_workers=self.config.dask_workers,
            timestamp=datetime.now(UTC).isoformat(),  # noqa: TID251 it dates, and decides nothing
            endpoints=Result(
                gateway=gateway,
                api_docs=f"{gateway}/openapi.json" if gateway else "",
                health=f"{gateway}/healthz" if gateway else "",
                stats=f"{gateway}/api/stats" if gateway else "",
                metrics=(own.metrics_url if own is not None else "") or (f"{gateway}/metrics" if gateway else ""),
                dashboard=self.dashboard_url,
            ),
        )

    def get_health(self) -> Result:
        """`status` (healthy, degraded, unhealthy), `available_hosts` and `total_hosts`; `error` while it is stopped."""
        if not self._house.is_open:
            return Result(error=_NOT_RUNNING)
        return Result(**health_of(self._nodes()), ray_workers=self.config.ray_workers)

    def get_stats(self) -> Result:
        """`hosts` (`host, available, latency_ms, success_rate`), `total_requests`, `success_rate`, `avg_latency_ms`.

        On a running loop it is a coroutine, to be awaited. While it is stopped there is `error` alone.
        """
        if not self._house.is_open:
            return Result(error=_NOT_RUNNING)
        return self._house.either(_stats)


async def _stats(fleet: Fleet) -> Result:
    nodes = await fleet.look()
    try:
        return stats_of(nodes, await fleet.client.stats())
    except SollolError as error:
        return Result(error=str(error))
