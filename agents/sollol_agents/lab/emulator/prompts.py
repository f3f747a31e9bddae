"""The text that a conversation becomes before a model reads it.

Models whose file holds a Jinja template are rendered by the engine, which goes on with a trailing message of the
assistant; those with a template in Go's form (known to Ollama, or of a Modelfile) by Ollama, which closes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.lab.emulator.gotemplate import Template
from sollol_agents.requests.ollama import gojson

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.models import ModelSpec

Turn = dict[str, Any]

_KNOWN_ROLES: Final = {"developer": "system"}
_NO_THOUGHT: Final = "<think></think>"  # thoughts of messages are not passed on to the engine


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What a model reads, and the part of its answer that stands there already.

    Attributes:
        text: all of it.
        partial: text of a trailing message of the assistant, with which the answer begins.
    """

    text: str
    partial: str = ""


def of_conversation(model: ModelSpec, turns: Sequence[Turn], tools: Sequence[Turn]) -> Prompt:
    """Returns the prompt of a conversation; the model's own first messages are before it already."""
    if model.go_template:
        return Prompt(text=_by_go_template(Template(model.go_template), turns, tools))
    told = [_told(turn) for turn in turns]
    render = _JINJA[model.template]
    last = told[-1]
    if last["role"] != "assistant" or len(told) == 1 or last.get("tool_calls"):
        return Prompt(text=render(told, tools, is_open=True))
    partial = last["content"]
    text = render(told[:-1], tools, is_open=False)
    if not partial:
        return Prompt(text=text)
    text += (_NO_THOUGHT if model.is_parsed else "") + _OPENINGS[model.template] + partial
    return Prompt(text=text, partial=partial)


def of_text(model: ModelSpec, prompt: str, *, system: str, suffix: str, template: str, is_continued: bool) -> str:
    """Returns the prompt of /api/generate.

    Args:
        model: who reads it.
        prompt: what was sent.
        system: the system message, of the request or of the model.
        suffix: what comes after the text to fill in.
        template: a template that replaces the model's own; empty for none.
        is_continued: tokens of an earlier answer come before it: the model's first messages are in them.
    """
    turns = [{"role": "system", "content": system}] if system else []
    turns += [] if is_continued else list(model.turns)
    turns.append({"role": "user", "content": prompt})
    source = template or model.go_template
    if source:
        return _by_go_template(Template(source), turns, (), suffix=suffix)
    if model.template == "chatml":  # without a template of its own, the text is passed on as it is
        return prompt
    return _JINJA[model.template]([_told(turn) for turn in turns], (), is_open=True)


def first_turns(model: ModelSpec, turns: Sequence[Turn]) -> list[Turn]:
    """Returns a conversation after the model's own system message and first messages."""
    own = list(model.turns)
    if model.system and (turns[0].get("role") or "").lower() != "system":
        own.insert(0, {"role": "system", "content": model.system})
    return [*own, *turns]


def go_tool(tool: Turn) -> dict[str, Any]:
    """Returns a tool as Go writes it: every field, in the order of its type."""
    function = tool.get("function") or {}
    given = function.get("parameters") or {}
    parameters: dict[str, Any] = {"type": given.get("type", "")}
    parameters |= {key: given[key] for key in ("$defs", "items", "required") if given.get(key)}
    properties = given.get("properties")
    parameters["properties"] = (
        {name: _property(one) for name, one in properties.items()} if isinstance(properties, dict) else None
    )
    made = {"name": function.get("name", "")}
    if function.get("description"):
        made["description"] = function["description"]
    return {"type": tool.get("type", ""), "function": made | {"parameters": parameters}}


def dumped(value: object, *, indent: int | None = None) -> str:
    """Returns JSON as the engine's templates write it: blanks after commas and colons."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=0 if indent is None else indent)
    return text.decode()


def compact(value: object) -> str:
    """Returns JSON without any blanks."""
    return msgspec.json.encode(value).decode()


def _property(given: object) -> object:
    if not isinstance(given, dict):
        return given
    order = ("anyOf", "type", "items", "description", "enum", "properties", "required")
    return {key: given[key] for key in order if key in given}


def _told(turn: Turn) -> Turn:
    """Returns a message with the fields that every template reads."""
    role = (turn.get("role") or "").lower()
    return turn | {"role": _KNOWN_ROLES.get(role, role), "content": turn.get("content") or ""}


def _by_go_template(template: Template, turns: Sequence[Turn], tools: Sequence[Turn], *, suffix: str = "") -> str:
    joined = _joined(turns)
    texts = {
        role: "\n\n".join(turn["Content"] for turn in joined if turn["Role"] == role) for role in ("system", "user")
    }
    listed = gojson.write([go_tool(tool) for tool in tools]).decode() if tools else ""
    data = {"Messages": joined, "Tools": listed, "System": texts["system"], "Prompt": texts["user"]}
    if template.reads_messages or suffix:
        return template.render(data | {"Suffix": suffix})
    parts, system = [], ""
    for turn in joined:  # a template for one exchange is used for each in turn
        if turn["Role"] == "system":
            system = turn["Content"]
        elif turn["Role"] == "user":
            parts.append(template.render({"System": system, "Prompt": turn["Content"], "Suffix": "", "Response": ""}))
            system = ""
        else:
            parts.append(turn["Content"])
    return "".join(parts)


def _joined(turns: Iterable[Turn]) -> list[Turn]:
    """Returns messages as Go templates see them: neighbours of one role are one message."""
    found: list[Turn] = []
    for turn in turns:
        role, content = (turn.get("role") or "").lower(), turn.get("content") or ""
        if found and found[-1]["Role"] == role and role != "tool" and content:
            found[-1]["Content"] += f"\n\n{content}"
        else:
            found.append({"Role": role, "Content": content, "ToolCalls": _calls(turn)})
    return found


def _calls(turn: Turn) -> str:
    return "".join(compact(call.get("function") or {}) for call in turn.get("tool_calls") or ())


def _countdown(turns: Sequence[Turn], tools: Sequence[Turn], *, is_open: bool) -> str:
    """The template in the generated model's file."""
    parts = []
    if tools:
        listed = "".join(f"\n{dumped(go_tool(tool))}" for tool in tools)
        parts.append(f"<|system|>Tools:{listed}<|end|>")
    for place, turn in enumerate(turns):
        parts.append(_countdown_turn(turn))
        if not (is_open and place == len(turns) - 1):
            parts.append("<|end|>")
    return "".join(parts)


def _countdown_turn(turn: Turn) -> str:
    if turn["role"] != "assistant":
        return f"<|{turn['role']}|>{turn['content']}"
    calls = "".join(
        f'<tool_call>{{"name": "{call.get("function", {}).get("name", "")}", '
        f'"arguments": {dumped(call.get("function", {}).get("arguments") or {})}}}</tool_call>'
        for call in turn.get("tool_calls") or ()
    )
    return f"<|assistant|>{turn['content']}{calls}"


def _plain(turns: Sequence[Turn], tools: Sequence[Turn], *, is_open: bool) -> str:
    """The same without tools and thinking."""
    del tools
    parts = [f"<|{turn['role']}|>{turn['content']}" for turn in turns]
    return "<|end|>".join(parts) + ("" if is_open else "<|end|>")


def _chatml(turns: Sequence[Turn], tools: Sequence[Turn], *, is_open: bool) -> str:
    """What the engine takes for a file without a template."""
    del tools
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    return text + (_OPENINGS["chatml"] if is_open else "")


_JINJA: Final = {"countdown": _countdown, "plain": _plain, "chatml": _chatml}
_OPENINGS: Final = {"countdown": "", "plain": "", "chatml": "<|im_start|>assistant\n"}
"""What opens the answer when the last message is not open itself."""
