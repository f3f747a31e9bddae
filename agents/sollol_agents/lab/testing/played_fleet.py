"""A double of a whole fleet, for callers: takes requests, and says of them what it is told to."""

from __future__ import annotations

import asyncio

import msgspec

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.sdk.call import Call
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_headers
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.continuation import ContinueFrom, unpacked
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import CancelRequest, Figures, Taken


class PlayedFleet:
    """A double of dispatcher and nodes: takes requests, and says of them what it is told to."""

    def __init__(self, bus: Bus, *, fingerprint: str = "ollama:0123456789ab") -> None:
        self.bus = bus
        self.fingerprint = fingerprint
        self.requests: list[Msg] = []
        self.cancelled: list[CancelRequest] = []
        self._sent: dict[int, int] = {}
        for subject in (subjects.GENERATE, subjects.CHAT, subjects.PASSTHROUGH):
            bus.subscribe(subject, self._on_request, queue="q")
        bus.subscribe(subjects.DISPATCHER_PROBE.of("d"), lambda m: bus.publish(m.reply, b"ok"))
        bus.subscribe(subjects.CANCEL, lambda m: self.cancelled.append(decode(m.data, CancelRequest)))

    def _on_request(self, msg: Msg) -> None:
        self.requests.append(msg)
        taken = Taken(request_id=self.headers()[h.REQUEST_ID], dispatcher="d", instance="d")
        self.bus.publish(self.headers()[h.CONTROL_INBOX], encode(taken))

    async def request(self, number: int) -> None:
        """Returns when so many requests have come."""
        await eventually(lambda: len(self.requests) == number)

    def headers(self, index: int = -1) -> dict[str, str]:
        """Of a request."""
        return dict(self.requests[index].headers or {})

    def continued(self, index: int = -1) -> ContinueFrom:
        """With what a request was sent again."""
        body, continued = unpacked(self.requests[index].data, self.headers(index))
        assert body == self.requests[0].data
        assert continued is not None
        return continued

    def say(self, *texts: str, node: str = "attic", index: int = -1, skip: int = 0, **fields: object) -> None:
        """Some native pieces of an answer; `skip` messages before each are lost."""
        for text in texts:
            self.chunk(encode({"response": text, "done": False, **fields}), node=node, index=index, skip=skip)

    def chunk(self, data: bytes, *, node: str = "attic", index: int = -1, skip: int = 0, content: str = "") -> None:
        """One message of an answer."""
        inbox = self.requests[index].reply
        sent = self._sent.get(index % len(self.requests), 0)
        self._sent[index % len(self.requests)] = sent + 1 + skip
        headers = None
        if not sent:
            made = Decision(request_id="r", attempt_id=f"a-{node}", node_id=node, fingerprint=self.fingerprint)
            headers = {h.DECISION: encode(made).decode()} | ({h.CONTENT_TYPE: content} if content else {})
        self.bus.publish(inbox, data, reply=f"_INBOX_node.t.{sent + 1 + skip}", headers=headers)

    def fail(self, code: ErrorCode, message: str = "it broke", index: int = -1, **details: object) -> None:
        """An answer ends with an error."""
        body = ErrorBody(code=code, message=message, details=details)
        self.bus.publish(self.requests[index].reply, encode(body), headers=error_headers(body))

    def end(self, *, index: int = -1, figures: Figures | None = None, **fields: object) -> None:
        """An answer ends as it should; with fields, a last native object comes before."""
        if fields:
            self.chunk(encode({"response": "", "done": True, **fields}), index=index)
        told = {h.FIGURES: encode(figures).decode()} if figures is not None else {}
        sent = str(self._sent.get(index % len(self.requests), 0))
        self.bus.publish(self.requests[index].reply, b"", headers={h.CHUNKS: sent} | told)


class Reader:
    """Reads a call to its end, in a task."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.got: list[bytes] = []
        self.task = asyncio.ensure_future(self._read())  # noqa: TID251 ended in each test

    async def _read(self) -> None:
        async for msg in self.call:
            self.got.append(msg.data)

    @property
    def text(self) -> str:
        """What was read of native pieces."""
        return "".join(msgspec.json.decode(data).get("response", "") for data in self.got)

    async def has(self, text: str) -> None:
        """Returns when so much was read."""
        await eventually(lambda: self.text == text)
