"""The client: generate, chat and embed on the fleet, ask about it, watch it.

async with Client("nats://127.0.0.1:4222") as client:
    answer = await client.generate("llama3.2", "Why is the sky blue?")
    print(answer.text, answer.decision.node_id, answer.decision.reason)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from sollol_bus.errors import BadRequest, SollolError
from sollol_bus.observe.tracing_setup import present_traceparent
from sollol_bus.parts import Part
from sollol_bus.sdk.arguments import check_messages, check_streamed, check_texts
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.checked import AnswerCheck, in_place_of, whole
from sollol_bus.sdk.engine_options import with_options
from sollol_bus.sdk.jobs import JobAnswer, Jobs
from sollol_bus.sdk.operating import Operating
from sollol_bus.sdk.results import Answer, AnswerStream, Embeddings, embedded
from sollol_bus.sdk.resume.transcript import RESUME_BYTES
from sollol_bus.sdk.routing_fields import fields_of
from sollol_bus.sdk.spread import spread
from sollol_bus.sdk.surroundings import bus_config_here
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import RESUME
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.headers import ROUTING_PREFIX, TRACEPARENT
from sollol_schemas.inboxes import client_inbox_prefix
from sollol_schemas.routing import DEFAULT_DEADLINE_S, Routing

T = TypeVar("T")

_NAME = "sollol-client"
_TEXTS_MAX = 32
_PIECES_PER_NODE = 4
"""So many pieces for each node even out that some nodes are faster."""
_PIECES_AT_ONCE = 16


class Client(Operating, Part):
    """A connection for programs that use the fleet.

    Args:
        bus: Address of the NATS server, all settings of the connection, or a connected bus, which stays open; None:
            what the environment (`SOLLOL_NATS`, `SOLLOL_NATS_*`) and the settings file of this machine say.
        routing: Routing fields for every request that brings none of its own.
        resume_bytes: So much of each answer's text is kept while it streams, so that it goes on when it breaks off; 0:
            none does.
    """

    def __init__(
        self,
        bus: str | BusConfig | Bus | None = None,
        *,
        routing: Routing | None = None,
        resume_bytes: int = RESUME_BYTES,
    ) -> None:
        if bus is None:
            bus = bus_config_here(_NAME)
        given = BusConfig(url=bus, name=_NAME) if isinstance(bus, str) else bus
        if isinstance(given, BusConfig) and given.user and given.inbox_prefix == BusConfig().inbox_prefix:
            given = msgspec.structs.replace(given, inbox_prefix=client_inbox_prefix(given.user))
        self._given = given
        self._bus = bus if isinstance(bus, Bus) else None
        self._jobs: Jobs | None = None
        self._routing = routing
        self._resume_bytes = resume_bytes

    async def start(self) -> None:
        """Connects, unless it was given a connected bus.

        Raises:
            NotConnected: No server answers there.
            ConfigError: It refuses us, or a setting cannot be used.
        """
        if not isinstance(self._given, Bus):
            self._bus = await Bus.connect(self._given)

    async def close(self) -> None:
        """Ends what it follows, and the connection that it made."""
        if self._jobs is not None:
            await self._jobs.close()
        if self._bus is not None and self._bus is not self._given:
            await self._bus.close()

    @property
    def bus(self) -> Bus:
        """The client's connection."""
        if self._bus is None:
            raise RuntimeError("the client is not connected: use `async with Client(...)`")
        return self._bus

    @property
    def jobs(self) -> Jobs:
        """Durable jobs: submit, follow, fetch, cancel, run again."""
        if self._jobs is None:
            self._jobs = Jobs(self.bus)
        return self._jobs

    def __repr__(self) -> str:
        """Where it is connected to, on one line."""
        config = self._given.config if isinstance(self._given, Bus) else self._given
        return f"Client({config.url!r}, {'connected' if self._bus is not None else 'not connected'})"

    # -- requests -----------------------------------------------------------------------------------------

    def generate_stream(
        self, model: str, prompt: str, *, routing: Routing | None = None, **fields: object
    ) -> AnswerStream:
        """An answer to a prompt as it streams in.

        `fields` are options of the engine (`temperature=0.2`, `max_tokens=100`), and further fields of Ollama's body.
        An answer that breaks off through a fault of node, engine or bus goes on; with `resume=False` it ends with the
        error.
        """
        return AnswerStream(self._native(subjects.GENERATE, {"model": model, "prompt": prompt, **fields}, routing))

    def chat_stream(
        self, model: str, messages: Sequence[Mapping[str, object]], *, routing: Routing | None = None, **fields: object
    ) -> AnswerStream:
        """The next message of a conversation as it streams in."""
        check_messages(messages)
        return AnswerStream(self._native(subjects.CHAT, fields | {"model": model, "messages": list(messages)}, routing))

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        routing: Routing | None = None,
        check: AnswerCheck | None = None,
        **fields: object,
    ) -> Answer:
        """The whole answer to a prompt.

        Args:
            model: The model, or a group of models.
            prompt: The prompt.
            routing: Routing fields.
            check: What the answer must be; one of a group's that is not is asked for anew of its next model. A group
                that begins with its smallest model has answers checked against `format` too.
            fields: As in `generate_stream`.

        Raises:
            SollolError: What ended the request; see `sollol_bus.errors`.
        """
        return await self._whole(subjects.GENERATE, {"model": model, "prompt": prompt, **fields}, routing, check)

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, object]],
        *,
        routing: Routing | None = None,
        check: AnswerCheck | None = None,
        **fields: object,
    ) -> Answer:
        """The whole next message of a conversation; see `generate`."""
        check_messages(messages)
        fields |= {"model": model, "messages": list(messages)}
        return await self._whole(subjects.CHAT, fields, routing, check)

    async def _whole(
        self, subject: str, fields: dict[str, object], routing: Routing | None, check: AnswerCheck | None
    ) -> Answer:
        kind = RequestKind.CHAT if subject == subjects.CHAT else RequestKind.GENERATE
        chosen = routing or self._routing or Routing()
        return await whole(partial(self._native, subject, fields, is_joined=True), kind, fields, chosen, check)

    async def embed(
        self, model: str, texts: str | Sequence[str], *, routing: Routing | None = None, **fields: object
    ) -> Embeddings:
        """One vector per text, in order."""
        fields |= {"model": model, "input": texts if isinstance(texts, str) else list(texts)}
        return await embedded(self._native(subjects.EMBED, fields, routing))

    def call(
        self,
        subject: str,
        body: bytes,
        *,
        headers: dict[str, str] | None = None,
        deadline_s: float = DEFAULT_DEADLINE_S,
        request_id: str | None = None,
        resume: bool = True,
        is_joined: bool = False,
    ) -> Call:
        """A request with a body of your own, for what the other methods do not cover; see `Call`."""
        if deadline_s != DEFAULT_DEADLINE_S:  # the fleet stops when this caller does
            headers = {f"{ROUTING_PREFIX}Deadline-S": str(deadline_s), **(headers or {})}
        return Call(
            self.bus,
            subject,
            body,
            headers=headers,
            deadline_s=deadline_s,
            request_id=request_id,
            resume_bytes=self._resume_bytes if resume else 0,
            is_joined=is_joined,
        )

    def _native(
        self,
        subject: str,
        fields: dict[str, object],
        routing: Routing | None,
        before: Call | None = None,
        *,
        is_joined: bool = False,
    ) -> Call:
        check_texts(fields)
        check_streamed(fields)
        chosen = routing or self._routing or Routing()
        resume = fields.get(RESUME, True)
        if not isinstance(resume, bool):
            raise BadRequest(f"{RESUME} must be true or false")
        fields = {name: value for name, value in fields.items() if name != RESUME}
        fields = {**with_options(fields), "stream": True, **fields_of(chosen)}
        headers = {TRACEPARENT: trace} if (trace := present_traceparent()) else None
        told = fields.get("deadline_s")
        deadline_s = float(told) if isinstance(told, (int, float)) and told > 0 else DEFAULT_DEADLINE_S
        if before is None:
            return self.call(
                subject, encode(fields), headers=headers, deadline_s=deadline_s, resume=resume, is_joined=is_joined
            )
        return in_place_of(before, subject, encode(fields), headers)

    async def generate_async(
        self,
        model: str,
        prompt: str,
        *,
        job_id: str | None = None,
        priority: int | str | None = None,
        on_done: Callable[[JobAnswer], None] | None = None,
        routing: Routing | None = None,
        **fields: object,
    ) -> str:
        """The id of a durable job that answers a prompt; see `jobs.generate`."""
        return await self.jobs.generate(
            model, prompt, job_id=job_id, priority=priority, on_done=on_done, routing=routing, **fields
        )

    async def wait_for_task(self, job_id: str, *, timeout_s: float | None = None) -> JobAnswer:
        """The answer of a job, once it is done; see `jobs.wait`."""
        return await self.jobs.wait(job_id, timeout_s=timeout_s)

    # -- questions ----------------------------------------------------------------------------------------

    async def route(self, model: str, prompt: str = "", *, routing: Routing | None = None) -> DecisionEvent:
        """Where a request would run now, and why; nothing is reserved."""
        fields = {"model": model, "prompt": prompt, **fields_of(routing or self._routing or Routing())}
        return await self._ask(subjects.ROUTE, fields, DecisionEvent)

    # -- many at once -------------------------------------------------------------------------------------

    async def distribute_task(
        self,
        tasks: Iterable[tuple[str, str]],
        *,
        at_once: int = 64,
        routing: Routing | None = None,
        check: AnswerCheck | None = None,
        **fields: object,
    ) -> list[Answer | SollolError]:
        """Answers to several (model, prompt) pairs, in order, each made on its best node.

        An item that fails is the error itself in the list; the others are not affected.
        """
        return await spread(
            (partial(self.generate, model, prompt, routing=routing, check=check, **fields) for model, prompt in tasks),
            at_once=at_once,
        )

    async def embed_many(
        self,
        model: str,
        texts: Sequence[str],
        *,
        per_request: int | None = None,
        at_once: int | None = None,
        routing: Routing | None = None,
        **fields: object,
    ) -> list[list[float]]:
        """One vector per text, in order; the texts are spread over all nodes that have the model.

        Args:
            model: The model.
            texts: What to embed.
            per_request: Texts in one request; None: as many as keep every node busy, 32 at most.
            at_once: Requests in flight; None: two for each node, so that none waits for the next.
            routing: Routing fields of every request.
            fields: Further fields of Ollama's body.

        Raises:
            SollolError: What ended the first request that failed.
        """
        if per_request is None or at_once is None:
            nodes = await self._nodes_with(model)
            per_request = per_request or max(1, min(_TEXTS_MAX, -(-len(texts) // (_PIECES_PER_NODE * nodes))))
            at_once = at_once or max(_PIECES_AT_ONCE, 2 * nodes)
        pieces = [texts[start : start + per_request] for start in range(0, len(texts), per_request)]
        embedding = (partial(self.embed, model, piece, routing=routing, **fields) for piece in pieces)
        found = await spread(embedding, at_once=at_once)
        vectors: list[list[float]] = []
        for piece in found:
            if isinstance(piece, SollolError):
                raise piece
            vectors += piece.embeddings
        return vectors

    async def _nodes_with(self, model: str) -> int:
        """How many nodes have a model; 1 when nobody says."""
        try:
            views = (await self.models()).models
        except SollolError:
            return 1
        return max([1, *(len(view.installed_on) for view in views if view.name in (model, f"{model}:latest"))])
