"""What can be known about a request by itself: names of models, bodies, paths, joined answers. All pure."""

from __future__ import annotations

import pytest

from sollol_agents.requests.names import canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("llama3", "llama3:latest"),
        ("LLaMA3:8B", "llama3:8b"),
        (" x ", "x:latest"),
        ("a/b", "a/b:latest"),
        ("library/x", "x"),
        ("registry.ollama.ai/library/x:7b", "x:7b"),
        ("Registry.Ollama.ai/someone/x", "someone/x:latest"),
    ],
)
def test_spellings_of_one_model_compare_equal(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("llama3:8b", "llama3:70b"), ("someone/x", "x"), ("hf.co/library/x", "x"), ("host:5000/x", "x:5000")],
)
def test_names_of_different_models_differ(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)
