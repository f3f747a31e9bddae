"""From the body of a request to what the engine shall do: one `Call`, whatever the dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from sollol_agents.lab.emulator import text, timing, wire
from sollol_agents.lab.emulator.dialects import Dialect, NativeChat, NativeGenerate, OpenAiChat, OpenAiCompletion
from sollol_agents.lab.emulator.scheduler import RunnerOptions
from sollol_agents.lab.emulator.wire import BadRequestError, NotFoundError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sollol_agents.lab.emulator.models import ModelSpec, ModelStore
    from sollol_agents.lab.emulator.presets import Preset

NO_EMBEDDINGS: Final = "This server does not support embeddings. Start it with `--embeddings`"


class Call(NamedTuple):
    """One request to generate.

    Attributes:
        model: the model that answers.
        prompt: its tokens; empty means load or unload only.
        answer: what it says.
        is_stream: answered as a stream.
        dialect: how it is answered.
        options: runner options it names.
        keep_alive_s: keep-alive it names; None for none.
    """

    model: ModelSpec
    prompt: list[str]
    answer: text.Answer
    is_stream: bool
    dialect: Dialect
    options: RunnerOptions
    keep_alive_s: float | None


class EmbedCall(NamedTuple):
    """One request to embed.

    Attributes:
        name: the name under which the model was asked for.
        model: the model that embeds.
        inputs: the tokens of each text.
        width: numbers in each vector.
        options: runner options it names.
        keep_alive_s: keep-alive it names; None for none.
    """

    name: str
    model: ModelSpec
    inputs: list[list[str]]
    width: int
    options: RunnerOptions
    keep_alive_s: float | None


def generate_call(body: bytes, store: ModelStore, preset: Preset) -> Call:
    """Returns the call in a body of /api/generate.

    Raises:
        BadRequestError: or one of its kinds, with the status and text of the answer.
    """
    request = wire.parse(body, wire.GenerateRequest)
    model = _model(store, request.model)
    options = wire.Options.read(request.options)
    _check_abilities(model, request.model, request.think, "generate")
    if request.raw or not request.prompt:
        rendered = request.prompt
    else:
        rendered = _render([("system", request.system)] if request.system else [], request.prompt)
    tokens = text.tokenize(rendered) if rendered else []
    wanted = text.Wanted(
        limit_tokens=_limit(options.num_predict),
        stop=wire.stop_texts(options.stop),
        json_schema=_schema(request.format),
        is_thinking=request.think is not False,
        keeps_space=request.raw,
    )
    answer = text.answer(tokens, wanted)
    context = () if request.raw else (*tokens, *(piece.text for piece in answer.pieces))
    return Call(
        model,
        _fitting(tokens, options.runner(), model, preset),
        answer,
        request.stream is not False,
        NativeGenerate(request.model, context=context),
        options.runner(),
        wire.keep_alive_s(request.keep_alive),
    )


def chat_call(body: bytes, store: ModelStore, preset: Preset) -> Call:
    """Returns the call in a body of /api/chat.

    Raises:
        BadRequestError: or one of its kinds, with the status and text of the answer.
    """
    request = wire.parse(body, wire.ChatRequest)
    model = _model(store, request.model)
    options = wire.Options.read(request.options)
    _check_abilities(model, request.model, request.think, "chat")
    room = _ctx_tokens(options.runner(), model, preset)
    tokens = _chat_tokens(request.messages, request.tools, room) if request.messages else []
    wanted = text.Wanted(
        limit_tokens=_limit(options.num_predict),
        stop=wire.stop_texts(options.stop),
        tools=_tools(request.tools),
        json_schema=_schema(request.format),
        is_thinking=request.think is not False,
    )
    return Call(
        model,
        _fitting(tokens, options.runner(), model, preset),
        text.answer(tokens, wanted),
        request.stream is not False,
        NativeChat(request.model),
        options.runner(),
        wire.keep_alive_s(request.keep_alive),
    )


def openai_chat_call(body: bytes, store: ModelStore, preset: Preset) -> Call:
    """Returns the call in a body of /v1/chat/completions.

    Raises:
        BadRequestError: or one of its kinds, with the status and text of the answer.
    """
    request = wire.parse(body, wire.OpenAiRequest)
    model = _model(store, request.model)
    if not request.messages:
        raise BadRequestError("[] is too short - 'messages'")
    _check_abilities(model, request.model, None, "chat")
    room = _ctx_tokens(RunnerOptions(), model, preset)
    tokens = _chat_tokens(request.messages, request.tools, room)
    wanted = text.Wanted(
        limit_tokens=_limit(request.max_tokens),
        stop=wire.stop_texts(request.stop),
        tools=_tools(request.tools),
        json_schema=_response_schema(request.response_format),
        is_thinking=request.reasoning_effort != "none",
    )
    prompt = _fitting(tokens, RunnerOptions(), model, preset)
    dialect = OpenAiChat(request.model, includes_usage=_includes_usage(request))
    return Call(model, prompt, text.answer(tokens, wanted), request.stream, dialect, RunnerOptions(), None)


def conversation_call(
    name: str,
    turns: list[wire.Message],
    store: ModelStore,
    preset: Preset,
    *,
    dialect: Dialect,
    is_stream: bool,
    tools: list[wire.Tool] | None = None,
    limit_tokens: int = -1,
    stop: tuple[str, ...] = (),
    json_schema: Mapping[str, Any] | None = None,
    is_thinking: bool = True,
) -> Call:
    """Returns the call of a conversation in a dialect that names no runner options.

    Raises:
        BadRequestError: or one of its kinds, with the status and text of the answer.
    """
    model = _model(store, name)
    _check_abilities(model, name, None, "chat")
    tokens = _chat_tokens(turns, tools, _ctx_tokens(RunnerOptions(), model, preset))
    wanted = text.Wanted(
        limit_tokens=limit_tokens,
        stop=stop,
        tools=_tools(tools),
        json_schema=json_schema,
        is_thinking=is_thinking,
    )
    prompt = _fitting(tokens, RunnerOptions(), model, preset)
    return Call(model, prompt, text.answer(tokens, wanted), is_stream, dialect, RunnerOptions(), None)


def openai_completion_call(body: bytes, store: ModelStore, preset: Preset) -> Call:
    """Returns the call in a body of /v1/completions.

    Raises:
        BadRequestError: or one of its kinds, with the status and text of the answer.
    """
    request = wire.parse(body, wire.OpenAiRequest)
    model = _model(store, request.model)
    _check_abilities(model, request.model, None, "generate")
    tokens = text.tokenize(request.prompt)
    wanted = text.Wanted(limit_tokens=_limit(request.max_tokens), stop=wire.stop_texts(request.stop), keeps_space=True)
    prompt = _fitting(tokens, RunnerOptions(), model, preset)
    dialect = OpenAiCompletion(request.model, includes_usage=_includes_usage(request))
    return Call(model, prompt, text.answer(tokens, wanted), request.stream, dialect, RunnerOptions(), None)


def embed_call(body: bytes, store: ModelStore, preset: Preset, *, is_old: bool) -> EmbedCall:
    """Returns the call in a body of /api/embed, or of /api/embeddings when `is_old`.

    Raises:
        BadRequestError: or one of its kinds, with the status and text of the answer.
    """
    request = wire.parse(body, wire.EmbedRequest)
    model = _embedding_model(store, request.model)
    texts = request.prompt if is_old else request.input or []
    inputs = [text.tokenize(one) for one in ([texts] if isinstance(texts, str) else texts)]
    options = wire.Options.read(request.options).runner()
    room = _ctx_tokens(options, model, preset)
    if request.truncate is False and any(len(one) > room for one in inputs):
        raise BadRequestError("the input length exceeds the context length")
    return EmbedCall(
        request.model,
        model,
        [one[:room] for one in inputs],
        min(request.dimensions or model.width, model.width),
        options,
        wire.keep_alive_s(request.keep_alive),
    )


def _model(store: ModelStore, name: str) -> ModelSpec:
    """Returns the model of that name."""
    if not name:
        raise BadRequestError("model is required")
    model = store.find(name)
    if model is None:
        raise NotFoundError(f"model '{name}' not found")
    return model


def _embedding_model(store: ModelStore, name: str) -> ModelSpec:
    """Returns the model of that name if it embeds."""
    if not name:
        raise BadRequestError("model is required")
    model = store.find(name)
    if model is None:
        raise NotFoundError(f'model "{name}" not found, try pulling it first')
    if not model.is_embedding:
        raise NotSupportedError(NO_EMBEDDINGS)
    return model


def _check_abilities(model: ModelSpec, name: str, think: bool | str | None, verb: str) -> None:
    """Refuses what the model cannot do."""
    if "completion" not in model.capabilities:
        raise BadRequestError(f'"{name}" does not support {verb}')
    if think and "thinking" not in model.capabilities:
        raise BadRequestError(f'"{name}" does not support thinking')


def _fitting(tokens: list[str], options: RunnerOptions, model: ModelSpec, preset: Preset) -> list[str]:
    """Returns the prompt if it fits the context of a slot."""
    room = _ctx_tokens(options, model, preset)
    if len(tokens) <= room:
        return tokens
    message = f"request ({len(tokens)} tokens) exceeds the available context size ({room} tokens), try increasing it"
    error = {
        "code": 400,
        "message": message,
        "type": "exceed_context_size_error",
        "n_prompt_tokens": len(tokens),
        "n_ctx": room,
    }
    # Ollama passes the engine's JSON on as the text of its own error
    raise BadRequestError(msgspec.json.encode({"error": error}).decode())


def _ctx_tokens(options: RunnerOptions, model: ModelSpec, preset: Preset) -> int:
    """Returns the context of one slot."""
    return min(options.num_ctx or timing.default_ctx_tokens(preset), model.ctx_tokens)


def _render(turns: list[tuple[str, str]], last_user_text: str) -> str:
    """Returns the prompt that the model's template makes of turns and a last user turn."""
    before = "".join(f"<|{role}|>{content}<|end|>" for role, content in turns)
    return f"{before}<|user|>{last_user_text}"


def _chat_tokens(messages: list[wire.Message], tools: list[wire.Tool] | None, room: int) -> list[str]:
    """Returns the tokens of a conversation; the oldest turns are left out while it exceeds the room."""
    kept = list(messages)
    while True:
        tokens = text.tokenize(_conversation(kept, tools))
        oldest = next((turn for turn in kept[:-1] if turn.role.lower() != "system"), None)
        if len(tokens) <= room or oldest is None:
            return tokens
        kept.remove(oldest)


def _conversation(messages: list[wire.Message], tools: list[wire.Tool] | None) -> str:
    """Returns a conversation as the model's template writes it; the last turn stays open."""
    parts = []
    if tools:
        listed = "".join(f"\n{tool.function.name}{tool.function.parameters}" for tool in tools)
        parts.append(f"<|system|>Tools:{listed}")
    parts += [f"<|{message.role.lower()}|>{message.text()}" for message in messages]
    return "<|end|>".join(parts)


def _tools(tools: list[wire.Tool] | None) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Returns names and parameter schemas."""
    return tuple((tool.function.name, tool.function.parameters or {}) for tool in tools or ())


def _schema(wanted_format: object) -> Mapping[str, Any] | None:
    """Returns the schema of a structured answer, None for plain text."""
    if wanted_format is None or wanted_format == "":
        return None
    if wanted_format == "json":
        return {}
    if isinstance(wanted_format, dict):
        return wanted_format
    raise BadRequestError(f'invalid format: "{wanted_format}"; expected "json" or a valid JSON Schema object')


def _response_schema(wanted: wire.ResponseFormat | None) -> Mapping[str, Any] | None:
    """Returns the schema in OpenAI's response_format."""
    if wanted is None or wanted.type == "text":
        return None
    schema = (wanted.json_schema or {}).get("schema", {})
    return schema if isinstance(schema, dict) else {}


def _limit(wanted: int | None) -> int:
    """Returns the limit of generated tokens; negative for none."""
    return -1 if wanted is None else wanted


def _includes_usage(request: wire.OpenAiRequest) -> bool:
    return request.stream_options is not None and request.stream_options.include_usage
