"""What is put behind a prompt so that an engine goes on with an answer, and how its rest is read; no engine needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing import chat_bodies, marks, ollama_bodies
from sollol_agents.node.engines.continuing.conversations import Reading, native, of_messages, of_responses
from sollol_agents.node.engines.continuing.marks import Marks, call_marks, ends_in_thought, thought_marks
from sollol_agents.node.engines.continuing.reader import RestReader
from sollol_agents.node.engines.continuing.refusing import not_continued, refused_to_go_on
from sollol_agents.node.engines.continuing.seam import after_partial, is_unlikely, lost_blanks, with_thought
from sollol_agents.node.engines.refusals import engine_error
from sollol_agents.node.engines.translation.options import Flavour
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode

RECORDINGS = Path(__file__).parents[1] / "conformance" / "recordings"
CHATML = Marks("<think>\n", "\n</think>\n\n")
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
PLAIN = Marks("<think>", "</think>")
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def recorded_cuts(name: str) -> list[Any]:
    """The recorded chats that were gone on with by hand, as parameters: all requests of each."""
    cases = [msgspec.json.decode(line) for line in (RECORDINGS / name).read_bytes().splitlines()]
    return [
        pytest.param(case, id=case["name"])
        for case in cases
        if case["group"] == "CONTINUE" and "continued by" in case["name"]
    ]


@pytest.mark.parametrize("case", recorded_cuts("ollama-0.33.jsonl") + recorded_cuts("llama-server-b10488.jsonl"))
def test_at_each_recorded_cut_the_prompt_is_the_one_that_gave_the_rest(case: dict[str, Any]) -> None:
    rendered, uncut = case["observed"]["rendered"], case["observed"]["uncut"]
    completions = [step for step in case["steps"] if step["request"]["body"].get("prompt") is not None]
    whole = completions[0]["response"]["body"]
    raw = whole.get("response", whole.get("content"))
    blanks_taken_off = raw[: len(raw) - len(raw.lstrip())] if not uncut[:1].isspace() else ""
    first_token = raw[: len(raw) - len(raw.lstrip())] + raw.split()[0]
    cuts = zip(case["observed"]["cuts"], completions, strict=True)
    prompts = [step["request"]["body"]["prompt"] for cut, step in cuts if cut["cut"] == "chunk"]
    assert prompts
    for prompt in prompts:
        behind = prompt.removeprefix(rendered)
        text = behind.lstrip() if blanks_taken_off else behind  # by hand they were put back, or forgotten
        blanks = lost_blanks(text, [first_token])
        assert rendered + f"{blanks}{text}" == rendered + blanks_taken_off + text
        assert uncut.startswith(text)


@pytest.mark.parametrize(
    ("said", "likely", "blanks"),
    [
        ("11 10", [" 11"], " "),
        (" 11 10", [" 11"], ""),
        ("One day", ["One", " One"], ""),
        ("One day", [" One", "One"], " "),
        ("Hello", ["\n\n"], None),
        ("Hello", ["Bye", "\n\n", "\n\nHello"], "\n\n"),
        ("Hello", ["Bye"], ""),
        ("Hello", [], ""),
        ("Hello", [""], ""),
    ],
)
def test_blanks_that_an_engine_took_off_are_found_by_what_the_model_would_say(
    said: str, likely: list[str], blanks: str | None
) -> None:
    assert lost_blanks(said, likely) == blanks


@given(st.text(min_size=1).filter(lambda text: text == text.strip()), st.sampled_from(["", " ", "\n", "\n\n", " \t"]))
def test_whatever_blanks_stood_before_the_likeliest_token_are_put_back(token: str, blanks: str) -> None:
    assert lost_blanks(token + " and more", [blanks + token]) == blanks


def test_a_beginning_that_no_likely_token_explains_is_noticed() -> None:
    candidates = [" a", "b", " c", "d", "e"]
    assert is_unlikely("zebra", candidates)
    assert not is_unlikely("cat", candidates)
    assert not is_unlikely("zebra", candidates[:2])


@pytest.mark.parametrize(
    ("wrote", "thinking", "text", "marks_", "trims"),
    [
        ("<think> hmm", " hmm", "", PLAIN, False),
        ("<think> hmm</think> 31", " hmm", " 31", PLAIN, False),
        ("<think>\nhmm", "hmm", "", CHATML, False),
        ("<think>hmm\n</think>31", "hmm\n", "31", CHATML, False),
        ("<think>\nhmm\n</think>\n\n31", "hmm\n", "31", CHATML, False),
        ("<think>\n\n hmm \n</think> 31", "hmm \n", "31", CHATML, True),
        ("\nhmm\n</think>\n\n31", "\nhmm\n", "31", Marks("", "\n</think>\n\n"), False),
        ("\nhmm</think>\n31", "hmm", "31", Marks("", "\n</think>\n\n"), True),
        ("</think>31", "", "31", Marks("", "\n</think>\n\n"), False),
    ],
)
async def test_a_thought_is_put_back_as_the_model_wrote_it(
    wrote: str, thinking: str, text: str, marks_: Marks, *, trims: bool
) -> None:
    looked = []

    async def look(prompt: str) -> list[str]:
        looked.append(prompt)
        rest = ("prompt" + wrote)[len(prompt) :]
        return [rest[: len(rest) - len(rest.lstrip())] or rest[:3]]

    assert await with_thought(look, "prompt", thinking, text, marks_, trims=trims) == "prompt" + wrote
    assert all(("prompt" + wrote).startswith(prompt) for prompt in looked)


@pytest.mark.parametrize(
    ("rendered", "shown", "found"),
    [
        ("<|user|>a", f"<|user|>a<|end|><think>{marks.THOUGHT}</think>{marks.ANSWER}", PLAIN),
        (
            "<|im_start|>assistant\n",
            f"<|im_start|>assistant\n<think>\n{marks.THOUGHT}\n</think>\n\n{marks.ANSWER}<|im_end|>\n",
            CHATML,
        ),
        (
            "<|Assistant|><think>\n",
            f"<|Assistant|><think>\n{marks.THOUGHT}\n</think>\n\n{marks.ANSWER}",
            Marks("", "\n</think>\n\n"),
        ),
        (
            "<|start|>assistant",
            f"<|start|>assistant<|channel|>analysis<|message|>{marks.THOUGHT}{FINAL}{marks.ANSWER}",
            Marks("<|channel|>analysis<|message|>", FINAL),
        ),
        ("<|im_start|>assistant\n", f"<|im_start|>assistant\n{marks.ANSWER}", None),
        ("a", f"a{marks.THOUGHT}{marks.ANSWER}", None),
        ("a", f"b{marks.THOUGHT}|{marks.ANSWER}", None),
    ],
)
def test_the_marks_of_a_thought_are_those_that_the_template_shows(
    rendered: str, shown: str, found: Marks | None
) -> None:
    assert thought_marks(rendered, shown) == found


def test_a_prompt_may_end_within_a_thought() -> None:
    assert ends_in_thought("<|Assistant|><think>\n")
    assert not ends_in_thought("<|Assistant|><think>\n\n</think>\n\n")
    assert not ends_in_thought("I <think> so")


def test_how_a_call_begins_is_seen_in_the_template_and_known_of_others() -> None:
    shown = f'<|user|>a<|end|><|assistant|><tool_use>{{"name": "{marks.TOOL}", "arguments": {{}}}}</tool_use>'
    assert call_marks(shown)[0] == "<tool_use>"
    assert "[TOOL_CALLS]" in call_marks()
    assert "<|assistant|>" not in call_marks(f'<|assistant|>{{"name": "{marks.TOOL}"')


def read(reader: RestReader, pieces: list[str]) -> tuple[str, str]:
    said = [*map(reader.feed, pieces), reader.finish()]
    return "".join(one.thinking for one in said), "".join(one.text for one in said)


@given(st.data())
def test_a_thought_is_parted_from_the_text_wherever_the_pieces_end(data: st.DataObject) -> None:
    raw = " hmm\n</think>\n\n 31 30"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1))))
    pieces = [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert read(RestReader(CHATML), pieces) == (" hmm\n", " 31 30")
    assert read(RestReader(CHATML, trims=True), pieces) == (" hmm\n", "31 30")
    assert read(RestReader(PLAIN), pieces) == (" hmm\n", "\n\n 31 30")
    assert read(RestReader(), pieces) == ("", raw)


def test_what_only_looked_like_the_beginning_of_a_mark_is_told_in_the_end() -> None:
    assert read(RestReader(CHATML), ["a </thi", "s> b </", "thin"]) == ("a </this> b </thin", "")
    assert read(RestReader(calls=("<tool_call>",)), ["a <tool", "> b <"]) == ("", "a <tool> b <")


def test_no_half_of_a_call_is_told_as_text() -> None:
    reader = RestReader(calls=("<tool_call>",))
    assert reader.feed(" so <tool_").text == " so "
    with pytest.raises(SollolError, match="call of a tool") as refused:
        reader.feed('call>{"name"')
    assert refused.value.body.code is ErrorCode.NOT_CONTINUED


@pytest.mark.parametrize(
    ("rendered", "text", "rest"),
    [("…<a>5 4", "5 4 3", " 3"), ("…<a>5 4<end>", "5 4 3", "5 4 3"), ("…<a>5 4", "5", None), ("…<a>5 4", "9", "9")],
)
def test_a_beginning_that_the_request_gave_stands_in_the_prompt_already(
    rendered: str, text: str, rest: str | None
) -> None:
    assert after_partial(rendered, "5 4", text) == rest


# -- bodies ---------------------------------------------------------------------------------------------------


def request(kind: RequestKind, fields: dict[str, Any], path: str = "") -> EngineRequest:
    return EngineRequest(kind=kind, model="m", body=msgspec.json.encode(fields), path=path)


def passing(path: str, **fields: Any) -> EngineRequest:
    return request(RequestKind.PASSTHROUGH, fields, path)


TURNS = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("asked_for", "options", "limit"),
    [
        (passing("/v1/chat/completions", messages=TURNS), {"temperature": 1.0, "top_p": 1.0}, None),
        (
            passing("/v1/chat/completions", messages=TURNS, temperature=0, stop="x", max_tokens=9, seed=3),
            {"temperature": 0, "top_p": 1.0, "seed": 3, "stop": ["x"]},
            9,
        ),
        (passing("/v1/chat/completions", messages=TURNS, max_tokens=0), {"temperature": 1.0, "top_p": 1.0}, 1),
        (
            passing("/v1/completions", prompt="hi", max_tokens=0),
            {"temperature": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "top_p": 1.0},
            None,
        ),
        (passing("/v1/messages", messages=TURNS, max_tokens=9, stop_sequences=["x"]), {"stop": ["x"]}, 9),
        (passing("/v1/responses", input="hi", max_output_tokens=9), {"temperature": 1.0}, 9),
        (
            request(RequestKind.CHAT, {"messages": TURNS, "options": {"num_predict": -1, "num_ctx": 64}}),
            {"num_ctx": 64},
            None,
        ),
        (request(RequestKind.GENERATE, {"prompt": "hi", "options": {"num_predict": 5.0}}), {}, 5),
    ],
)
def test_ollama_gets_the_options_that_it_makes_of_each_dialect_itself(
    asked_for: EngineRequest, options: dict[str, Any], limit: int | None
) -> None:
    found = ollama_bodies.asked(asked_for)
    assert (found.options, found.limit) == (options, limit)


def test_a_raw_prompt_is_its_own_rendering() -> None:
    fields = {"prompt": "hi", "raw": True, "keep_alive": "5m", "shift": False}
    found = ollama_bodies.asked(request(RequestKind.GENERATE, fields))
    assert (found.prompt, found.kept) == ("hi", {"keep_alive": "5m", "shift": False})


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "json"},
        {"response_format": {"type": "json_object"}},
        {"text": {"format": {"type": "json_schema"}}},
        {"grammar": "root ::= .*"},
        {"logprobs": True},
        {"n": 2},
        {"echo": True},
        {"suffix": "end"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": "x", "images": ["aa"]}]},
    ],
)
def test_what_an_engine_would_begin_anew_is_refused(fields: dict[str, Any]) -> None:
    asked_for = passing("/v1/chat/completions", **({"messages": TURNS} | fields))
    for read_body in (
        lambda: ollama_bodies.asked(asked_for),
        lambda: chat_bodies.asked(asked_for, "m", Flavour.LLAMA_CPP, 0),
    ):
        with pytest.raises(SollolError) as refused:
            read_body()
        assert refused.value.body.code is ErrorCode.NOT_CONTINUED


@pytest.mark.parametrize(
    "fields", [{"response_format": {"type": "text"}}, {"format": ""}, {"logprobs": False}, {"n": 1}, {"tools": [TOOL]}]
)
def test_fields_that_ask_for_nothing_do_not_keep_an_answer_from_going_on(fields: dict[str, Any]) -> None:
    assert ollama_bodies.asked(passing("/v1/chat/completions", messages=TURNS, **fields)).is_chat


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/audio/speech", "/rerank"])
def test_answers_of_other_paths_are_not_gone_on_with(path: str) -> None:
    for read_body in (ollama_bodies.asked, lambda asked_for: chat_bodies.asked(asked_for, "m", Flavour.VLLM, 0)):
        with pytest.raises(SollolError, match="this path"):
            read_body(passing(path, input="x"))


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 0}, 1),
        ({"max_tokens": 4, "max_completion_tokens": 2}, 2),
        ({"max_tokens": 4, "n_predict": 3}, 3),
    ],
)
def test_the_limit_is_the_one_that_llama_cpp_takes(fields: dict[str, Any], limit: int | None) -> None:
    asked_for = passing("/v1/chat/completions", messages=TURNS, top_k=3, stream=True, **fields)
    found = chat_bodies.asked(asked_for, "own", Flavour.LLAMA_CPP, 0)
    assert found.limit == limit
    assert found.sampling == {"model": "own", "top_k": 3}
    assert found.chat is not None
    assert found.chat["messages"] == TURNS


TOLD = {
    "system": [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "r"}]},
                {"type": "text", "text": "go on"},
            ],
        },
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
}


def test_messages_are_read_as_each_engine_reads_them() -> None:
    ollama = native(of_messages(TOLD, Reading.OLLAMA)["messages"])
    assert [one["role"] for one in ollama] == ["system", "user", "assistant", "tool", "user"]
    assert [one["content"] for one in ollama] == ["st", "ab", "", "r", "go on"]
    assert ollama[2]["thinking"] == "hm"
    assert ollama[2]["tool_calls"] == [{"id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}]
    llama = of_messages(TOLD, Reading.LLAMA_CPP)
    assert [one["role"] for one in llama["messages"]] == ["system", "user", "assistant", "user", "tool"]
    assert llama["messages"][1]["content"] == TOLD["messages"][0]["content"]  # type: ignore[index]
    assert llama["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    ]


def test_responses_are_read_as_each_engine_reads_them() -> None:
    fields = {
        "instructions": "be",
        "input": [
            {"role": "developer", "content": "d"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "call"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x":1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "r"},
        ],
    }
    found = of_responses(fields, Reading.LLAMA_CPP)["messages"]
    assert [one["role"] for one in found] == ["system", "system", "user", "assistant", "tool"]
    assert found[3]["reasoning_content"] == "hm"
    assert [one["role"] for one in native(of_responses(fields, Reading.OLLAMA)["messages"])][1] == "developer"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [{"type": "web_search_call"}]},
        {"input": "x", "tools": [{"type": "web_search"}]},
        {"input": "x", "previous_response_id": "r"},
    ],
)
def test_a_conversation_that_lies_elsewhere_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SollolError) as refused:
        of_responses(fields, Reading.LLAMA_CPP)
    assert refused.value.body.code is ErrorCode.NOT_CONTINUED


def test_an_engine_that_refuses_to_go_on_says_why_and_one_that_fails_is_not_excused() -> None:
    too_long = engine_error(ErrorCode.ENGINE_REJECTED, "the request exceeds the available context size")
    assert "no longer fits" in refused_to_go_on(too_long).message
    other = refused_to_go_on(engine_error(ErrorCode.ENGINE_REJECTED, "no such thing"))
    assert (other.body.code, "no such thing" in other.message) == (ErrorCode.NOT_CONTINUED, True)
    for kept in (engine_error(ErrorCode.ENGINE_FAILED, "x"), not_continued("y")):
        assert refused_to_go_on(kept) is kept
