"""Bodies as well-known clients of Ollama send them, on engines without its API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol_agents.node.engines.translation.bodies import fields_of
from sollol_agents.node.engines.translation.chat import translate
from sollol_agents.node.engines.translation.embeddings import embed_request
from sollol_agents.node.engines.translation.options import Flavour
from sollol_schemas.context import RequestKind

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
EVERY_OPTION = {
    "num_keep": 5,
    "seed": 42,
    "num_predict": 100,
    "top_p": 0.9,
    "stop": ["\n"],
    "temperature": 0.8,
    "presence_penalty": 1.5,
    "frequency_penalty": 1.0,
    "penalize_newline": True,
    "numa": False,
    "num_ctx": 1024,
    "num_batch": 2,
    "num_gpu": 1,
    "main_gpu": 0,
    "use_mmap": True,
    "use_mlock": False,
    "low_vram": False,
    "vocab_only": False,
    "f16_kv": True,
    "num_thread": 8,
}
CHATS: dict[str, dict[str, Any]] = {
    "LlamaIndex": {"options": {"temperature": 0.75, "num_ctx": 131_072}, "stream": True, "keep_alive": "5m"},
    "Home Assistant": {"options": {"num_ctx": 8192}, "keep_alive": "-1s", "think": False, "tools": [TOOL]},
    "Home Assistant, for ever": {"options": {"num_ctx": 8192}, "keep_alive": -1, "think": False},
    "Cline": {"options": {"num_ctx": 32_768}, "stream": True},
    "Vercel's provider": {"tools": [TOOL], "tool_choice": {"type": "auto"}, "temperature": 0.2, "max_tokens": 50},
    "LangChain JS": {"options": EVERY_OPTION, "keep_alive": "5m", "format": ""},
    "n8n": {"options": {"use_mmap": True, "low_vram": False, "num_batch": 512, "vocab_only": False}, "think": None},
    "Open WebUI": {"options": {"num_ctx": 4096, "num_thread": 4}, "metadata": {"chat_id": "c"}, "user": "u"},
}


@pytest.mark.parametrize("flavour", Flavour)
@pytest.mark.parametrize("body", CHATS.values(), ids=CHATS)
def test_the_chats_of_well_known_clients_are_taken(body: dict[str, Any], flavour: Flavour) -> None:
    fields = fields_of(json.dumps({"model": "m", "messages": HELLO, **body}).encode())
    asked = translate(RequestKind.CHAT, fields, "own", flavour=flavour, context_length=2048)
    assert json.loads(asked.body)["messages"] == HELLO


@pytest.mark.parametrize("flavour", Flavour)
def test_fields_of_messages_that_ollama_does_not_read_are_not_passed_on(flavour: Flavour) -> None:
    messages = [{"role": "user", "content": "hello", "name": "Ann", "weather": 1, "id": "x"}]
    fields = fields_of(json.dumps({"model": "m", "messages": messages, "dimensions": 3, "template": "t"}).encode())
    asked = translate(RequestKind.CHAT, fields, "own", flavour=flavour)
    assert json.loads(asked.body)["messages"] == HELLO


@pytest.mark.parametrize("flavour", Flavour)
def test_a_prompt_with_what_only_newer_or_older_servers_know_is_taken(flavour: Flavour) -> None:
    body = {
        "model": "m",
        "prompt": "hello",
        "options": {"num_ctx": 8192},
        "width": 512,
        "tools": [TOOL],
        "shift": False,
    }
    asked = translate(RequestKind.GENERATE, fields_of(json.dumps(body).encode()), "own", flavour=flavour)
    assert json.loads(asked.body)["messages"] == HELLO


def test_every_option_on_an_embedding_is_taken() -> None:
    assert embed_request({"input": ["a", "b"], "options": EVERY_OPTION, "keep_alive": -1}).texts == ["a", "b"]
