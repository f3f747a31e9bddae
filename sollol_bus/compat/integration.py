"""`SOLLOLIntegration`: the fleet for coroutines, as the documents embed it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Self

from sollol_bus.compat.callbacks import Callback, delivery
from sollol_bus.compat.config import SOLLOLConfig
from sollol_bus.compat.fleet import Fleet
from sollol_bus.compat.priorities import TaskPriority
from sollol_bus.compat.results import Result
from sollol_bus.compat.shared import Shared
from sollol_bus.compat.streams import ChunkStream
from sollol_schemas.routing import RoutingMode

log = logging.getLogger(__name__)

Messages = Sequence[Mapping[str, object]]
Mode = RoutingMode | str
Priority = TaskPriority | int | str


class SOLLOLIntegration(Shared):
    """A fleet for coroutines; `initialize` opens it, `close` ends all that it began. Also for `async with`.

        sollol = SOLLOLIntegration(config={"discovery_enabled": True, "enable_dashboard": True})
        await sollol.initialize()
        response = await sollol.generate(model="qwen3:14b", prompt="Sort a list", temperature=0.7)
        print(response["response"], response["node_url"], response["routing_decision"]["reason"])

    Args:
        config: Settings as an object or a mapping; None: the fleet of this machine, else its engines.
        settings: Further settings by name.
    """

    def __init__(self, config: SOLLOLConfig | Mapping[str, object] | None = None, **settings: object) -> None:
        super().__init__(config, settings, has_gateway=False)

    # -- life ---------------------------------------------------------------------------------------------

    async def initialize(self) -> Self:
        """Returns when the fleet takes requests.

        Raises:
            SollolError: It is not there, or something cannot start; nothing is left of it.
        """
        await asyncio.to_thread(self._house.open)
        return self

    async def close(self) -> None:
        """Ends all that `initialize` began; a second time does nothing."""
        await asyncio.to_thread(self._house.close)

    async def __aenter__(self) -> Self:
        return await self.initialize()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- requests -----------------------------------------------------------------------------------------

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        routing_mode: Mode | None = None,
        priority: Priority | None = None,
        async_callback: Callback | None = None,
        callback: Callback | None = None,
        **said: object,
    ) -> Result:
        """The whole answer to a prompt, with `response`, `node_id`, `node_url` and `routing_decision`.

        Args:
            model: The model, or the name of a group.
            prompt: The prompt.
            routing_mode: fast, reliable, async or auto, in any case.
            priority: A `TaskPriority`, 0 to 10, or a name.
            async_callback: Called with the answer as well; may be a coroutine function.
            callback: The same.
            said: Options of the engine (`temperature=0.7`), further fields of Ollama's body, and routing fields
                (`node_id`, `min_vram_gb`, `prefer_local`, `prefer_cpu`, `min_success_rate`, `timeout`, …).

        Raises:
            SollolError: What ended the request; see `sollol_bus.errors`.
        """
        asked = _said(said, routing_mode, priority)
        answer = await self._house.ask(lambda fleet: fleet.generate(model, prompt, asked))
        await _tell(answer, async_callback, callback)
        return answer

    async def chat(
        self,
        model: str,
        messages: Messages | str,
        *,
        routing_mode: Mode | None = None,
        priority: Priority | None = None,
        **said: object,
    ) -> Result:
        """The whole next message of a conversation, in `message`; a text is a conversation of one message."""
        asked = _said(said, routing_mode, priority)
        talk = as_messages(messages)
        return await self._house.ask(lambda fleet: fleet.chat(model, talk, asked))

    async def embed(self, model: str, input: str | Sequence[str], **said: object) -> Result:  # noqa: A002 Ollama's word
        """One vector per text in `embeddings`; the first of them in `embedding`."""
        return await self._house.ask(lambda fleet: fleet.embed(model, input, said))

    def generate_stream(self, model: str, prompt: str, **said: object) -> ChunkStream:
        """An answer to a prompt as it streams in, for `async for`."""
        return ChunkStream(self._house, lambda fleet: fleet.stream(model, prompt, said))

    def chat_stream(self, model: str, messages: Messages | str, **said: object) -> ChunkStream:
        """The next message of a conversation as it streams in, for `async for`."""
        return ChunkStream(self._house, lambda fleet: fleet.stream(model, as_messages(messages), said))

    async def generate_async(
        self,
        model: str,
        prompt: str,
        *,
        routing_mode: Mode | None = None,
        priority: Priority | None = None,
        callback: Callback | None = None,
        async_callback: Callback | None = None,
        **said: object,
    ) -> str:
        """The id of a durable job that answers a prompt, in mode async if no other is named.

        Args:
            model: The model.
            prompt: The prompt.
            routing_mode: As in `generate`.
            priority: As in `generate`.
            callback: Called once with how it ended, as `wait_for_task` tells it, or with `error` in it.
            async_callback: The same; either may be a coroutine function.
            said: As in `generate`, and `job_id`, an id of your choice.

        Raises:
            SollolError: The job is not stored.
        """
        asked = _said(said, routing_mode, priority)
        tell = [delivery(one) for one in (callback, async_callback) if one is not None]

        async def submit(fleet: Fleet) -> str:
            return await fleet.submit(model, prompt, asked, fleet.told(tell))

        return await self._house.ask(submit)

    async def wait_for_task(self, task_id: str, timeout: float | None = None) -> Result:
        """The answer of a durable job, once it is done.

        Raises:
            SollolError: What ended it without an answer.
            RequestTimedOut: It did not end within `timeout` seconds; it goes on.
        """
        return await self._house.ask(lambda fleet: fleet.wait(task_id, timeout))

    async def distribute_task(
        self, task: Mapping[str, object], models: Sequence[str] | str | None = None, **said: object
    ) -> list[Result]:
        """An answer to each prompt, in order, each made on its best node: `model`, `node_url`, `response`, `success`.

        One that fails has `success` False and `error`; the others are not affected.

        Args:
            task: `{"prompts": [...]}`, and whatever else every request shall say (`temperature`, `priority`).
            models: One for each prompt, or one for all; one prompt may go to several.
            said: As in `generate`, for every request.

        Raises:
            BadRequest: There are no prompts, or models and prompts do not go together.
        """
        return await self._house.ask(lambda fleet: fleet.distribute(task, models, said))

    # -- looking ------------------------------------------------------------------------------------------

    @property
    def dashboard_enabled(self) -> bool:
        """Whether a dashboard was asked for."""
        return self.config.enable_dashboard

    @property
    def dashboard(self) -> str:
        """Where the dashboard is; empty where this program serves none."""
        return self.dashboard_url

    @property
    def dashboard_port(self) -> int:
        """Port of the dashboard."""
        return int(self.dashboard_url.rpartition(":")[2] or self.config.dashboard_port)

    async def periodic_health_check(self) -> None:
        """Looks at the nodes every `health_check_interval` seconds and logs which are not well, until cancelled."""
        while True:
            rows = await self.get_node_resources()
            for row in rows:
                if not row["healthy"]:
                    log.warning("node %s is %s", row["id"], row["status"], extra={"action": "node_unhealthy"})
            await asyncio.sleep(self.config.health_check_interval)


def as_messages(messages: Messages | str) -> Messages:
    """A conversation; a text is one of one message."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _said(said: Mapping[str, object], mode: Mode | None, priority: Priority | None) -> dict[str, object]:
    more = {"routing_mode": mode, "priority": priority}
    return {**said, **{name: value for name, value in more.items() if value is not None}}


async def _tell(answer: Result, *callbacks: Callback | None) -> None:
    for callback in callbacks:
        if callback is not None:
            delivery(callback)(answer)
