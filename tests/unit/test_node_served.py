"""What servers of OpenAI's dialect say of their models, and what is taken of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sollol_agents.node.engines.props import Props
from sollol_agents.node.engines.served import Models, Served

LLAMA_CPP = {
    "models": [{"name": "m", "capabilities": ["completion"], "details": {"family": "", "quantization_level": ""}}],
    "data": [{"id": "m", "meta": {"n_ctx": 2048, "n_ctx_train": 8192, "n_params": 7, "size": 14, "ftype": "Q4_0"}}],
}
TEMPLATE = "{%- if tools %}{{ tools | tojson }}{% endif %}<think>"


def served(told: dict[str, Any]) -> Served:
    return msgspec.convert(told, Models).rows()[0]


def row(**fields: Any) -> Served:
    return served({"data": [{"id": "m", **fields}]})


@pytest.mark.parametrize(
    ("fields", "capabilities"),
    [
        ({"architecture": {"input_modalities": ["text"], "output_modalities": ["text"]}}, ("completion",)),
        (
            {"architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]}},
            ("completion", "vision"),
        ),
        ({"architecture": {"input_modalities": ["text"], "output_modalities": ["embeddings"]}}, ("embedding",)),
        ({"type": "embeddings", "arch": "nomic-bert"}, ("embedding",)),
        ({"type": "vlm", "capabilities": ["tool_use"]}, ("completion", "tools", "vision")),
        (
            {"capabilities": {"completion_chat": True, "function_calling": True, "vision": False}},
            ("completion", "tools"),
        ),
        ({"capabilities": ["completion", "reasoning", 5, None]}, ("completion", "thinking")),
        ({"capabilities": ["completion"], "type": "model"}, ()),
        ({"max_model_len": 4096, "owned_by": "vllm"}, ()),
        ({"capabilities": "many", "architecture": 5, "type": None}, ()),
    ],
    ids=["text", "sees", "embeds", "typed", "a list", "an object", "odd entries", "text alone", "vllm", "nonsense"],
)
def test_abilities_are_read_in_every_servers_words(fields: dict[str, Any], capabilities: tuple[str, ...]) -> None:
    assert row(**fields).installed("m", None).capabilities == capabilities


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "qwen2"},
        {"arch": "qwen2"},
        {"meta": {"general.architecture": "qwen2"}},
    ],
    ids=["architecture", "arch", "header"],
)
def test_the_architecture_is_taken_wherever_it_is_told(fields: dict[str, Any]) -> None:
    assert row(**fields).installed("m", None).family == "qwen2"


def test_the_list_in_ollamas_form_beside_openais_is_read_too() -> None:
    beside = {"name": "m", "capabilities": ["completion", "multimodal"], "details": {"family": "gemma3"}}
    model = served({"data": [{"id": "m"}], "models": ["odd", {"name": 5}, beside]}).installed("m", None)
    assert (model.family, model.capabilities) == ("gemma3", ("completion", "vision"))


def test_what_a_server_says_of_one_model_alone_goes_before_its_list() -> None:
    props = msgspec.convert(
        {"default_generation_settings": {"n_ctx": 1024}, "modalities": {"vision": True}, "chat_template": TEMPLATE},
        Props,
    )
    model = served(LLAMA_CPP)
    found = model.installed("m", props)
    assert found.capabilities == ("completion", "tools", "thinking", "vision")
    assert (found.quantization, found.parameter_count, found.size_bytes, found.context_length) == ("Q4_0", 7, 14, 8192)
    assert model.loaded("m", props).context_length == 2048
    assert row().loaded("m", props).context_length == 1024


@pytest.mark.parametrize(
    ("caps", "template", "calls"),
    [
        ({"supports_tools": False}, TEMPLATE, False),
        ({}, TEMPLATE, True),
        ({}, "{{ mistools }}", False),
        ({}, None, False),
    ],
    ids=["it says no", "by the text", "another word", "no template"],
)
def test_tools_are_known_by_the_servers_word_or_else_by_the_template(
    caps: dict[str, bool], template: str | None, calls: bool
) -> None:
    props = Props(modalities={"vision": False}, chat_template=template, chat_template_caps=caps)
    assert ("tools" in props.capabilities()) is calls
