"""A small node that keeps the protocol of nodes and counts down; those made of it break one rule each."""

# ruff: noqa: ANN401 fields of messages are passed on by name

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

import msgspec

from sollol_bus.errors import BusError
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode, error_headers, is_no_responders
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode

MODEL: Final = "countdown:latest"
_TOKEN_S: Final = 0.004
_FIRST_S: Final = 0.02
Json = dict[str, Any]


class PlayedRun:
    """One attempt on it."""

    def __init__(self, exec_: Json, body: Json, inbox: str) -> None:
        self.exec = exec_
        self.decision: Json = exec_["decision"]
        self.attempt_id: str = self.decision["attempt_id"]
        self.body = body
        self.inbox = inbox
        self.sent = 0
        self.task: asyncio.Task[None] | None = None
        self.state = "running"
        self.end: list[tuple[bytes, dict[str, str]]] = []
        self.report: Json = {}


class PlayedNode:
    """A node, as somebody writes one who has read its protocol alone.

    Args:
        bus: Its connection.
    """

    node_id = "double"
    instance = "i1"
    slots = 2
    beat_s = 0.1
    outcome_retry_s = 0.1
    models: tuple[Json, ...] = (
        {"name": MODEL, "capabilities": ["completion"]},
        {"name": "e", "capabilities": ["embedding"]},
    )

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.revision = 0
        self.seq = 0
        self.term = 0
        self.is_draining = self.has_left = False
        self.runs: dict[str, PlayedRun] = {}
        self.ended: dict[str, PlayedRun] = {}
        self.group = asyncio.TaskGroup()
        self.probe = f"_INBOX_node.{self.node_id}.t"

    async def live(self) -> None:
        """Joins, and works until it is cancelled."""
        await self.claim()
        own = f"{subjects.V1}.node.{self.node_id}"
        async with self.group:
            self.bus.subscribe(f"{own}.control", self.on_control)
            self.bus.subscribe(f"{own}.cancel", self.on_cancel)
            self.bus.subscribe(f"{own}.leave", lambda _: None)
            self.bus.subscribe(f"{own}.exec", self.on_exec)
            self.bus.subscribe(f"{self.probe}.>", self.on_probe)
            while not self.has_left:
                self.tell_all()
                await asyncio.sleep(self.beat_s)

    # -- joining --------------------------------------------------------------------------------------------

    async def claim(self) -> None:
        """Claims its id."""
        asked = {"claim": {"node_id": self.node_id, "instance": self.instance, "host": "here"}, "is_starting": True}
        self.revision = (await self.ask("claim", asked))["revision"]

    def tell_all(self, **more: Any) -> None:
        """One heartbeat."""
        engine = {"kind": "other", "url": "fake://"}
        fields = {"revision": self.revision, "engine": engine, "installed": self.models}
        self.tell("telemetry", {"type": "node.telemetry.v1"} | fields | more)

    def tell_load(self, **more: Any) -> None:
        """One change of load."""
        self.tell("load", {"type": "node.load.v1"} | more)

    def tell(self, subject: str, fields: Json) -> None:
        """What both have in common."""
        self.seq += 1
        running = [{"attempt_id": one, "model": MODEL} for one in self.runs]
        own = {"node_id": self.node_id, "instance": self.instance, "seq": self.seq, "slots": self.slots}
        standing = {"in_flight": running, "is_draining": self.is_draining}
        self.bus.publish(f"{subjects.V1}.{subject}.{self.node_id}", encode(own | standing | fields))

    async def leave(self) -> None:
        """Its last word."""
        self.has_left = True
        self.tell_load(has_left=True)

    # -- attempts -------------------------------------------------------------------------------------------

    def on_exec(self, msg: Msg) -> None:
        """Takes an attempt, or refuses it."""
        headers = msg.headers or {}
        try:
            exec_ = msgspec.json.decode(headers["Sollol-Exec"])
        except msgspec.DecodeError:
            return
        run = PlayedRun(exec_, msgspec.json.decode(msg.data), headers["Sollol-Reply-To"])
        if not self.is_meant(run) or self.is_known(run):
            return
        refusal = self.refusal_of(run)
        self.term = max(self.term, run.decision.get("term", 0))
        if refusal is not None:
            self.refuse(run, refusal)
            return
        self.runs[run.attempt_id] = run
        run.task = self.group.create_task(self.serve(run))
        self.tell_load()

    def is_meant(self, run: PlayedRun) -> bool:
        """Whether this process is."""
        return bool(run.decision["instance"] == self.instance)

    def is_known(self, run: PlayedRun) -> bool:
        """Whether it came before."""
        return run.attempt_id in self.runs or run.attempt_id in self.ended

    def refusal_of(self, run: PlayedRun) -> ErrorCode | None:
        """Why it is not taken."""
        if run.decision.get("term", 0) < self.term:
            return ErrorCode.STALE_TERM
        if run.inbox.startswith("_INBOX_node"):
            return ErrorCode.FORBIDDEN
        if self.is_draining:
            return ErrorCode.DRAINING
        return ErrorCode.BUSY if len(self.runs) >= self.slots else None

    def refuse(self, run: PlayedRun, code: ErrorCode) -> None:
        """Tells the dispatcher."""
        error = {"code": code.value, "message": "no"}
        self.report(run, {"type": "attempt.failed.v1", "error": error})

    async def serve(self, run: PlayedRun) -> None:
        """Runs an attempt to its end."""
        code: ErrorCode | None = None
        try:
            await self.permitted(run)
            if run.decision["model"] not in {one["name"] for one in self.models}:
                raise _FailedError(ErrorCode.UNKNOWN_MODEL)  # noqa: TRY301 as an engine would
            await self.answer(run)
        except _FailedError as error:
            code = error.code
        except asyncio.CancelledError:
            if run.attempt_id not in self.runs:
                raise
            code = ErrorCode.CANCELLED
        self.conclude(run, code)

    async def permitted(self, run: PlayedRun) -> None:
        """Returns when the attempt may speak."""
        go_s = run.exec.get("go_s", 2.0)
        asked_at = time.monotonic()
        accepted = {"type": "attempt.accepted.v1", "instance": self.instance}
        answer = await self.asked(run, accepted, go_s)
        await asyncio.sleep(_FIRST_S)
        while answer is None or (answer and time.monotonic() > asked_at + go_s):
            answer = await self.asked(run, {"type": "attempt.start.v1"}, 2.0)
            if answer:
                return
        if not answer:
            raise _FailedError(ErrorCode.CANCELLED)

    async def asked(self, run: PlayedRun, question: Json, within_s: float) -> bool | None:
        """Whether it may; None: nobody said."""
        subject = f"attempt.{self.node_id}.{run.attempt_id}"
        try:
            msg = await self.bus.request(
                f"{subjects.V1}.{subject}", encode({"attempt_id": run.attempt_id} | question), timeout_s=within_s
            )
        except BusError:
            return None
        return bool(msgspec.json.decode(msg.data)["go"])

    async def answer(self, run: PlayedRun) -> None:
        """Speaks to the caller."""
        chunks = self.chunks(run)
        if not run.exec.get("stream"):
            self.say(run, chunks[0], self.first(run) | self.last(1))
            run.state = "ended_spoken"
            return
        self.report(run, {"type": "attempt.first_token.v1"})
        for chunk in chunks:
            for number, part in enumerate(parts := self.parts(chunk), 1):
                headers = self.first(run) if not run.sent else {}
                self.say(run, part, headers | ({"Sollol-Part": f"{number}/{len(parts)}"} if len(parts) > 1 else {}))
            run.state = "streaming"
            await asyncio.sleep(_TOKEN_S)
        run.end = [(b"", {"Sollol-Chunks": str(run.sent)} | self.last(run.sent))]
        self.say_end(run)

    def chunks(self, run: PlayedRun) -> list[bytes]:
        """What the model says."""
        if "input" in run.body:
            return [encode({"embeddings": [[0.123456] * 100] * len(run.body["input"])})]
        count = int(run.body["messages"][0]["content"].rsplit(None, 1)[1])
        return [encode({"message": {"content": f"{number} "}}) for number in range(count, 0, -1)]

    def parts(self, chunk: bytes) -> list[bytes]:
        """A chunk as messages."""
        return [chunk[at : at + (1 << 20)] for at in range(0, len(chunk), 1 << 20)]

    def first(self, run: PlayedRun) -> dict[str, str]:
        """Headers of the first message."""
        kind = {"Content-Type": "application/json"} if run.decision["kind"] == "passthrough" else {}
        return {"Sollol-Decision": encode(run.decision).decode()} | kind

    def last(self, chunks: int) -> dict[str, str]:
        """Headers of the last one."""
        return {"Sollol-Figures": encode({"actual_s": 0.1, "output_tokens": chunks}).decode()}

    def say(self, run: PlayedRun, data: bytes, headers: dict[str, str]) -> None:
        """One message to the caller."""
        run.sent += 1
        self.bus.publish(run.inbox, data, reply=f"{self.probe}.{run.attempt_id}", headers=headers or None)

    def say_end(self, run: PlayedRun) -> None:
        """What ends a stream."""
        run.state = "ended_spoken"
        for data, headers in run.end:
            self.bus.publish(run.inbox, data, headers=headers)

    def break_off(self, run: PlayedRun, code: ErrorCode) -> None:
        """Tells the caller of a stream."""
        error = ErrorBody(code=code, message="no")
        chunks = {"Sollol-Chunks": str(run.sent + 1)}
        run.end = [(encode(error), error_headers(error)), (b"", chunks | self.last(run.sent))]
        self.say_end(run)

    def conclude(self, run: PlayedRun, code: ErrorCode | None) -> None:
        """Frees the slot, and tells everybody else."""
        self.runs.pop(run.attempt_id, None)
        self.ended[run.attempt_id] = run
        if code is not None and run.state == "streaming":
            self.break_off(run, code)
        run.state = run.state if run.state == "ended_spoken" else "ended_silent"
        if code is None:
            run.report = {"type": "attempt.done.v1", "figures": {"actual_s": 0.1}}
        else:
            failed = {"type": "attempt.failed.v1", "is_streaming": run.state == "ended_spoken"}
            run.report = failed | {"error": {"code": code.value, "message": "no"}}
        self.report(run, run.report)
        self.tell_load()
        self.group.create_task(self.tell_outcome(run, code))

    def report(self, run: PlayedRun, report: Json) -> None:
        """Tells the dispatcher."""
        subject = f"{subjects.V1}.attempt.{self.node_id}.{run.attempt_id}"
        self.bus.publish(subject, encode({"attempt_id": run.attempt_id} | report))

    async def tell_outcome(self, run: PlayedRun, code: ErrorCode | None) -> None:
        """Until it is stored."""
        status = "success" if code is None else "cancelled" if code is ErrorCode.CANCELLED else "failed"
        outcome: Json = {"type": "outcome.v1", "status": status, "decision": run.decision}
        while True:
            with contextlib.suppress(BusError):
                await self.ask("outcome", outcome, {"Nats-Msg-Id": run.attempt_id}, self.outcome_retry_s)
                return

    async def ask(
        self, subject: str, question: Json, headers: dict[str, str] | None = None, within_s: float = 5.0
    ) -> Json:
        """What dispatchers answer."""
        whole = f"{subjects.V1}.{subject}.{self.node_id}"
        msg = await self.bus.request(whole, encode(question), headers=headers, timeout_s=within_s)
        return dict(msgspec.json.decode(msg.data))

    # -- what else comes ------------------------------------------------------------------------------------

    def on_cancel(self, msg: Msg) -> None:
        """The dispatcher takes an attempt back."""
        self.end(msgspec.json.decode(msg.data)["attempt_id"])

    def end(self, attempt_id: str) -> None:
        """Stops an attempt."""
        run = self.runs.get(attempt_id)
        if run is not None and run.task is not None:
            run.task.cancel()

    def on_probe(self, msg: Msg) -> None:
        """The server says that a caller left."""
        if is_no_responders(msg):
            self.end(subjects.last_token(msg.subject))

    def on_control(self, msg: Msg) -> None:
        """Answers a request."""
        asked: Json = msgspec.json.decode(msg.data) if msg.data else {"type": "control.ping.v1"}
        more: Json = {}
        match asked["type"]:
            case "control.ping.v1":
                pass
            case "control.drain.v1":
                self.drain(is_draining=asked.get("is_draining", True))
            case "control.attempt.v1":
                more = self.remembered(asked["attempt_id"])
            case _:
                self.refuse_request(msg)
                return
        own = {"node_id": self.node_id, "instance": self.instance, "is_draining": self.is_draining}
        self.bus.publish(msg.reply, encode({"type": "control.reply.v1"} | own | more))

    def drain(self, *, is_draining: bool) -> None:
        """Takes no new work, or takes it again."""
        self.is_draining = is_draining
        self.tell_load()

    def remembered(self, attempt_id: str) -> Json:
        """What is known of an attempt, whose end is told again."""
        run = self.runs.get(attempt_id) or self.ended.get(attempt_id)
        if run is None:
            return {"attempt_state": "unknown"}
        if attempt_id in self.ended:
            self.say_end(run)
            self.report(run, run.report)
        return {"attempt_state": run.state, "chunks": run.sent}

    def refuse_request(self, msg: Msg) -> None:
        """Says that it does not know this."""
        error = ErrorBody(code=ErrorCode.BAD_REQUEST, message="unknown")
        self.bus.publish(msg.reply, encode(error), headers=error_headers(error))


class _FailedError(Exception):
    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.value)
        self.code = code
