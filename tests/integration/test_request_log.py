"""What the whole system logs about requests: their ids, and neither their text nor anybody's secrets."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import msgspec
import pytest

from sollol_agents.cli.log_lines import JsonLines
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.node.config import NodeConfig
from sollol_agents.stack import LocalStack
from sollol_bus.errors import SollolError
from sollol_bus.observe import request_log

MODEL = "llama3.2:3b"
EMULATED = EmulatorConfig(preset="instant", model=(MODEL,), preload=(MODEL,))
PROMPT = "canary-in-the-prompt"
KEY = "canary-in-the-key"


async def logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """All lines about a request that succeeds, one that fails, and one over HTTP with a key."""
    caplog.set_level(logging.DEBUG)
    async with EmulatedNode(EMULATED) as engine:
        node = NodeConfig(node_id="attic", engine="ollama", url=engine.url)
        stack = LocalStack(store_dir=tmp_path, nodes=(node,), gateway=GatewayConfig(port=0))
        async with stack, stack.client() as client, httpx.AsyncClient(base_url=stack.http_url) as http:
            await client.generate(MODEL, PROMPT)
            with pytest.raises(SollolError):
                await client.generate("no-such-model", PROMPT)
            reply = await http.post(
                "/v1/chat/completions",
                json={"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]},
                headers={"Authorization": f"Bearer {KEY}", "X-Sollol-Request-Id": "over-http"},
            )
            assert reply.status_code == 200
    own = [record for record in caplog.records if record.name.startswith("sollol")]
    return [msgspec.json.decode(JsonLines().format(record)) for record in own]


async def test_every_request_has_one_line_per_decision_and_outcome_and_none_with_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = await logged(tmp_path, caplog)
    decided = [line for line in lines if line.get("action") == "decision"]
    ended = [line for line in lines if line.get("action") == "outcome"]
    assert [line["request_id"] for line in decided if line["request_id"] == "over-http"] == ["over-http"]
    assert len(decided) == 2
    assert sorted(str(line["status"]) for line in ended) == ["client_error", "success", "success"]
    assert {line["request_id"] for line in decided} <= {line["request_id"] for line in ended}
    text = msgspec.json.encode(lines).decode()
    assert PROMPT not in text
    assert KEY not in text


async def test_the_text_appears_with_its_request_when_it_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request_log.set_up(requests=True, prompts=True)
    try:
        lines = await logged(tmp_path, caplog)
    finally:
        request_log.set_up(requests=True, prompts=False)
    shown = [line for line in lines if line.get("action") == "prompt"]
    assert len(shown) == 3
    assert all(PROMPT in str(line["message"]) for line in shown)
    assert "over-http" in {line["request_id"] for line in shown}
