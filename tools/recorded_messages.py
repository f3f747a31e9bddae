"""Messages as a running fleet sends them: `python -m tools.recorded_messages` writes one of each kind that it sees.

They are the examples in the contract, and tests decode them with types that others' generators made. What no run of a
few seconds brings about has no record; its example is the sample of the message. `UNRECORDED` says what, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.emulator import FaultKind
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_bus.sdk.batches import Batches
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.job_making import make_job
from sollol_bus.sdk.questions import ask_actor
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.trust.callers import named
from sollol_bus.trust.standings import StandingStore
from sollol_contract import wire
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.acts import ActsReply, ActsRequest
from sollol_schemas.batch_progress import BatchTell
from sollol_schemas.control import StateQuestion
from sollol_schemas.execution import GO_S, CancelRequest
from sollol_schemas.feedback import FeedbackHistory
from sollol_schemas.jobs import Job
from sollol_schemas.queries import NodesReply, NodesRequest, UsageReply, UsageRequest
from sollol_schemas.stores import KEPT
from sollol_schemas.subjects import ENGINE, SUBJECTS, Subject
from tools.recorded_members import MembersFleet
from tools.recorded_moves import drain_in_the_middle
from tools.recorded_sleepers import sleep_and_wake

ROOT: Final = Path(__file__).parents[1]
FILE: Final = ROOT / "tests" / "unit" / "golden" / "recorded" / "messages.json"
_HEARD: Final = ("sollol.v1.>", "_INBOX.>", *(f"_INBOX_{who}.>" for who in ("cli", "ctl", "node", "new")), "$KV.>")
_OF_SERVER: Final = ".traced"
"""Where the NATS server tells a node whether a caller still listens, in words of its own."""
_FILE: Final = b"GGUF of a model"
_IN_HEADERS: Final = {h.EXEC: "Exec", h.DECISION: "Decision", h.FIGURES: "Figures", h.JOB_STATUS: "JobStatus"}
_STORED: Final = "PubAck"
UNRECORDED: Final = {
    "Job": "it is recorded as SubmittedJob and DeadLetter",
    "ErrorBody": "it is recorded as Error",
    "ScaleEvent": "it takes half a minute to come about",
    "Routing": "its fields stand in the bodies and headers of EngineRequest",
    "ContinueFrom": "it stands in or behind the body of EngineRequest, of an answer that broke off",
    **dict.fromkeys(("ControlCut", "Cut"), "it takes an answer that runs for many seconds"),
}
"""What has no record, and why."""
_SECRETS: Final = frozenset({"secret", "token", "claims", "ticket", "ca", "leave_secret", h.CANCEL_SECRET})
"""Fields and headers of which nothing but their form is kept."""
_HIDDEN_MOST: Final = 64


def _pattern(text: str) -> re.Pattern[str]:
    """Matches subjects that are `text` with one token in the place of each parameter."""
    return re.compile(r"[^.]+".join(map(re.escape, re.split(r"\{\w+\}", text))) + r"\Z")


_MEMBERS: Final = {
    union: {wire.structs()[name].__struct_config__.tag: name for name in names}
    for union, names in wire.unions().items()
}
"""Of each union: its Structs by their tags."""
_ADDRESSES: Final = [(_pattern(row.address), row) for row in SUBJECTS]
_KEYS: Final = [(_pattern(f"$KV.{row.bucket}.{row.key}"), row.value) for row in KEPT]


class Recorded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message as it came."""

    message: str
    """Which it is, by its name in the contract."""
    subject: str
    headers: dict[str, str] = {}
    payload: msgspec.Raw = msgspec.Raw(b'""')
    """The JSON that it was, or other text as a JSON string."""


class Ear:
    """Hears everything on an open bus, and knows what each message is.

    Args:
        bus: A connection that may listen everywhere.
    """

    def __init__(self, bus: Bus) -> None:
        self.heard: list[Recorded] = []
        self._asked: dict[str, Subject] = {}
        self._news: set[str] = set()
        for subject in _HEARD:
            bus.subscribe(subject, self._on_message)

    def _on_message(self, msg: Msg) -> None:
        headers = dict(msg.headers or {})
        for name, struct in _IN_HEADERS.items():
            if name in headers:
                headers[name] = bytes(_without_secrets(msgspec.Raw(headers[name].encode()))).decode()
                self.heard.append(Recorded(message=struct, subject=msg.subject, payload=msgspec.Raw(headers[name])))
        if h.CONTROL_INBOX in headers:
            self._news.add(headers[h.CONTROL_INBOX])
        kind, row = self._kind(msg.subject)
        if row is not None and msg.reply:  # whoever passes a request on to a node names its caller's inbox there again
            self._asked.setdefault(msg.reply, row)
        if kind is None or h.STATUS in headers or msg.subject.endswith(_OF_SERVER):
            return
        text = msg.data.decode(errors="replace")
        told = Recorded(
            message=name_of(kind, msg.subject, headers, text),
            subject=msg.subject,
            headers={name: _hidden(name, value) for name, value in headers.items()},
            payload=_without_secrets(_json_of(text)),
        )
        self.heard.append(told)

    def _kind(self, subject: str) -> tuple[str | None, Subject | None]:
        """What the subject table calls the body, and the row of one that may be answered."""
        if subject in self._news:
            return "RequestNews", None
        for key, value in _KEYS:
            if key.match(subject):
                return value or None, None
        for address, row in _ADDRESSES:
            if address.match(subject):
                return row.payload, row
        asked = self._asked.get(subject)
        return (None if asked is None else asked.reply or _STORED), None


def _json_of(text: str) -> msgspec.Raw:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return msgspec.Raw(encode(text))
    return msgspec.Raw(text)


def _without_secrets(payload: msgspec.Raw) -> msgspec.Raw:
    if not any(f'"{name}":'.encode() in bytes(payload) for name in _SECRETS):
        return payload
    return msgspec.Raw(encode(_hidden("", msgspec.json.decode(payload))))


def _hidden(name: str, value: Any) -> Any:  # noqa: ANN401 any JSON
    """The value of a field, with zeros for secrets in it."""
    match value:
        case dict():
            return {key: _hidden(key, inner) for key, inner in value.items()}
        case list():
            return [_hidden(name, inner) for inner in value]
        case str() if name in _SECRETS:
            return "0" * len(value[:_HIDDEN_MOST])
        case _:
            return value


def name_of(kind: str, subject: str, headers: dict[str, str], data: str) -> str:
    """The contract's name of a message, of which the subject table says `kind`."""
    is_reply = not subject.startswith("sollol.")
    if h.SERVICE_ERROR_CODE in headers:
        return "Error"
    if is_reply and kind in (ENGINE, "JobReply", "ControlReply") and not data:
        return "StreamEnd"
    match kind:
        case _ if not kind or not data:
            name = "Empty"
        case "engine":
            name = "EngineChunk" if is_reply else "ForwardedBody" if subject.endswith(".exec") else "EngineRequest"
        case "JobReply" if '"type":"job.reply.v1"' not in data:
            name = "AnswerPart"
        case "ControlReply" if '"type":"control.reply.v1"' not in data:
            name = "PullProgress"
        case "StartAnswer" if '"go":' not in data:  # to the report of an end, by JetStream
            name = _STORED
        case "Job" if ".letter." in subject:
            name = "DeadLetter"
        case "Job":
            name = "SubmittedJob" if '"body":' in data else "BareJob"
        case _ if kind in _MEMBERS:
            name = _MEMBERS[kind][msgspec.json.decode(data)["type"]]
        case _:
            name = kind
    return name


async def record(folder: Path) -> list[Recorded]:
    """Everything that is heard while a small fleet serves, fails, is steered and works on jobs; takes some seconds."""
    system = EmulatedSystem(folder, nodes=2, slots=1, decode_tps=200.0, gateway=GatewayConfig(port=0))
    ears: list[Ear] = []
    members = folder / "members"
    members.mkdir()
    async with system, asyncio.TaskGroup() as group:
        group.create_task(MembersFleet(members, lambda bus: ears.append(Ear(bus))).run())
        bus = await Bus.connect(system.stack.bus_config)
        try:
            ears.append(Ear(bus))
            await bus.flush()
            parts = (_ask, _give_up, _work, drain_in_the_middle, _steer, _keep, _grow, sleep_and_wake, _fail, _leave)
            for part in parts:
                await part(system)
            await bus.flush()
        finally:
            await bus.close()
    return [told for ear in ears for told in ear.heard]


async def _ask(system: EmulatedSystem) -> None:
    client = system.client
    said = [{"role": "user", "content": "count down from 3"}]
    await client.chat(MODEL, said, options={"num_predict": 5})
    answer = await client.generate(MODEL, "count down from 3")
    await client.embed("nomic-embed-text", ["one", "two"])
    await system.http.post(
        "/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    )
    with contextlib.suppress(SollolError):
        await client.generate("no-such-model", "hello")
    await client.route(MODEL, "hello")
    await client.nodes()
    await client.models()
    await client.stats()
    await client.reliability()
    await client.recent()
    await client.feedback(answer.request_id, score=0.75, latency_s=1.5)
    await client.why(answer.request_id)
    await ask_actor(client.bus, subjects.FEEDBACK_HISTORY, None, FeedbackHistory)
    decision = answer.decision
    assert decision is not None
    asked = StateQuestion(node_id=decision.node_id, attempt_id=decision.attempt_id)
    await client.bus.request(subjects.STATE, encode(asked))
    async with asyncio.TaskGroup() as group:  # more than there are slots: some wait, and one is given up
        calls = [client.call(subjects.GENERATE, _body(200)) for _ in range(4)]
        running = [group.create_task(_run(call)) for call in calls]
        await asyncio.sleep(0.7)  # until it is asked whether the dispatcher is still there
        running[-1].cancel()
        secret = {h.REQUEST_ID: "given-up", h.CANCEL_SECRET: "chosen by the caller"}
        client.bus.publish(subjects.GENERATE, _body(200), reply=client.bus.new_inbox(), headers=secret)
        given_up = CancelRequest(request_id="given-up", secret=secret[h.CANCEL_SECRET])
        await client.bus.request(subjects.CANCEL, encode(given_up))


async def _give_up(system: EmulatedSystem) -> None:
    """A stream that is left in its middle, and an answer that takes longer than a node may speak without asking."""
    async with system.client.call(subjects.GENERATE, _body(400)) as call:
        async for _ in call:
            break
    system.fault(FaultKind.HANG, path="/api/embed", duration_s=GO_S + 0.2)
    await system.client.embed("nomic-embed-text", ["late"])
    system.clear_faults()


def _body(number: int) -> bytes:
    return encode({"model": MODEL, "prompt": f"count down from {number}", "stream": True})


def _job(prompt: str, **fields: Any) -> Job:  # noqa: ANN401 whatever a job may have
    return make_job({"model": MODEL, "prompt": prompt}, **fields)


async def _run(call: Call) -> None:
    async with call:
        async for _ in call:
            pass


async def _work(system: EmulatedSystem) -> None:
    client, jobs = system.client, system.client.jobs
    bare = encode({"model": MODEL, "prompt": "count down from 3"})
    await client.bus.request(subjects.JOB_SUBMIT.of(5, "bare-1"), bare)
    first = await jobs.submit(_job("count down from 5", callback_subject="callbacks.told"))
    await jobs.wait(first, timeout_s=20)
    await jobs.submit_many([("many-1", _job("count down from 3"))], priority=2)
    await jobs.end("many-1", timeout_s=20)
    batches = Batches(jobs)
    await batches.tell(BatchTell(batch_id="many", total=2, submitted=2, begins=True, requests="two.jsonl"))
    await batches.latest()
    await batches.cancel("many")
    await jobs.get(first)
    later = await jobs.submit(_job("count down from 3"), delay_s=600)
    soon = await jobs.submit(_job("count down from 4"), delay_s=1)
    await jobs.cancel(later)
    await jobs.latest()
    await jobs.wait(soon, timeout_s=20)
    system.fault(FaultKind.ERROR_LINE, times=0)
    ill = await jobs.submit(msgspec.structs.replace(_job("count down from 6"), max_tries=1))
    await jobs.end(ill, timeout_s=20)
    system.clear_faults()
    await jobs.dead()
    await jobs.retry(ill)
    with contextlib.suppress(SollolError):
        await jobs.get("no-such-job")
    await jobs.purge()


async def _keep(system: EmulatedSystem) -> None:
    """What the gateway keeps of files, batches and keys, and has nodes do with their engines."""
    http, bus = system.http, system.client.bus
    digest = f"sha256:{hashlib.sha256(_FILE).hexdigest()}"
    await http.post(f"/api/blobs/{digest}", content=_FILE)
    await http.post("/api/show", json={"model": MODEL})
    line = {"custom_id": "r1", "method": "POST", "url": "/v1/completions", "body": {"model": MODEL, "prompt": "2"}}
    sent = await http.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", msgspec.json.encode(line))}
    )
    asked = {"input_file_id": sent.json()["id"], "endpoint": line["url"], "completion_window": "24h"}
    await http.post("/v1/batches", json=asked)
    await KeyStore(bus).create("scripts")
    await StandingStore(bus).change(named("alice", team="research", requests_per_minute=60.0))
    await ask_actor(bus, subjects.NODES, NodesRequest(), NodesReply)
    await ask_actor(bus, subjects.USAGE, UsageRequest(since_s=3600.0), UsageReply)
    await ask_actor(bus, subjects.ADMIN_ACTS, ActsRequest(), ActsReply)


async def _grow(system: EmulatedSystem) -> None:
    """A node that comes with a model that is asked for, and goes with it."""
    client, loaded = system.client, asyncio.Event()
    client.bus.subscribe(subjects.PRELOAD_EVENT.all, lambda _: loaded.set())
    await system.node("n3", engine={"preload": ("other",)})
    for _ in range(4):
        await client.generate("other", "count down from 2", node_id="n3")
    leaver = [actor for actor in system.stack.actors if actor.name == "node"][-1]
    await leaver.close()
    await eventually(loaded.is_set, complaint="another node loads the model")


async def _steer(system: EmulatedSystem) -> None:
    client = system.client
    await client.load("n1", "other")
    await client.unload("n1", "other")
    await client.set_node("n1", weight=2.0, labels={"room": "attic"})
    with contextlib.suppress(SollolError):  # the engine knows no such model
        async for _ in client.pull("n1", "pulled"):
            pass
    await client.strategy()
    await client.set_strategy("round_robin")
    await client.breakers()
    await client.reset_breakers()
    await client.forget_reliability(model="nothing")
    await client.set_group("both", {MODEL: 2.0, "other": 1.0}, candidate="other", share=0.2)
    await client.group("both")
    await client.reset_group("both")
    await client.close_model_breaker("other")
    await client.remove_group("both")


async def _fail(system: EmulatedSystem) -> None:
    client = system.client
    system.fault(FaultKind.OUT_OF_MEMORY, times=0)
    for _ in range(9):  # each tries two of three nodes
        with contextlib.suppress(SollolError):
            await client.generate(MODEL, "count down from 3")
    system.clear_faults()


async def _leave(system: EmulatedSystem) -> None:
    """A dispatcher with jobs that wait, and then the scorer."""
    await system.client.reset_breakers()
    before = len(system.began())
    for number in range(8):
        await system.client.jobs.submit(_job("count down from 300"), priority=number % 2 * 9)
    await eventually(lambda: len(system.began()) > before, complaint="a job runs")
    for name in ("dispatcher", "scorer"):
        for actor in system.stack.actors:
            if actor.name == name:
                await actor.close()


def main() -> int:
    """Writes one message of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        heard = asyncio.run(record(Path(folder)))
    first: dict[str, Recorded] = {}
    for told in heard:
        first.setdefault(told.message, told)
    FILE.parent.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode([first[name] for name in sorted(first)]), indent=2)
    FILE.write_bytes(text + b"\n")
    print(f"{len(heard)} messages of {len(first)} kinds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
