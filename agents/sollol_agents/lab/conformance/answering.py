"""Rules: what a node takes, and how it answers."""

from __future__ import annotations

from typing import Any

import msgspec

from sollol_agents.lab.conformance.findings import BrokenRule, NotTried
from sollol_agents.lab.conformance.fleet import PlayedFleet, told_of
from sollol_agents.lab.conformance.rule import Rule
from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.messages import decode
from sollol_schemas import headers as h
from sollol_schemas.context import RequestKind
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import AttemptDone, AttemptFailed, AttemptFirstToken, Figures
from sollol_schemas.inboxes import is_node_inbox

_PART_MAX = 1 << 20
_MANY_TEXTS = 1500
_SLOTS_MAX = 64
_NO_CALLERS = ("_INBOX_node.other.x", "_INBOX_ctl.x", "_INBOX_new.x", "_INBOX.*.x", "sollol.v1.claim.other")


async def _accepts(fleet: PlayedFleet) -> None:
    attempt = await fleet.whole_stream()
    if not attempt.accepted:
        raise BrokenRule(f"no question `attempt.accepted.v1`: {attempt.how}")
    reply = attempt.accepted[0].reply
    if not is_node_inbox(reply, fleet.node_id):
        raise BrokenRule(f"the question's reply subject {reply!r} is not below _INBOX_node.{fleet.node_id}.")


async def _ignores_others(fleet: PlayedFleet) -> None:
    attempt = fleet.chat(instance="another")
    await fleet.quiet()
    if attempt.reports or attempt.heard:
        raise BrokenRule(f"an exec for another instance was taken: {attempt.how}")


async def _ignores_unknown(fleet: PlayedFleet) -> None:
    broken = fleet.chat(is_sent=False)
    fleet.exec(broken, {h.EXEC: "{", h.REPLY_TO: broken.reply_to})
    attempt = fleet.chat(is_sent=False)
    told = msgspec.json.decode(told_of(attempt))
    told["colour"] = {"of": "money"}
    told["decision"]["taste"] = 3
    envelope = {h.EXEC: msgspec.json.encode(told).decode(), h.REPLY_TO: attempt.reply_to, "Sollol-Colour": "red"}
    fleet.exec(attempt, envelope)
    await fleet.must(
        lambda: any(isinstance(one, AttemptDone) for one in attempt.ends),
        lambda: f"an exec with unknown fields, behind one that cannot be read, was not served: {attempt.how}",
    )


async def _begins(fleet: PlayedFleet) -> None:
    attempt = await fleet.whole_stream()
    if not attempt.heard:
        raise BrokenRule(f"no chunk came: {attempt.how}")
    try:
        told = decode(attempt.header(0, h.DECISION).encode(), Decision)
    except DecodeFailed as error:
        raise BrokenRule(f"the first message has no readable {h.DECISION}: {error}") from error
    if told.attempt_id != attempt.attempt_id:
        raise BrokenRule(f"{h.DECISION} is of {told.attempt_id}")
    for msg in attempt.heard:
        if msg.data and (not msg.data.startswith(b"{") or b"\n" in msg.data):
            raise BrokenRule(f"a chunk is not one JSON object without a line end: {msg.data[:60]!r}")


async def _ends(fleet: PlayedFleet) -> None:
    attempt = await fleet.whole_stream()
    places = [place for place, msg in enumerate(attempt.heard) if not msg.data]
    if len(places) != 1 or places[0] != len(attempt.heard) - 1:
        raise BrokenRule(f"{len(places)} empty messages among {len(attempt.heard)}, one should be the last")
    chunks = attempt.header(-1, h.CHUNKS)
    if chunks != str(places[0]):
        raise BrokenRule(f"{h.CHUNKS} says {chunks!r}, {places[0]} came before it")
    _figures_in(attempt.header(-1, h.FIGURES))


def _figures_in(text: str) -> None:
    try:
        decode(text.encode(), Figures)
    except DecodeFailed as error:
        raise BrokenRule(f"no readable {h.FIGURES} on the last message: {error}") from error


async def _reports(fleet: PlayedFleet) -> None:
    attempt = await fleet.whole_stream()
    if fleet.bad_reports:
        raise BrokenRule(fleet.bad_reports[0])
    kinds = [type(one) for one in attempt.reports]
    if AttemptFirstToken not in kinds and not attempt.came_at_once:
        raise BrokenRule(f"no `attempt.first_token.v1`: {attempt.how}")
    if kinds[-1] is not AttemptDone or kinds.count(AttemptDone) != 1:
        raise BrokenRule(f"not one `attempt.done.v1` at the end: {attempt.how}")


async def _speaks_ollama(fleet: PlayedFleet) -> None:
    attempt = await fleet.whole_stream()
    chunks = [_object_in(msg.data) for msg in attempt.heard if msg.data]
    if not any(chunk.get("message", {}).get("content") for chunk in chunks):
        raise BrokenRule("no chunk of a chat has a text in `message.content`")
    if [chunk.get("done") for chunk in chunks[-1:]] != [True] or any(chunk.get("done") for chunk in chunks[:-1]):
        raise BrokenRule("the last chunk, and it alone, should have `done`")


def _object_in(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BrokenRule(f"not a JSON object: {data[:60]!r}") from error


async def _knows_defaults(fleet: PlayedFleet) -> None:
    attempt = fleet.send(RequestKind.GENERATE, {"model": fleet.model, "prompt": "Count down from 5"}, stream=False)
    await fleet.must(
        lambda: attempt.is_over, lambda: f"an exec without `kind` and `stream` was not served: {attempt.how}"
    )
    told = _object_in(attempt.heard[0].data) if attempt.heard else {}
    if not told.get("response"):
        raise BrokenRule(f"without `kind` and `stream`, one reply with a text in `response` is meant: {attempt.how}")


async def _replies_once(fleet: PlayedFleet) -> None:
    attempt = fleet.chat(stream=False)
    await fleet.must(lambda: attempt.is_over and attempt.heard, lambda: f"no reply: {attempt.how}")
    await fleet.quiet()
    if len(attempt.heard) != 1:
        raise BrokenRule(f"{len(attempt.heard)} messages came where one reply was asked for")
    if not attempt.header(0, h.DECISION):
        raise BrokenRule(f"the reply has no {h.DECISION}")
    _figures_in(attempt.header(0, h.FIGURES))


async def _runs_once(fleet: PlayedFleet) -> None:
    attempt = fleet.chat()
    fleet.exec(attempt, attempt.headers())
    await fleet.must(lambda: attempt.is_over and attempt.has_end, lambda: f"it did not end: {attempt.how}")
    fleet.exec(attempt, attempt.headers())
    await fleet.quiet()
    if len(attempt.accepted) != 1 or len(attempt.ends) != 1:
        raise BrokenRule(f"the same attempt ran {len(attempt.accepted)} times, ended {len(attempt.ends)} times")


async def _is_busy(fleet: PlayedFleet) -> None:
    slots = fleet.state.slots
    if not 0 < slots <= _SLOTS_MAX:
        raise NotTried(f"it has {slots} slots, which cannot be filled here")
    running = [fleet.long() for _ in range(slots)]
    await fleet.must(
        lambda: all(one.accepted for one in running), lambda: f"it does not fill its {slots} slots: {running[-1].how}"
    )
    surplus = fleet.chat()
    await fleet.until(lambda: surplus.reports)
    if any(one.is_over for one in running):
        raise NotTried("its answers are too short for all slots to be taken at a time")
    if surplus.code is not ErrorCode.BUSY or surplus.accepted:
        raise BrokenRule(f"with {slots} of {slots} slots taken it did not refuse with `busy`: {surplus.how}")
    await fleet.quiet()
    if surplus.heard or surplus.outcomes:
        raise BrokenRule("a refusal is for the dispatcher alone, and has no outcome")


async def _refuses_stale_terms(fleet: PlayedFleet) -> None:
    fleet.term += 1
    current = fleet.chat()
    await fleet.must(lambda: current.is_over, lambda: f"it did not end: {current.how}")
    old = fleet.chat(term=fleet.term - 1)
    await fleet.until(lambda: old.is_over)
    if old.code is not ErrorCode.STALE_TERM:
        raise BrokenRule(f"after term {fleet.term} one of term {fleet.term - 1} was not refused: {old.how}")


async def _speaks_to_callers_alone(fleet: PlayedFleet) -> None:
    attempts = [fleet.chat(reply_to=inbox) for inbox in _NO_CALLERS]
    await fleet.until(lambda: all(one.is_over or one.heard for one in attempts))
    for one in attempts:
        if one.heard or one.code is not ErrorCode.FORBIDDEN:
            raise BrokenRule(f"{one.reply_to!r} for a caller was not refused with `forbidden`: {one.how}")


async def _closes_paths(fleet: PlayedFleet) -> None:
    body = {"model": "a-model-that-is-not-there:1b"}
    attempt = fleet.send(RequestKind.PASSTHROUGH, body, stream=False, path="/api/delete")
    await fleet.must(lambda: attempt.is_over, lambda: f"`/api/delete` was not refused: {attempt.how}")
    if attempt.accepted or attempt.heard or attempt.code is not ErrorCode.FORBIDDEN:
        raise BrokenRule(f"`/api/delete` was not refused with `forbidden`: {attempt.how}")


async def _passes_through(fleet: PlayedFleet) -> None:
    body = {"model": fleet.model, "messages": [{"role": "user", "content": "Count down from 5"}]}
    attempt = fleet.send(RequestKind.PASSTHROUGH, body, stream=False, path="/v1/chat/completions")
    await fleet.must(lambda: attempt.is_over, lambda: f"neither answered nor refused: {attempt.how}")
    if isinstance(attempt.ends[0], AttemptFailed):
        if attempt.heard:
            raise BrokenRule(f"it failed, and spoke: {attempt.how}")
    elif not attempt.heard or not attempt.header(0, h.CONTENT_TYPE) or not attempt.header(0, h.DECISION):
        raise BrokenRule(f"its answer has not both {h.DECISION} and {h.CONTENT_TYPE}")


async def _cuts_chunks(fleet: PlayedFleet) -> None:
    embedders = [one.name for one in fleet.state.installed if "embedding" in one.capabilities]
    if not embedders:
        raise NotTried("it has no model with the capability `embedding`, whose answers are large")
    body = {"model": embedders[0], "input": ["text"] * _MANY_TEXTS}
    attempt = fleet.send(RequestKind.EMBED, body)
    await fleet.must(lambda: attempt.is_over and attempt.heard, lambda: f"no vectors: {attempt.how}")
    await fleet.until(lambda: attempt.has_end)
    data = attempt.heard[:-1]
    if sum(len(msg.data) for msg in data) <= _PART_MAX:
        raise NotTried("the largest answer that it gives fits into one message")
    if any(len(msg.data) > _PART_MAX for msg in data):
        raise BrokenRule(f"a message of {max(len(msg.data) for msg in data)} bytes came in one")
    parts = [(msg.headers or {}).get(h.PART, "") for msg in data]
    if parts != [f"{number}/{len(data)}" for number in range(1, len(data) + 1)]:
        raise BrokenRule(f"{h.PART} of the parts: {', '.join(parts)[:80]}")


RULES = (
    Rule("exec.accepted", "It asks with `accepted`, with a reply subject in an inbox of its own.", _accepts),
    Rule("stream.begin", "The first message has the decision; each chunk is one JSON object.", _begins),
    Rule("stream.end", "An empty message ends a stream, with the number of messages and the figures.", _ends),
    Rule("stream.reports", "It reports the first token and the end.", _reports),
    Rule("answer.form", "Answers are in Ollama's form, and the last chunk alone has `done`.", _speaks_ollama),
    Rule("reply.single", "Who asks for no stream gets one reply, and nothing behind it.", _replies_once),
    Rule("exec.instance", "It ignores an exec for another instance.", _ignores_others),
    Rule("exec.unknown", "It ignores unknown fields and headers, and what cannot be read.", _ignores_unknown),
    Rule("exec.defaults", "It takes a field that is absent for its default.", _knows_defaults),
    Rule("exec.twice", "It runs an attempt once, however often the exec comes.", _runs_once),
    Rule("refuse.busy", "It refuses with `busy` when its slots are taken.", _is_busy),
    Rule("refuse.stale", "It refuses decisions of a term that is over.", _refuses_stale_terms),
    Rule("refuse.inbox", "It speaks into inboxes of callers alone.", _speaks_to_callers_alone),
    Rule("refuse.path", "It refuses a path that changes the engine.", _closes_paths),
    Rule("passthrough", "It answers any other path with a content type, or refuses it in silence.", _passes_through),
    Rule("stream.parts", "A chunk above 1 MiB comes in parts.", _cuts_chunks),
)
