"""What cannot be gone on with, by the request alone. Pure."""

from __future__ import annotations

from typing import Any, Final

from sollol_agents.node.engines.refusals import engine_error
from sollol_agents.node.engines.translation.bodies import Fields
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode

_FORM: Final = "the answer's form is constrained, and the engine would begin that constraint anew"
_CONSTRAINTS: Final = (
    "format",
    "grammar",
    "json_schema",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "output_format",
)
_FREE: Final = ("", "text", None)
_REFUSED: Final = {
    "logprobs": "probabilities of tokens are not told of an answer that goes on",
    "top_logprobs": "probabilities of tokens are not told of an answer that goes on",
    "n_probs": "probabilities of tokens are not told of an answer that goes on",
    "prompt_logprobs": "probabilities of tokens are not told of an answer that goes on",
    "echo": "the prompt is part of the answer",
    "suffix": "the answer fills a gap, which an engine begins anew",
    "input_suffix": "the answer fills a gap, which an engine begins anew",
    "images": "images are not read again",
    "thinking_budget_tokens": "the thought has a limit of its own",
}
_ALONE: Final = ("n", "best_of", "n_cmpl")
_FORCING: Final = ("required", "any")
_TEXTS: Final = (
    "text",
    "input_text",
    "output_text",
    "tool_use",
    "tool_result",
    "thinking",
    "redacted_thinking",
    "reasoning_text",
    None,
)
_NO_REASON: Final = "the engine refused to go on"
_TOO_LONG: Final = "the prompt with what was said no longer fits the context"
_LENGTH_WORDS: Final = ("context", "too long", "maximum model length", "longest")
_OF_THE_REQUEST: Final = (ErrorCode.ENGINE_REJECTED, ErrorCode.BAD_REQUEST, ErrorCode.UNSUPPORTED_FIELD)


def not_continued(reason: str) -> SollolError:
    """The refusal to go on with an answer, for this reason."""
    return engine_error(ErrorCode.NOT_CONTINUED, reason)


def check(fields: Fields) -> None:
    """Returns when nothing in a body of any dialect forbids to go on with its answer.

    Raises:
        SollolError: `not_continued`, with the reason.
    """
    if any(fields.get(name) not in (None, "", {}) for name in _CONSTRAINTS):
        raise not_continued(_FORM)
    for shape in (fields.get("response_format"), _in(fields.get("text"), "format")):
        if isinstance(shape, dict) and shape.get("type") not in _FREE:
            raise not_continued(_FORM)
    if _in(fields.get("output_config"), "format"):
        raise not_continued(_FORM)
    for name, reason in _REFUSED.items():
        if fields.get(name):
            raise not_continued(reason)
    if any(isinstance(fields.get(name), int) and fields[name] > 1 for name in _ALONE):
        raise not_continued("several answers were asked for at once")
    choice = fields.get("tool_choice")
    if choice in _FORCING or (isinstance(choice, dict) and choice.get("type") not in ("auto", "none")):
        raise not_continued("a call of a tool is forced, and not parsed here")
    for turns in (fields.get("messages"), fields.get("input")):
        _check_turns(turns)


def refused_to_go_on(error: SollolError) -> SollolError:
    """What an engine's refusal of the raw completion means; any other error as it is."""
    if error.body.code not in _OF_THE_REQUEST:
        return error
    said = error.message.lower()
    if any(word in said for word in _LENGTH_WORDS):
        return not_continued(_TOO_LONG)
    return not_continued(f"{_NO_REASON}: {error.message}")


def _check_turns(turns: Any) -> None:  # noqa: ANN401 from the body
    for turn in turns if isinstance(turns, list) else ():
        if not isinstance(turn, dict):
            continue
        if turn.get("images"):
            raise not_continued(_REFUSED["images"])
        content = turn.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") not in _TEXTS:
                raise not_continued(f"a part of the conversation of type {part.get('type')!r:.40} is not read again")


def _in(value: Any, name: str) -> Any:  # noqa: ANN401 from the body
    return value.get(name) if isinstance(value, dict) else None
