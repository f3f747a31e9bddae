"""A small node that keeps the protocol of nodes and counts down; those made of it break one rule each."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import Final

import msgspec

from sollol_agents.lab.testing.played_member import Json, PlayedMember, TakenError
from sollol_bus.errors import BusError, NoResponders
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode, error_headers, is_no_responders
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode

_TOKEN_S: Final = 0.004
_FIRST_S: Final = 0.02
_CALLERS: Final = re.compile(r"_INBOX(?!_(?:node|ctl|new)\.)[^.*>]*(\.[^.*>]+)+$")


class PlayedRun:
    """One attempt on it."""

    def __init__(self, exec_: Json, payload: bytes, inbox: str) -> None:
        self.exec = exec_
        size = exec_.get("body_bytes", len(payload))
        self.said: Json | None = msgspec.json.decode(payload[size:]) if size < len(payload) else None
        self.decision: Json = exec_["decision"]
        self.attempt_id: str = self.decision["attempt_id"]
        self.body: Json = msgspec.json.decode(payload[:size])
        self.inbox = inbox
        self.sent = self.tokens = 0
        self.task: asyncio.Task[None] | None = None
        self.stopped = ErrorCode.CANCELLED
        self.state = "running"
        self.end: list[tuple[bytes, dict[str, str]]] = []
        self.report: Json = {}


class PlayedNode(PlayedMember):
    """A node, as somebody writes one who has read its protocol alone."""

    token_s, outcome_retry_s = _TOKEN_S, 0.1
    may_speak_alone: bool | None = True

    def __init__(self, bus: Bus, instance: str = "i1") -> None:
        super().__init__(bus, instance)
        self.term = 0
        self.runs: dict[str, PlayedRun] = self.running
        self.ended: dict[str, PlayedRun] = {}
        self.untold = 0
        self.probe = f"_INBOX_node.{self.node_id}.t"

    async def live(self) -> None:
        """Joins, and works until it is cancelled, has left, or another process has its id."""
        with contextlib.suppress(TakenError):
            await self.claim(is_starting=True)
            own = f"{subjects.V1}.node.{self.node_id}"
            heard = {"control": self.on_control, "cancel": self.on_cancel, "leave": self.on_leave, "exec": self.on_exec}
            listening = [self.bus.subscribe(f"{own}.{what}", handle) for what, handle in heard.items()]
            listening.append(self.bus.subscribe(f"{self.probe}.>", self.on_probe))
            self.bus.on_disconnect(self.on_disconnect)
            self.bus.on_reconnect(self.on_reconnect)
            try:
                await self._work()
            finally:
                self.bus.forget_callbacks(self.on_disconnect, self.on_reconnect)
                for one in listening:
                    one.unsubscribe()

    async def _work(self) -> None:
        try:
            async with self.group:
                self.group.create_task(self.keep_claim())
                while not self.has_left:
                    self.tell_all()
                    try:
                        await asyncio.sleep(self.beat_s)
                    except asyncio.CancelledError:
                        self.runs.clear()  # what runs ends without a word, as with a process
                        raise
        except* TakenError:
            self.has_left = True

    async def leave(self) -> None:
        """Finishes what runs, and says its last word."""
        self.is_draining = True
        self.tell_load()
        while self.runs or self.untold:  # noqa: ASYNC110 it says its last word some milliseconds later
            await asyncio.sleep(_TOKEN_S)
        self.has_left = True
        self.tell_load(has_left=True)

    def on_leave(self, msg: Msg) -> None:
        """The server has heeded it."""

    def on_disconnect(self) -> None:
        """What runs is over."""
        self.is_back.clear()
        for attempt_id in list(self.runs):
            self.end(attempt_id, ErrorCode.CONNECTION_LOST)

    # -- attempts -------------------------------------------------------------------------------------------

    def on_exec(self, msg: Msg) -> None:
        """Takes an attempt, or refuses it."""
        headers = msg.headers or {}
        try:
            exec_ = msgspec.json.decode(headers["Sollol-Exec"])
        except msgspec.DecodeError:
            return
        run = PlayedRun(exec_, msg.data, headers["Sollol-Reply-To"])
        if not self.is_meant(run) or self.is_known(run):
            return
        refusal = self.refusal_of(run)
        self.term = max(self.term, run.decision.get("term", 0))
        if refusal is not None:
            self.refuse(run, refusal)
            return
        self.runs[run.attempt_id] = run
        run.task = self.group.create_task(self.serve(run))
        self.load_changed()

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
        if not _CALLERS.match(run.inbox) or run.exec.get("path", "").startswith("/api/delete"):
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
        deadline_s = run.exec.get("deadline_s", 600.0)
        timer = asyncio.get_running_loop().call_later(deadline_s, self.end, run.attempt_id, ErrorCode.DEADLINE_EXCEEDED)
        try:
            await self.permitted(run)
            if run.decision["model"] not in {one["name"] for one in self.models}:
                raise _FailedError(ErrorCode.UNKNOWN_MODEL)  # noqa: TRY301 as an engine would
            await self.answer(run)
        except _FailedError as error:
            code = error.code
        except BusError:
            code = ErrorCode.CONNECTION_LOST
        except asyncio.CancelledError:
            if run.attempt_id not in self.runs:
                raise
            code = run.stopped
        timer.cancel()
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
        except NoResponders:
            return self.may_speak_alone
        except BusError:
            await asyncio.sleep(_TOKEN_S)
            return None
        return bool(msgspec.json.decode(msg.data)["go"])

    async def answer(self, run: PlayedRun) -> None:
        """Speaks to the caller."""
        chunks = self.chunks(run)
        if not run.exec.get("stream"):
            await asyncio.sleep(_TOKEN_S * len(chunks))
            self.say(run, chunks[-1], self.first(run) | self.last(1))
            run.state = "ended_spoken"
            return
        self.report(run, {"type": "attempt.first_token.v1"})
        for chunk in chunks:
            for number, part in enumerate(parts := self.parts(chunk), 1):
                headers = self.first(run) if not run.sent else {}
                self.say(run, part, headers | ({"Sollol-Part": f"{number}/{len(parts)}"} if len(parts) > 1 else {}))
            run.state = "streaming"
            await asyncio.sleep(self.token_s)
        run.end = [(b"", {"Sollol-Chunks": str(run.sent)} | self.last(run.sent))]
        self.say_end(run)

    def chunks(self, run: PlayedRun) -> list[bytes]:
        """What the model says."""
        if "input" in run.body:
            return [encode({"embeddings": [[0.123456] * 100] * len(run.body["input"])})]
        text = run.body["prompt"] if "prompt" in run.body else run.body["messages"][0]["content"]
        count = int(text.rsplit(None, 1)[1])
        texts = self.rest(run, [f"{number} " for number in range(count, 0, -1)])
        run.tokens = count
        return [self.chunk(run, text, is_last=text == "1 ") for text in texts]

    def rest(self, run: PlayedRun, texts: list[str]) -> list[str]:
        """What was not said yet."""
        said = run.said["text"] if run.said is not None else ""
        for place in range(len(texts)):
            if "".join(texts[:place]) == said:
                return texts[place:]
        raise _FailedError(ErrorCode.NOT_CONTINUED)

    def chunk(self, run: PlayedRun, text: str, *, is_last: bool) -> bytes:
        """One of them."""
        counts = {"prompt_eval_count": 3, "eval_count": run.tokens} if is_last else {}
        if self.kind_of(run) == "generate" or (run.said is not None and self.kind_of(run) != "chat"):
            return encode({"response": text, "done": is_last} | counts)
        return encode({"message": {"role": "assistant", "content": text}, "done": is_last} | counts)

    def kind_of(self, run: PlayedRun) -> str:
        """What is asked for."""
        return str(run.decision.get("kind", "generate"))

    def parts(self, chunk: bytes) -> list[bytes]:
        """A chunk as messages."""
        return [chunk[at : at + (1 << 20)] for at in range(0, len(chunk), 1 << 20)]

    def first(self, run: PlayedRun) -> dict[str, str]:
        """Headers of the first message."""
        kind = {"Content-Type": "application/json"} if self.kind_of(run) == "passthrough" else {}
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
            self.publish(run.inbox, data, headers=headers)

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
        self.load_changed()
        self.untold += 1
        self.group.create_task(self.tell_outcome(run, code))
        if code is ErrorCode.CONNECTION_LOST:
            self.group.create_task(self.tell_end_later(run))

    async def tell_end_later(self, run: PlayedRun) -> None:
        """Tells how an attempt ended whose connection broke."""
        await self.is_back.wait()
        with contextlib.suppress(BusError):
            if run.end:
                await self.ask("leave", self.leave_question(run))
        self.say_end(run)
        self.report(run, run.report)

    def leave_question(self, run: PlayedRun) -> Json:
        """Asks to speak to a caller again."""
        return {"inbox": run.inbox, "ticket": run.exec["ticket"]}

    def report(self, run: PlayedRun, report: Json) -> None:
        """Tells the dispatcher."""
        subject = f"{subjects.V1}.attempt.{self.node_id}.{run.attempt_id}"
        self.publish(subject, encode({"attempt_id": run.attempt_id} | report))

    async def tell_outcome(self, run: PlayedRun, code: ErrorCode | None) -> None:
        """Until it is stored."""
        outcome: Json = {"type": "outcome.v1", "status": self.status_of(code), "decision": run.decision}
        if code is not None:
            outcome["code"] = code.value
        try:
            while True:
                with contextlib.suppress(BusError):
                    await self.ask("outcome", outcome, {"Nats-Msg-Id": run.attempt_id}, self.outcome_retry_s)
                    return
                await asyncio.sleep(_TOKEN_S)
        finally:
            self.untold -= 1

    def status_of(self, code: ErrorCode | None) -> str:
        """Whose fault it was."""
        if code is None:
            return "success"
        return "client_error" if code is ErrorCode.UNKNOWN_MODEL else "cancelled"

    # -- what else comes ------------------------------------------------------------------------------------

    def on_cancel(self, msg: Msg) -> None:
        """The dispatcher takes an attempt back."""
        self.end(msgspec.json.decode(msg.data)["attempt_id"])

    def end(self, attempt_id: str, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """Stops an attempt."""
        run = self.runs.get(attempt_id)
        if run is not None and run.task is not None:
            run.stopped = code
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
            case "control.cut.v1" if self.may_cut(asked["attempt_id"]):
                self.end(asked["attempt_id"], ErrorCode.MOVED)
            case "control.drain.v1":
                self.drain(is_draining=asked.get("is_draining", True))
            case "control.attempt.v1":
                more = self.remembered(asked["attempt_id"])
            case "control.set.v1":
                self.set(asked)
            case "control.load.v1" | "control.unload.v1":
                self.refuse_request(msg, ErrorCode.FORBIDDEN)
                return
            case "control.pull.v1" | "control.engine.v1" | "control.blob.v1":
                self.refuse_operation(msg)
                return
            case _:
                self.refuse_request(msg, ErrorCode.BAD_REQUEST)
                return
        own = {"node_id": self.node_id, "instance": self.instance, "is_draining": self.is_draining}
        self.bus.publish(msg.reply, encode({"type": "control.reply.v1"} | own | more))

    def may_cut(self, attempt_id: str) -> bool:
        """Whether somebody goes on with it elsewhere."""
        run = self.runs.get(attempt_id)
        return run is not None and bool(run.exec.get("is_resumable"))

    def remembered(self, attempt_id: str) -> Json:
        """What is known of an attempt, whose end is told again."""
        run = self.runs.get(attempt_id) or self.ended.get(attempt_id)
        if run is None:
            return {"attempt_state": "unknown"}
        if attempt_id in self.ended:
            self.say_end(run)
            self.report(run, run.report)
        return {"attempt_state": run.state, "chunks": run.sent}


class _FailedError(Exception):
    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.value)
        self.code = code
