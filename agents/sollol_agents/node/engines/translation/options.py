"""Ollama's options in OpenAI's words: one table of what each means to an engine without them. Pure.

What Ollama itself does not know is ignored, as Ollama does. What only changes how a model is loaded is ignored and
said: these engines were started with their own way to run it. What changes the answer is translated, left out where it
asks for what happens anyway, and refused by name where the engine has no word for it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

from sollol_agents.node.engines.translation.bodies import Fields, malformed, unsupported
from sollol_schemas.context import RequestKind


class Flavour(StrEnum):
    """Whose server it is, as far as its parameters differ."""

    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"
    OTHER = "openai"


_LOADING: Final = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict")
_INTEGERS: Final = frozenset((*_LOADING, "num_keep", "seed", "num_predict", "top_k", "repeat_last_n"))
_FLOATS: Final = frozenset(
    ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
)
_RESOURCES: Final = frozenset(
    (*_LOADING[1:], "use_mmap", "use_mlock", "low_vram", "vocab_only", "f16_kv", "numa", "logits_all", "embedding_only")
)
"""How a model is loaded and run; the older of them Ollama ignores by now as well."""
_EVERYWHERE: Final = {
    name: name for name in ("temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty")
}
_WORDS: Final[dict[Flavour, dict[str, str]]] = {
    Flavour.LLAMA_CPP: _EVERYWHERE
    | {name: name for name in ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n")}
    | {"num_keep": "n_keep"},
    Flavour.VLLM: _EVERYWHERE | {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"},
    Flavour.OTHER: _EVERYWHERE,
}
"""An engine's own words for what changes the answer."""
_NEUTRAL: Final[dict[str, float]] = {"min_p": 0, "typical_p": 1, "repeat_penalty": 1, "repeat_last_n": -1}
"""What these say without an engine that knows them: nothing. Other engines penalise the whole context."""
_MOST: Final = 2**31 - 1


class Options(NamedTuple):
    """Options as parameters of an engine."""

    fields: Fields
    left_out: tuple[str, ...] = ()
    """Those that ask for another way to run the model."""


def translated(options: Any, kind: RequestKind, flavour: Flavour, context_length: int) -> Options:  # noqa: ANN401
    """The options of a native request for an engine.

    Args:
        options: From the body.
        kind: `generate` or `chat`: they differ in what no tokens at all mean.
        flavour: Whose server it is.
        context_length: Tokens of one slot's context; a `num_ctx` that it does not hold is left out and said.

    Raises:
        BadRequest: One is of the wrong type, in Ollama's words, or `unsupported_field` names it.
    """
    fields: Fields = {}
    left_out = []
    given = checked(options)
    for name, value in given.items():
        if name in _RESOURCES or (name == "num_ctx" and not value <= context_length):
            left_out.append(f"options.{name}")
        elif name == "num_predict":
            fields |= _limit(kind, value)
        elif not _says_nothing(name, value, given, flavour):
            fields[_word(name, flavour)] = _tuned(name, value, flavour, context_length)
    return Options(fields, tuple(left_out))


def checked(options: Any) -> Fields:  # noqa: ANN401 from the body
    """The options that say something, of the types that Ollama reads: any number is good for a whole one.

    Raises:
        BadRequest: One is of another type.
    """
    if not isinstance(options, dict):
        raise malformed("options must be an object")
    return {name: _checked(name, value) for name, value in options.items() if value is not None}


def _checked(name: str, value: Any) -> Any:  # noqa: ANN401 from the body
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _INTEGERS:
        return int(value) if is_number else _wrong(name, "type integer")
    if name in _FLOATS and not is_number:
        return _wrong(name, "type float32")
    if name == "use_mmap" and not isinstance(value, bool):
        return _wrong(name, "type boolean")
    if name == "stop":
        if not isinstance(value, list):
            return _wrong(name, "type array")
        if not all(isinstance(one, str) for one in value):
            return _wrong(name, "an array of strings")
    return value


def _wrong(name: str, expected: str) -> Any:  # noqa: ANN401 never returns, and stands where a value would
    raise malformed(f'option "{name}" must be of {expected}')


def _limit(kind: RequestKind, tokens: int) -> Fields:
    """Ollama's limit: negative is none; none at all is one token of a chat, and no limit of a prompt.

    What an engine's 32 bits cannot hold is none as well: cut to them, it would be a few tokens, or a refusal.
    """
    if tokens == 0 and kind is RequestKind.CHAT:
        return {"max_tokens": 1}
    return {"max_tokens": tokens} if 0 < tokens <= _MOST else {}


def _says_nothing(name: str, value: Any, given: Fields, flavour: Flavour) -> bool:  # noqa: ANN401 from the body
    """Whether an option asks for what happens without it, or for what Ollama does not know either."""
    if name not in _INTEGERS | _FLOATS | {"stop"} or name == "num_ctx":
        return True
    if name in _WORDS[flavour]:
        return value == [] or (name == "seed" and bool(value < 0))
    if name == "repeat_last_n" and given.get("repeat_penalty", 1) == 1:
        return True
    return name == "num_keep" or bool(_NEUTRAL.get(name) == value)  # nothing is shifted there that could be kept


def _word(name: str, flavour: Flavour) -> str:
    try:
        return _WORDS[flavour][name]
    except KeyError:
        raise unsupported(f"options.{name}") from None


def _tuned(name: str, value: Any, flavour: Flavour, context_length: int) -> Any:  # noqa: ANN401 from the body
    """A value as the engine spells it: vLLM's word for all candidates is -1; llama.cpp has none for a whole context."""
    if name == "repeat_last_n" and value < 0:
        return context_length or _MOST
    return -1 if flavour is Flavour.VLLM and name == "top_k" and value <= 0 else value
