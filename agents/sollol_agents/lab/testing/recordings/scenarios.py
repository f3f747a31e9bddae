"""Plays scenarios: requests that depend on each other, on a server started for them.

Judged are statuses, answers, the runners that were started, the order of those who did not come at the same time,
and the rows of /api/ps; not milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import msgspec

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.emulator.config import ollama_settings
from sollol_agents.lab.testing.recordings.exchange import Reply, exchange
from sollol_agents.lab.testing.recordings.form import Ask, Scenario, ScenarioStep, Sent
from sollol_agents.lab.testing.recordings.playing import TALKERS, Outcome, ps_rows, row_differences

Json = Any

_WITHIN_S: Final = 30.0
_PS: Final = Ask("GET", "/api/ps").raw()
_APART_S: Final = 0.1  # those who come closer together come in any order
_LOADED_MS: Final = 150.0
_NOT_LOADED_MS: Final = 50.0
_SHOWN_CHARACTERS: Final = 80
_COMPARED: Final = ("done_reason", "prompt_eval_count", "eval_count", "usage", "error")
_SPOKEN: Final = frozenset({"eval_count", "done_reason", "response", "content"})


class Server(Protocol):
    """A server that a scenario runs on."""

    url: str

    def starts(self) -> Sequence[dict[str, Json]]:
        """Returns how its runners were started, in order."""

    def strike(self, event: str) -> None:
        """Does to it what a scenario says: `signal 9 to 1 runner(s)`, `SIGKILL to ollama serve`."""


Starting = Callable[[dict[str, str]], AbstractAsyncContextManager[Server]]
"""Starts a server with such an environment."""


class EmulatedServer:
    """An emulated node in this process."""

    def __init__(self, node: EmulatedNode) -> None:
        self.url = node.url
        self._node = node

    def starts(self) -> Sequence[dict[str, Json]]:
        """Returns how its runners were started, in order."""
        found: list[dict[str, Json]] = self._node.state()["last_starts"]
        return found

    def strike(self, event: str) -> None:
        """Sets the fault that an event stands for."""
        kind = FaultKind.KILL_RUNNERS if "runner" in event else FaultKind.REFUSE
        self._node.inject(Fault(kind=kind))


@asynccontextmanager
async def emulated_server(env: dict[str, str]) -> AsyncIterator[Server]:
    """Starts an emulated node on which the recordings can be played."""
    config = msgspec.convert({"preset": "recorded"} | ollama_settings(env), EmulatorConfig)
    async with EmulatedNode(config) as node:
        yield EmulatedServer(node)


async def play_scenario(scenario: Scenario, start: Starting) -> Outcome:
    """Plays one scenario on a server of its own; returns where it differs."""
    found: list[str] = []
    async with start(scenario.env) as server:
        for place, step in enumerate(scenario.steps):
            before = len(server.starts())
            differences = [one async for one in _play_step(step, server)]
            differences += _start_differences(step, server.starts()[before:])
            found += (f"step {place}: {one}" for one in differences)
    return Outcome(name=scenario.name, group=scenario.group, differences=tuple(found))


async def _play_step(step: ScenarioStep, server: Server) -> AsyncIterator[str]:
    if step.wait_s is not None:
        await asyncio.sleep(step.wait_s)
    rows: dict[str, dict[str, Json]] | None = None
    if step.request is not None:
        reply = await exchange(server.url, step.request.raw(), within_s=_WITHIN_S)
        for one in _answer_differences(step.request, step.answer or {}, reply):
            yield one
        rows = ps_rows(bytes(reply.body)) if step.request.path == "/api/ps" else None
    if step.concurrent:
        replies = await _play_together(step, server)
        for sent, reply in zip(step.concurrent, replies, strict=True):
            if sent.answer is not None:
                for one in _answer_differences(sent.request, sent.answer, reply):
                    yield f"{sent.label}: {one}"
        for one in _order_differences(step.concurrent, replies):
            yield one
    expected = step.ps_after if step.ps is None else step.ps
    if expected is not None:
        if rows is None:
            rows = ps_rows(bytes((await exchange(server.url, _PS, within_s=_WITHIN_S)).body))
        for one in _ps_differences(expected, rows):
            yield one


async def _play_together(step: ScenarioStep, server: Server) -> list[Reply]:
    """Sends each request at its time, and strikes when it was struck."""
    events = [(one["at_s"], one["event"]) for one in step.seen if "event" in one]

    async def send(sent: Sent) -> Reply:
        await asyncio.sleep(sent.sent_s)
        within_s = _WITHIN_S if sent.client_closed_s is None else sent.client_closed_s - sent.sent_s
        return await exchange(server.url, sent.request.raw(), within_s=within_s)

    async def strike(at_s: float, event: str) -> None:
        await asyncio.sleep(at_s)
        server.strike(event)

    async with asyncio.TaskGroup() as group:
        for at_s, event in events:
            group.create_task(strike(at_s, event))
        tasks = [group.create_task(send(sent)) for sent in step.concurrent]
    return [task.result() for task in tasks]


def _start_differences(step: ScenarioStep, started: Sequence[dict[str, Json]]) -> Iterator[str]:
    if step.loads is None:
        return
    if len(started) != step.loads:
        yield f"{len(started)} loads for {step.loads}: {started}"
        return
    for wanted, found in zip(step.runner_started_with, started, strict=False):
        for key, value in wanted.items():
            if found.get(key, False) != value:
                yield f"runner started with {key} {found.get(key)} for {value}"


def _answer_differences(request: Ask, expected: dict[str, Json], reply: Reply) -> Iterator[str]:
    if not expected:
        return
    if reply.status != expected.get("status"):
        yield f"status {reply.status} for {expected.get('status')}: {bytes(reply.body[:200])!r}"
        return
    if expected.get("no_final_chunk") is True and reply.is_whole:
        yield "the body ends as though it were whole"
    last, found = _last_of(reply)
    is_talk = any(name.partition(":")[0] in TALKERS for name in request.models())
    for key in _COMPARED:
        if key in expected and not (is_talk and key in _SPOKEN) and expected[key] != found.get(key):
            yield f"{key} {found.get(key)!r} for {expected[key]!r}"
    for key, text in (("response", found.get("response")), ("content", found.get("message", {}).get("content"))):
        if key in expected and not is_talk and (text or "")[:_SHOWN_CHARACTERS] != expected[key][:_SHOWN_CHARACTERS]:
            yield f"{key} {text!r} for {expected[key]!r}"
    yield from _last_differences(expected, last)
    yield from _load_differences(expected, found)


def _last_differences(expected: dict[str, Json], last: list[dict[str, Json]]) -> Iterator[str]:
    """Yields how the end of a stream differs: its last line, or the kind of its last event."""
    line = expected.get("last_line", {})
    for key, value in line.items():
        if not last or last[-1].get(key) != value:
            yield f"last line: {last[-1:]} for {line}"
            return
    if not expected.get("last_events"):
        return
    wanted = expected["last_events"][-1]["data"]
    found = last[-1] if last else {}
    for key in ("type", "model"):
        if wanted.get(key) != found.get(key):
            yield f"last event: {key} {found.get(key)!r} for {wanted.get(key)!r}"
    if wanted.get("choices") != found.get("choices"):
        yield f"last event: {found.get('choices')!r} for {wanted.get('choices')!r}"


def _load_differences(expected: dict[str, Json], found: dict[str, Json]) -> Iterator[str]:
    """Yields whether a wait for a load is told, and a wait for a slot is not."""
    if "load_ms" not in expected or "load_duration" not in found:
        return
    load_ms = found["load_duration"] / 1e6
    if expected["load_ms"] >= _LOADED_MS and load_ms < expected["load_ms"] / 3:
        yield f"load_duration of {load_ms:.0f} ms for {expected['load_ms']}"
    if expected["load_ms"] < _NOT_LOADED_MS and load_ms > 2 * _LOADED_MS:
        yield f"load_duration of {load_ms:.0f} ms for {expected['load_ms']}"


def _last_of(reply: Reply) -> tuple[list[dict[str, Json]], dict[str, Json]]:
    """Returns the messages of a stream, and the one document or message that carries the figures."""
    kind = reply.headers.get("content-type", "")
    messages: list[dict[str, Json]] = []
    for line in bytes(reply.body).splitlines():
        text = line.removeprefix(b"data: ")
        if text.startswith(b"{"):
            try:
                messages.append(msgspec.json.decode(text))
            except msgspec.DecodeError:
                break
    if kind.startswith("application/json"):
        return messages, messages[0] if messages else {}
    return messages, messages[-1] if messages else {}


def _order_differences(sent: Sequence[Sent], replies: Sequence[Reply]) -> Iterator[str]:
    """Yields pairs that began or ended in another order, among those who were sent apart and were apart in time."""
    for one, (first, first_reply) in enumerate(zip(sent, replies, strict=True)):
        for second, second_reply in list(zip(sent, replies, strict=True))[one + 1 :]:
            if abs(first.sent_s - second.sent_s) < _APART_S or first.answer is None or second.answer is None:
                continue
            for what, a, b, x, y in (
                (
                    "begins",
                    first.first_byte_s,
                    second.first_byte_s,
                    first_reply.first_byte_s,
                    second_reply.first_byte_s,
                ),
                ("ends", first.end_s, second.end_s, first_reply.end_s, second_reply.end_s),
            ):
                if a is None or b is None or x is None or y is None or abs(a - b) < _APART_S:
                    continue
                if (a < b) is not (first.sent_s + x < second.sent_s + y):
                    yield f"{first.label} {what} {'after' if a < b else 'before'} {second.label}"


def _ps_differences(expected: Sequence[dict[str, Json]], rows: dict[str, dict[str, Json]]) -> Iterator[str]:
    wanted = {row["name"]: row for row in expected}
    for name in sorted(wanted.keys() | rows.keys()):
        yield from row_differences(name, wanted.get(name), rows.get(name))
