"""What is put behind a prompt so that an engine goes on with an answer, and how its rest is read; no engine needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.node.engines.continuing import marks
from sollol_agents.node.engines.continuing.marks import Marks, call_marks, ends_in_thought, thought_marks
from sollol_agents.node.engines.continuing.reader import RestReader
from sollol_agents.node.engines.continuing.refusing import not_continued, refused_to_go_on
from sollol_agents.node.engines.continuing.seam import after_partial, is_unlikely, lost_blanks, with_thought
from sollol_agents.node.engines.refusals import engine_error
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode

RECORDINGS = Path(__file__).parents[1] / "conformance" / "recordings"
CHATML = Marks("<think>\n", "\n</think>\n\n")
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
PLAIN = Marks("<think>", "</think>")


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
        ("<|user|>a", f"<|user|>a<|end|><think></think>{marks.ANSWER}", PLAIN),
        ("<|assistant|><think>", f"<|assistant|><think></think>{marks.ANSWER}", Marks("", "</think>")),
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


def test_an_engine_that_refuses_to_go_on_says_why_and_one_that_fails_is_not_excused() -> None:
    too_long = engine_error(ErrorCode.ENGINE_REJECTED, "the request exceeds the available context size")
    assert "no longer fits" in refused_to_go_on(too_long).message
    other = refused_to_go_on(engine_error(ErrorCode.ENGINE_REJECTED, "no such thing"))
    assert (other.body.code, "no such thing" in other.message) == (ErrorCode.NOT_CONTINUED, True)
    for kept in (engine_error(ErrorCode.ENGINE_FAILED, "x"), not_continued("y")):
        assert refused_to_go_on(kept) is kept
