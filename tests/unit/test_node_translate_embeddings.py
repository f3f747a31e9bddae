"""Ollama's embeddings in OpenAI's words, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from sollol_agents.node.engines.translation.embeddings import embed_reply, embed_request, shortened
from sollol_bus.errors import BadRequest


def test_texts_are_asked_for_and_whatever_ollama_ignores_is_ignored() -> None:
    options = {"num_ctx": 1, "temperature": 0.5, "num_batch": 7, "weather": "fine", "use_mmap": False}
    asked = embed_request({"model": "m", "input": "x", "user": "u", "truncate": True, "options": options})
    assert json.loads(asked.body("own")) == {"model": "own", "input": ["x"], "encoding_format": "float"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": 5}, "invalid input type"),
        ({"input": [5]}, "invalid input type"),
        ({"input": [["a"]]}, "invalid input type"),
        ({"input": "x", "dimensions": "2"}, "dimensions"),
        ({"input": "x", "options": {"num_ctx": "x"}}, 'option "num_ctx" must be of type integer'),
    ],
)
def test_fields_of_the_wrong_type_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        embed_request(fields)


@pytest.mark.parametrize("fields", [{}, {"input": ""}, {"input": []}])
def test_no_text_is_nothing_to_ask_for(fields: dict[str, Any]) -> None:
    assert embed_request(fields).texts == []


def test_an_embedding_comes_back_in_order_and_shortened_to_length_one() -> None:
    assert embed_request({"input": "x", "dimensions": 2.0}).dimensions == 2
    reply = json.dumps(
        {
            "data": [{"index": 1, "embedding": [1.0, 0.0, 0.0]}, {"index": 0, "embedding": [3.0, 4.0, 12.0]}],
            "usage": {"prompt_tokens": 5},
        }
    ).encode()
    body, figures = embed_reply(reply, "m", 2, 0.5)
    decoded = json.loads(body)
    assert decoded["embeddings"] == [[0.6, 0.8], [1.0, 0.0]]
    assert decoded["prompt_eval_count"] == figures.prompt_tokens == 5
    assert math.hypot(*shortened([0.0, 0.0, 1.0], 2)) == 0.0
    assert shortened([1.0, 0.0], -1) == [1.0, 0.0]
