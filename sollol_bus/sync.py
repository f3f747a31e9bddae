"""The client for programs without `async`: the same words, each call returning when it is done.

from sollol_bus import sync

with sync.Client() as client:
    print(client.generate("llama3.2", "Why is the sky blue?", temperature=0).text)
    for text in client.stream("llama3.2", "Count to ten"):
        print(text, end="")
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from sollol_bus.loop_thread import LoopThread
from sollol_bus.sdk.checked import AnswerCheck
from sollol_bus.sdk.client import Client as AsyncClient
from sollol_bus.sdk.results import Answer, AnswerStream, Chunk, Embeddings
from sollol_bus.sdk.warming import Warmed
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.feedback import FeedbackReply
from sollol_schemas.groups import GroupsReply, GroupView
from sollol_schemas.queries import ModelsReply, NodesReply, StatsReply, WhyReply
from sollol_schemas.routing import Routing

T = TypeVar("T")


class Client:
    """A connection for programs that use the fleet, with a loop of its own in a thread of its own.

    It may be used from several threads. Ctrl-C while a call waits cancels the request. For use as `with`.

    Args:
        bus: Address of the NATS server, or all settings of the connection; None: what this machine says.
        routing: Routing fields for every request that brings none of its own.
    """

    def __init__(self, bus: str | BusConfig | None = None, *, routing: Routing | None = None) -> None:
        self._client = AsyncClient(bus, routing=routing)
        self._thread = LoopThread("sollol-client", "the client is not connected: use `with sync.Client(...)`")

    def __enter__(self) -> Self:
        """Connects.

        Raises:
            NotConnected: No server answers there.
            ConfigError: It refuses us, or a setting cannot be used.
        """
        self._thread.start()
        try:
            self._run(self._client.start())
        except BaseException:
            self._thread.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connection."""
        try:
            self._run(self._client.close())
        finally:
            self._thread.stop()

    def __repr__(self) -> str:
        """Where it is connected to, on one line."""
        return f"sync.{self._client!r}"

    # -- requests -----------------------------------------------------------------------------------------

    def generate(
        self,
        model: str,
        prompt: str,
        *,
        routing: Routing | None = None,
        check: AnswerCheck | None = None,
        **fields: object,
    ) -> Answer:
        """The whole answer to a prompt; see `sollol_bus.Client.generate`.

        Raises:
            SollolError: What ended the request; see `sollol_bus.errors`.
        """
        return self._run(self._client.generate(model, prompt, routing=routing, check=check, **fields))

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, object]],
        *,
        routing: Routing | None = None,
        check: AnswerCheck | None = None,
        **fields: object,
    ) -> Answer:
        """The whole next message of a conversation."""
        return self._run(self._client.chat(model, messages, routing=routing, check=check, **fields))

    def stream(self, model: str, prompt: str, *, routing: Routing | None = None, **fields: object) -> Iterator[str]:
        """The texts of an answer as they come; leaving the loop early cancels the request."""
        return self._texts(lambda: self._client.generate_stream(model, prompt, routing=routing, **fields))

    def chat_stream(
        self, model: str, messages: Sequence[Mapping[str, object]], *, routing: Routing | None = None, **fields: object
    ) -> Iterator[str]:
        """The texts of the next message of a conversation as they come."""
        return self._texts(lambda: self._client.chat_stream(model, messages, routing=routing, **fields))

    def embed(
        self, model: str, texts: str | Sequence[str], *, routing: Routing | None = None, **fields: object
    ) -> Embeddings:
        """One vector per text, in order."""
        return self._run(self._client.embed(model, texts, routing=routing, **fields))

    # -- questions ----------------------------------------------------------------------------------------

    def route(self, model: str, prompt: str = "", *, routing: Routing | None = None) -> DecisionEvent:
        """Where a request would run now, and why; nothing is reserved."""
        return self._run(self._client.route(model, prompt, routing=routing))

    def nodes(self) -> NodesReply:
        """The fleet as the scorer in office sees it."""
        return self._run(self._client.nodes())

    def models(self) -> ModelsReply:
        """Every model that a node has."""
        return self._run(self._client.models())

    def stats(self, window_s: float = 0.0) -> StatsReply:
        """Statistics of the cluster; `window_s` 0 means everything that is kept."""
        return self._run(self._client.stats(window_s))

    def warm(self, model: str, system: str = "", prompt: str = "", **said: Any) -> list[Warmed]:  # noqa: ANN401 passed on
        """What became of each node on which a prompt's beginning was computed; see `sollol_bus.Client.warm`."""

        async def every() -> list[Warmed]:
            return [one async for one in self._client.warm(model, system, prompt, **said)]

        return self._run(every())

    def why(self, request_id: str) -> WhyReply:
        """Every decision about a request with all candidates, and what became of each attempt."""
        return self._run(self._client.why(request_id))

    def feedback(
        self,
        request_id: str = "",
        *,
        score: float | None = None,
        success: bool | None = None,
        model: str = "",
        category: str = "",
        latency_s: float | None = None,
        comment: str = "",
    ) -> FeedbackReply:
        """Tells how good an answer was; see `sollol_bus.Client.feedback`."""
        telling = self._client.feedback(
            request_id,
            score=score,
            success=success,
            model=model,
            category=category,
            latency_s=latency_s,
            comment=comment,
        )
        return self._run(telling)

    # -- groups of models ---------------------------------------------------------------------------------

    def groups(self) -> GroupsReply:
        """Every group of models, with what was learnt of each model."""
        return self._run(self._client.groups())

    def group(self, name: str) -> GroupView:
        """One group of models, with what was learnt of each."""
        return self._run(self._client.group(name))

    def set_group(
        self,
        name: str,
        models: Sequence[str] | Mapping[str, float],
        *,
        strategy: str = "cost",
        patience_s: float = 30.0,
        candidate: str | None = None,
        share: float = 0.1,
    ) -> GroupView:
        """Makes a group of models, or replaces the one of this name; see `sollol_bus.Client.set_group`."""
        setting = self._client.set_group(
            name, models, strategy=strategy, patience_s=patience_s, candidate=candidate, share=share
        )
        return self._run(setting)

    def remove_group(self, name: str) -> GroupsReply:
        """Removes a group; returns those that are left."""
        return self._run(self._client.remove_group(name))

    def reset_group(self, name: str = "", *, model: str = "") -> GroupsReply:
        """Forgets what feedback taught of a group's models, of one model, or of every model."""
        return self._run(self._client.reset_group(name, model=model))

    # -- the loop -----------------------------------------------------------------------------------------

    def _texts(self, begin: Callable[[], AnswerStream]) -> Iterator[str]:
        chunks = _chunks(begin)
        try:
            while (chunk := self._run(_next(chunks))) is not None:
                if chunk.text:
                    yield chunk.text
        finally:
            self._run(chunks.aclose())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.run(work)


async def _chunks(begin: Callable[[], AnswerStream]) -> AsyncGenerator[Chunk, None]:
    async with begin() as stream:
        async for chunk in stream:
            yield chunk


async def _next(chunks: AsyncIterator[Chunk]) -> Chunk | None:
    return await anext(chunks, None)
