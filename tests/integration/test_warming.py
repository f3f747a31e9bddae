"""A prompt's beginning is computed before anybody waits for it; engines are emulated, with caches of prompts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus import BadRequest
from sollol_bus.sdk.client import Client

SYSTEM = "You are the keeper of this house, and answer in one word. " * 120


async def _goes_to(client: Client, request_id: str) -> dict[str, int]:
    """Tokens of the prompt that each candidate had, by node."""
    told = await client.why(request_id)
    return {cost.node_id: cost.prefix_hit_tokens for cost in told.decisions[0].candidates}


async def test_requests_that_begin_so_find_it_where_it_was_computed(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2, engine={"prefill_tps": 2000.0}) as here:
        client = here.client
        first = [one async for one in client.warm(MODEL, SYSTEM, nodes=["n2"])]
        assert [(one.node, one.error) for one in first] == [("n2", None)]
        assert first[0].prompt_tokens > 500
        assert first[0].actual_s > 0
        await eventually(lambda: len(here.outcomes) == 1, complaint="the scorer has heard of it")
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Are you there?"}]
        answer = await client.chat(MODEL, messages, max_tokens=2)
        assert answer.decision is not None
        assert answer.decision.node_id == "n2"
        assert (await _goes_to(client, answer.request_id))["n2"] > 500

        both = [one async for one in client.warm(MODEL, SYSTEM, count=2)]
        assert {one.node for one in both} == {"n1", "n2"}
        await eventually(lambda: len(here.outcomes) == 4, complaint="the scorer has heard of these too")
        answer = await client.chat(MODEL, messages, max_tokens=2)
        assert min((await _goes_to(client, answer.request_id)).values()) > 500

        some = [one async for one in client.warm(MODEL, SYSTEM, nodes=[here.engines["n1"].url, "attic"])]
        assert {one.node: one.error is None for one in some} == {"n1": True, "attic": False}
        with pytest.raises(BadRequest, match="less than 256 bytes"):
            [one async for one in client.warm(MODEL, "short")]


async def _run(*words: str) -> tuple[int | None, str, str]:
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sollol_agents.cli", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await made.communicate()
    return made.returncode, out.decode(), err.decode()


async def test_the_command_says_what_it_cost_and_where_the_beginning_lies(tmp_path: Path) -> None:
    file = tmp_path / "system.txt"
    file.write_text(SYSTEM)
    async with EmulatedSystem(tmp_path) as here:
        at = ("--nats", here.stack.nats_url)
        code, out, err = await _run("warm", MODEL, "--system", str(file), *at)
        assert (code, "n1" in out, "tokens in" in err) == (0, True, True)
        code, out, _ = await _run("warm", MODEL, "--system", str(file), "--node", "attic", "--json", *at)
        assert (code, "no node is known as 'attic'" in out) == (1, True)
        code, _, err = await _run("warm", MODEL, "--system", str(tmp_path / "none"), *at)
        assert (code, "No such file" in err) == (2, True)
