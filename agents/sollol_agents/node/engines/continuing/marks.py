"""How a model's template marks thoughts and calls of tools, found by rendering words that nothing else holds. Pure."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

THOUGHT: Final = "zqThoughtqz"
ANSWER: Final = "zqAnswerqz"
TOOL: Final = "zqToolqz"
_TAG: Final = re.compile(r"(?:<[^<>\s]{1,40}>|\[[A-Z_]{2,40}\])\s*$")
_EMPTY_THOUGHT: Final = re.compile(r"(<[^<>\s/]{1,40}>)(\s*)(</[^<>\s]{1,40}>\s*)$")
_TAGS: Final = re.compile(r"<[^<>\s]{1,40}>")
_OPEN_THOUGHT: Final = re.compile(r"<\|?(?:think|thinking|thought|reasoning)\b[^<>]*>\s*$")
_CHANNEL: Final = "<|channel|>"
_KNOWN_CALLS: Final = (
    "<tool_call>",
    "<tool_calls>",
    "<|tool_call|>",
    "<|tool_calls_section_begin|>",
    "<\uff5ctool\u2581calls\u2581begin\uff5c>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<function=",
    "<function_call>",
    "<|start|>assistant<|channel|>commentary",
    "<|channel|>commentary to=",
)


class Marks(NamedTuple):
    """What stands before a thought, and between it and the text."""

    opening: str
    """Empty where the prompt ends with it."""
    closing: str

    @property
    def close(self) -> str:
        """The mark itself, without the blanks around it."""
        return self.closing.strip()

    @property
    def after(self) -> str:
        """Blanks that belong to the mark, not to the text."""
        return self.closing[len(self.closing.rstrip()) :]

    @property
    def tokens_of_closing(self) -> list[str]:
        """Those of the second mark alone."""
        return _TAGS.findall(self.closing)

    @property
    def tokens(self) -> list[str]:
        """What is likely one token of the vocabulary, and not shown unless an engine is told to."""
        return _TAGS.findall(self.opening + self.closing)


def shown_turn(thought_field: str) -> dict[str, Any]:
    """A message of the assistant whose rendering shows the marks of a thought."""
    return {"role": "assistant", "content": ANSWER, thought_field: THOUGHT}


def thought_marks(rendered: str, shown: str) -> Marks | None:
    """The marks of a thought; None where the template shows none.

    Args:
        rendered: The prompt.
        shown: The same with `shown_turn` behind it.
    """
    begins = shown.rfind(THOUGHT)
    ends = shown.find(ANSWER, max(begins, 0))
    if begins < 0 and ends >= 0:
        return _empty_thought(rendered, shown[:ends])
    if begins < 0 or ends < 0:
        return None
    closing = shown[begins + len(THOUGHT) : ends]
    if not closing.strip():
        return None
    opening = _opening(rendered, shown[:begins])
    return None if opening is None else Marks(opening, closing)


def _empty_thought(rendered: str, before: str) -> Marks | None:
    """The marks of a thought by an empty one: so an Ollama opens an answer whose thought it does not pass on."""
    found = _EMPTY_THOUGHT.search(before)
    if found is None:
        return None
    is_open = rendered.rstrip().endswith(found[1])
    return Marks("" if is_open else found[1] + found[2], found[3])


def _opening(rendered: str, before: str) -> str | None:
    """What a model writes before its thought; None where the template shows no mark.

    Without a prompt for the answer a template may end the turn before first: only the last mark is the thought's then.
    """
    added = before.removeprefix(rendered)
    if added.startswith(_CHANNEL) or not added:
        return added
    tag = _TAG.search(added)
    if tag is None:
        return None
    return "" if rendered.rstrip().endswith(tag.group().strip()) else tag.group()


def ends_in_thought(rendered: str) -> bool:
    """Whether a prompt ends with the mark that opens a thought."""
    return _OPEN_THOUGHT.search(rendered[-80:]) is not None


def calling_turns() -> list[dict[str, Any]]:
    """Messages, in OpenAI's form, whose rendering shows how a call of a tool begins."""
    call = {"id": TOOL, "type": "function", "function": {"name": TOOL, "arguments": "{}"}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": TOOL, "name": TOOL, "content": ANSWER},
    ]


def call_marks(shown: str = "") -> tuple[str, ...]:
    """How calls of tools begin: as the rendering of `calling_turns` shows, and as is known of other templates."""
    before = shown[: shown.find(TOOL)] if TOOL in shown else ""
    tags = _TAGS.findall(before[before.rfind("\n", 0, -1) + 1 :][-120:])
    own = tuple(tag for tag in tags[-1:] if "assistant" not in tag and before.endswith((tag, '"')))
    return (*own, *(mark for mark in _KNOWN_CALLS if mark not in own))
