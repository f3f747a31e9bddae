"""Plain NATS callers whose answers break off: a dispatcher goes on for them, or they do so themselves."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import NoEligibleNode
from sollol_bus.sdk.results import decision_of, figures_of
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.continuation import Cut, CutReason
from sollol_schemas.execution import Figures
from sollol_schemas.queries import WhyReply
from sollol_schemas.routing import routing_header

PAGE = Path(__file__).parents[2] / "docs" / "bus.md"
ASKED = {"model": MODEL, "prompt": "count down from 60", "stream": True, "options": {"temperature": 0}}
TOLD = {"model": MODEL, "messages": [{"role": "user", "content": "count down from 60"}], "stream": True}


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[EmulatedSystem]:
    async with EmulatedSystem(tmp_path, nodes=2, decode_tps=400.0) as running:
        yield running


async def heard(
    system: EmulatedSystem, body: dict[str, Any], subject: str = subjects.GENERATE, **headers: str
) -> tuple[list[Msg], Figures | None]:
    """What a plain caller hears, and the figures of its last message."""
    async with ReplyStream(system.client.bus, total_s=20.0) as stream:
        stream.send(subject, encode(body), headers or None)
        messages = [msg async for msg in stream]
        return messages, figures_of(stream.last)


async def outcomes_of(system: EmulatedSystem, request_id: str, count: int) -> WhyReply:
    """What is recorded of a request once so many of its attempts are."""
    found: list[WhyReply] = []

    async def is_recorded() -> bool:
        found.append(await system.client.why(request_id))
        return len(found[-1].outcomes) == count

    await eventually(is_recorded)
    return found[-1]


def breaks_once(system: EmulatedSystem, path: str) -> dict[str, str]:
    """The answer breaks off after 20 tokens on the node that is wished for."""
    system.engines["n1"].inject(Fault(kind=FaultKind.RESET, path=path, after_tokens=20))
    return {routing_header("node_id"): "n1"}


def text_of(messages: list[Msg]) -> str:
    return "".join(json.loads(msg.data)["response"] for msg in messages)


async def test_a_dispatcher_goes_on_for_a_caller_that_only_listens(system: EmulatedSystem) -> None:
    undisturbed, figures = await heard(system, ASKED)
    messages, told = await heard(
        system, ASKED | {"resume": True}, **breaks_once(system, "/api/generate"), **{h.REQUEST_ID: "r"}
    )
    assert text_of(messages) == text_of(undisturbed)
    assert figures is not None
    assert told is not None
    assert (told.resumed, told.output_tokens, told.prompt_tokens) == (1, figures.output_tokens, figures.prompt_tokens)
    last, whole = (json.loads(one[-1].data) for one in (messages, undisturbed))
    assert all(last[name] == whole[name] for name in ("done", "done_reason", "eval_count", "prompt_eval_count"))
    why = await outcomes_of(system, "r", 2)
    first, second = why.outcomes
    assert (first.decision.attempt, second.decision.attempt) == (1, 11)
    assert first.code is not None
    assert second.code is None
    assert why.decisions[1].decision.continued_tokens > 0
    (row,) = (await system.client.usage()).entries
    assert figures.prompt_tokens is not None
    assert figures.output_tokens is not None
    assert (row.requests, row.failed) == (2, 0)
    assert (row.prompt_tokens, row.output_tokens) == (2 * figures.prompt_tokens, 2 * figures.output_tokens)


async def test_why_tells_how_an_answer_was_moved(system: EmulatedSystem) -> None:
    await heard(system, ASKED, **{h.REQUEST_ID: "r"})
    cut = Cut(request_id="r", attempt_id="r-1", node_id="n1", reason=CutReason.REBALANCE, text="n2 is free now")
    system.client.bus.publish(subjects.CUT_EVENT.of("n1"), encode(cut))

    async def is_told() -> bool:
        return [one.text for one in (await system.client.why("r")).cuts] == [cut.text]

    await eventually(is_told)


async def test_a_dispatcher_goes_on_in_other_dialects_too(system: EmulatedSystem) -> None:
    def told(messages: list[Msg]) -> tuple[str, set[str]]:
        events = b"".join(msg.data for msg in messages).decode().split("\n\n")
        chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
        assert events[-2] == "data: [DONE]"
        return text, {chunk["id"] for chunk in chunks}

    path = {h.PATH: "/v1/chat/completions"}
    undisturbed, _ = await heard(system, TOLD, subjects.PASSTHROUGH, **path)
    wish = breaks_once(system, path[h.PATH])
    messages, figures = await heard(system, TOLD, subjects.PASSTHROUGH, **path, **wish, **{h.RESUME: "dispatcher"})
    assert figures is not None
    assert figures.resumed == 1
    assert told(messages)[0] == told(undisturbed)[0]
    assert len(told(messages)[1]) == 1, "it is one answer, with one id"


async def test_a_caller_goes_on_by_itself_with_what_it_heard(system: EmulatedSystem) -> None:
    undisturbed, _ = await heard(system, ASKED)
    begun = undisturbed[:25]
    decision = decision_of(begun[0])
    assert decision is not None
    said = {"text": text_of(begun), "pieces": len(begun), "fingerprint": decision.fingerprint}
    rest, figures = await heard(system, ASKED | {"continue_from": said})
    assert text_of(begun) + text_of(rest) == text_of(undisturbed)
    assert figures is not None
    assert figures.continued_tokens == len(begun)
    assert json.loads(rest[-1].data)["eval_count"] == json.loads(undisturbed[-1].data)["eval_count"]


async def test_what_another_model_began_no_node_goes_on_with(system: EmulatedSystem) -> None:
    said = {"text": " 59", "pieces": 1, "fingerprint": "ollama:000000000000"}
    with pytest.raises(NoEligibleNode, match="cannot go on with the answer on 2: n1"):
        await heard(system, ASKED | {"continue_from": said})


@pytest.mark.skipif(not PAGE.is_file(), reason="the documents are in the checkout only")
async def test_the_guides_own_caller_hears_a_whole_answer_although_it_breaks_off(system: EmulatedSystem) -> None:
    undisturbed, _ = await heard(system, ASKED)
    samples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    code = next(one for one in samples if "continue_from" in one)
    told = {
        "nats://127.0.0.1:4222": system.stack.nats_url,
        "llama3.2": MODEL,
        "Write a long story": ASKED["prompt"],
        '"stream": True': '"stream": True, "node_id": "n1", "options": {"temperature": 0}',
    }
    for text, here in told.items():
        assert text in code
        code = code.replace(text, str(here))
    breaks_once(system, "/api/generate")
    caller = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await asyncio.wait_for(caller.communicate(), 20)
    finally:
        if caller.returncode is None:
            caller.kill()
    assert out.decode().rstrip("\n") == text_of(undisturbed).rstrip("\n")
    await eventually(lambda: any(outcome.decision.continued_tokens for outcome in system.outcomes))
