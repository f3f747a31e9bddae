"""Request analysis: size, task, prefixes and automatic modes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.requests.body import read_fields
from sollol_agents.requests.detector import CODING_WORDS, TASK_WORDS, UnknownDetector, WordDetector, detector_named
from sollol_agents.requests.prefixes import MAX_BOUNDARIES, prefix_hashes
from sollol_agents.requests.request import IMAGE_TOKENS, analyse
from sollol_schemas.context import ComplexityClass, RequestKind, TaskContext
from sollol_schemas.modes import mode_for, mode_for_complexity, mode_for_style, mode_for_task, resolve
from sollol_schemas.routing import Routing, RoutingMode


def context(body: dict[str, object], kind: RequestKind = RequestKind.GENERATE, path: str = "") -> TaskContext:
    return analyse(kind, read_fields(json.dumps({"model": "m", **body}).encode()), path=path)


@pytest.mark.parametrize(
    ("text", "task", "coding"),
    [
        ("Summarize the following article in three sentences", "summarization", None),
        ("Classify the sentiment of this review: great", "classification", None),
        ("Extract all names and dates as JSON", "extraction", None),
        ("Compare these two plans and evaluate the trade", "analysis", None),
        ("Tell me a story about a dragon", "generation", None),
        ("Write a function that sorts a list", "generation", "coding"),
        ("Refactor this module", "generation", "refactoring"),
        ("Write pytest unit tests for it", "generation", "testing"),
        ("Add a docstring to every method", "generation", "documentation"),
        ("Here is the traceback, fix the bug", "generation", "debugging"),
        ("please review this code", "generation", "code_review"),
        ("My class at school was fun", "generation", None),
    ],
)
def test_tasks_are_found_by_their_words(text: str, task: str, coding: str | None) -> None:
    found = WordDetector().detect(text)
    assert (found.task_type, found.coding_category) == (task, coding)


def test_the_words_must_stand_alone() -> None:
    assert WordDetector().detect("a summaryless classifying-free text about testimony").coding_category is None


_LISTED = [
    (category, entry)
    for table in (TASK_WORDS, CODING_WORDS)
    for category, (strong, _) in table.items()
    for entry in (*strong.split(",")[0].split(), *(phrase.strip() for phrase in strong.split(",")[1:]))
]


@pytest.mark.parametrize(("category", "entry"), _LISTED, ids=[entry for _, entry in _LISTED])
def test_every_word_and_phrase_votes_wherever_it_stands(category: str, entry: str) -> None:
    for text in (entry, f"please {entry}", f"{entry} now", f"the one {entry} of them"):
        found = WordDetector().detect(text)
        assert category in (found.task_type, found.coding_category)


def test_an_unknown_detector_names_those_there_are() -> None:
    with pytest.raises(UnknownDetector, match="words"):
        detector_named("oracle")


@given(st.text(max_size=3000))
def test_the_detector_never_fails(text: str) -> None:
    assert WordDetector().detect(text).task_type


def test_size_and_complexity_follow_the_prompt() -> None:
    assert context({"prompt": "hi"}).complexity_class is ComplexityClass.SIMPLE
    assert context({"prompt": "word " * 800}).complexity_class is ComplexityClass.MEDIUM
    assert context({"prompt": "word " * 4000}).complexity_class is ComplexityClass.COMPLEX
    assert context({"prompt": "x" * 4000}).prompt_tokens == pytest.approx(1000, rel=0.01)


def test_images_count_as_images_and_not_as_text() -> None:
    native = context({"messages": [{"role": "user", "content": "what?", "images": ["A" * 100_000]}]}, RequestKind.CHAT)
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    openai = context({"messages": [{"role": "user", "content": [part]}]}, RequestKind.PASSTHROUGH)
    source = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}}
    anthropic = context({"messages": [{"role": "user", "content": [source]}]}, RequestKind.PASSTHROUGH)
    for found in (native, openai, anthropic):
        assert found.has_images
        assert IMAGE_TOKENS <= found.prompt_tokens < 2 * IMAGE_TOKENS


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_callers_limit_is_read_in_every_dialect(field: str) -> None:
    assert context({field: 7, "messages": []}, RequestKind.PASSTHROUGH, "/v1/chat/completions").max_output_tokens == 7
    assert context({"prompt": "x", "options": {"num_predict": 9}}).max_output_tokens == 9
    assert context({"prompt": "x", "options": {"num_predict": -1}}).max_output_tokens is None


CHATS = "/v1/chat/completions"
PART = {"type": "text", "text": 'say "type": "image"'}


@pytest.mark.parametrize(
    ("kind", "path", "body", "needs"),
    [
        ("chat", "", {"messages": [{"content": "hi"}], "tools": [{}], "think": "high"}, "completion thinking tools"),
        ("chat", "", {"messages": [{"content": "hi"}], "tools": None, "think": False}, "completion"),
        ("chat", "", {"messages": [{"content": "hi"}], "tools": []}, "completion"),
        ("chat", "", {"messages": [{"content": "hi", "images": ["AA"]}, {"content": "x"}]}, "completion vision"),
        ("generate", "", {"prompt": "a", "suffix": "b", "tools": [{}]}, "completion insert"),
        ("generate", "", {"prompt": "a", "suffix": "", "images": ["AA"]}, "completion vision"),
        ("generate", "", {"images": ["AA"]}, "completion"),
        ("generate", "", {"keep_alive": None}, "completion"),
        ("generate", "", {"keep_alive": "0s"}, ""),
        ("chat", "", {"messages": [], "keep_alive": 0}, ""),
        ("chat", "", {"messages": [{"content": "hi"}], "keep_alive": 0}, "completion"),
        ("chat", "", {"messages": [], "keep_alive": "bad"}, "completion"),
        ("embed", "", {"input": "x", "think": True}, "embedding"),
        ("passthrough", "/v1/embeddings", {"input": "x"}, "embedding"),
        ("passthrough", "/api/embeddings", {"prompt": "x"}, "embedding"),
        ("embed", "", {}, ""),
        ("embed", "", {"input": ""}, ""),
        ("embed", "", {"input": []}, ""),
        ("embed", "", {"input": None}, ""),
        ("embed", "", {"input": [""]}, "embedding"),
        ("passthrough", "/api/embeddings", {"prompt": ""}, ""),
        ("passthrough", "/v1/embeddings", {"input": []}, "embedding"),
        ("passthrough", CHATS, {"messages": [{"content": [PART]}], "reasoning_effort": "none"}, "completion"),
        ("passthrough", CHATS, {"messages": [{"content": "x"}], "reasoning_effort": "low"}, "completion thinking"),
        ("passthrough", CHATS, {"messages": [{"content": [{"type": "input_audio"}]}]}, "completion audio"),
        ("passthrough", "/v1/messages", {"messages": [{"content": [{"type": "image"}]}]}, "completion vision"),
        ("passthrough", "/v1/messages?beta=true", {"messages": [], "tools": [{}]}, "completion tools"),
        ("passthrough", "/v1/responses", {"input": [{"content": [{"type": "input_image"}]}]}, "completion vision"),
        ("passthrough", "/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "completion"),
        ("passthrough", "/v1/responses", {"input": "x", "tools": [{"type": "function"}]}, "completion tools"),
        ("passthrough", "/v1/completions", {"prompt": "a", "suffix": "b"}, "completion insert"),
        ("passthrough", "/v1/audio/speech", {"input": "x", "tools": [{}]}, ""),
        ("passthrough", "/tokenize", {"content": "x"}, ""),
    ],
)
def test_what_a_model_must_be_able_to_do_is_read_in_every_dialect(
    kind: str, path: str, body: dict[str, object], needs: str
) -> None:
    assert " ".join(context(body, RequestKind(kind), path).needs) == needs


@pytest.mark.parametrize(("value", "read"), [(3.0, 3), (3.7, 3), ("3", None), (True, None), (1e300, None), (-1, None)])
def test_options_are_read_as_engines_read_them_and_never_refused_here(value: object, read: int | None) -> None:
    found = context({"prompt": "x", "options": {"num_predict": value, "num_ctx": value}})
    assert (found.max_output_tokens, found.num_ctx) == (read, read)


def test_options_that_no_engine_reads_decide_nothing() -> None:
    body: dict[str, object] = {"messages": [], "options": {"num_ctx": 99, "num_predict": 9}}
    read = context(body, RequestKind.PASSTHROUGH, CHATS)
    assert (read.num_ctx, read.max_output_tokens) == (None, None)
    assert (
        context({"prompt": "x", "options": {"num_ctx": 99}}, RequestKind.PASSTHROUGH, "/api/embeddings").num_ctx == 99
    )


def test_embeddings_make_no_tokens_whatever_path_they_take() -> None:
    assert context({"input": ["a"]}, RequestKind.EMBED).is_embedding
    assert context({"input": ["a"]}, RequestKind.PASSTHROUGH, "/v1/embeddings").is_embedding


def conversation(*texts: str) -> TaskContext:
    return context({"messages": [{"role": "user", "content": t} for t in texts]}, RequestKind.CHAT)


def test_a_conversation_that_goes_on_shares_its_prefixes() -> None:
    first = conversation("a" * 300, "b" * 300)
    second = conversation("a" * 300, "b" * 300, "c" * 300)
    assert second.prefix_hashes[:2] == first.prefix_hashes
    assert second.prefix_tokens == (75, 151, 226)


def test_other_models_and_other_beginnings_share_nothing() -> None:
    mine, _ = prefix_hashes("m", [b"a" * 500, b"b"], 4)
    assert not set(mine) & set(prefix_hashes("other", [b"a" * 500, b"b"], 4)[0])
    assert not set(mine) & set(prefix_hashes("m", [b"x" + b"a" * 499, b"b"], 4)[0])


@given(st.lists(st.binary(max_size=200), max_size=60), st.binary(min_size=1, max_size=9000))
def test_prefixes_are_bounded_and_grow(pieces: list[bytes], more: bytes) -> None:
    hashes, tokens = prefix_hashes("m", [*pieces, more], 4)
    assert len(hashes) == len(tokens) <= MAX_BOUNDARIES
    assert list(tokens) == sorted(tokens)


@pytest.mark.parametrize(
    ("routing", "mode", "priority"),
    [
        (Routing(routing_mode=RoutingMode.AUTO), "fast", 5),
        (Routing(routing_mode=RoutingMode.AUTO, task_type="quick_question"), "fast", 5),
        (Routing(routing_mode=RoutingMode.AUTO, task_type="security_review"), "reliable", 5),
        (Routing(routing_mode=RoutingMode.AUTO, task_type="documentation"), "async", 5),
        (Routing(routing_mode=RoutingMode.AUTO, task_type="poetry", complexity=9), "reliable", 5),
        (Routing(routing_mode=RoutingMode.AUTO, reasoning_style="deep_thinking"), "reliable", 8),
        (Routing(routing_mode=RoutingMode.AUTO, reasoning_style="fast", priority=2), "fast", 2),
        (Routing(routing_mode=RoutingMode.AUTO, reasoning_style="fast"), "fast", 10),
        (Routing(routing_mode=RoutingMode.AUTO, reasoning_style="extended"), "async", 5),
        (Routing(routing_mode=RoutingMode.FAST, task_type="security_review"), "fast", 5),
    ],
)
def test_auto_follows_what_the_caller_declares(routing: Routing, mode: str, priority: int) -> None:
    resolved = resolve(routing)
    assert (resolved.routing_mode.value, resolved.priority) == (mode, priority)


@pytest.mark.parametrize(("complexity", "mode"), [(8.0, "fast"), (8.1, "reliable"), (3.0, "fast"), (2.9, "async")])
def test_declared_complexity_has_exact_borders(complexity: float, mode: str) -> None:
    assert mode_for_complexity(complexity).value == mode


@pytest.mark.parametrize(
    ("task_type", "complexity", "style", "mode"),
    [
        ("", None, "", RoutingMode.FAST),
        ("chat", 9.0, "", RoutingMode.FAST),
        ("Production_Code", 1.0, "", RoutingMode.RELIABLE),
        ("analysis", None, "", RoutingMode.ASYNC),
        ("poetry", 9.0, "", RoutingMode.RELIABLE),
        ("poetry", 2.0, "", RoutingMode.ASYNC),
        ("chat", 2.0, "Deep_Thinking", RoutingMode.RELIABLE),
        ("production_code", None, "fast", RoutingMode.FAST),
        ("", None, "extended", RoutingMode.ASYNC),
        ("analysis", None, "dreamy", RoutingMode.ASYNC),
    ],
)
def test_the_mode_that_anybody_may_ask_for_is_the_one_that_auto_becomes(
    task_type: str, complexity: float | None, style: str, mode: RoutingMode
) -> None:
    assert mode_for(task_type, complexity, style) is mode
    asked = Routing(
        routing_mode=RoutingMode.AUTO, task_type=task_type or None, complexity=complexity, reasoning_style=style or None
    )
    assert resolve(asked).routing_mode is mode


def test_what_stands_for_no_mode_leaves_the_choice_to_the_caller() -> None:
    assert mode_for_task("poetry") is None
    assert mode_for_style("dreamy") is None
    assert mode_for("poetry", default=RoutingMode.RELIABLE) is RoutingMode.RELIABLE
