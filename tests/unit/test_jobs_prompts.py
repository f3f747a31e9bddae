"""What is told of the prompt of a stored job."""

from __future__ import annotations

import pytest

from sollol_agents.dispatcher.jobs.records import prompt_in


@pytest.mark.parametrize(
    ("job", "prompt"),
    [
        (b'{"body":{"prompt":"why?"}}', "why?"),
        (b'{"body":{"messages":[{"content":"hi"},{"role":"user","content":"and then?"}]}}', "and then?"),
        (b'{"body":{"input":["one","two"]}}', '["one","two"]'),
        (b'{"body":{"prompt":"' + b"x" * 5000 + b'"}}', "x" * 2000),
        (b'{"body":{"model":"m"}}', ""),
        (b"no", ""),
    ],
    ids=["generate", "chat", "embed", "long", "none", "unreadable"],
)
def test_the_beginning_of_a_stored_jobs_prompt_is_told(job: bytes, prompt: str) -> None:
    assert prompt_in(job) == prompt
