"""From the body of a request to what the engine shall do: one `Call`, whatever the dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sollol_agents.lab.emulator import codes, names, prompts, refusals, scheduler, schema, text
from sollol_agents.lab.emulator.dialects import Dialect, NativeChat, NativeGenerate
from sollol_agents.lab.emulator.options import check_finite, read_options, runner_options
from sollol_agents.lab.emulator.reading import read_body
from sollol_agents.lab.emulator.refusals import RefusalError
from sollol_agents.lab.emulator.scheduler import RunnerOptions
from sollol_agents.requests.ollama.bodies import CHAT, GENERATE, Body

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.models import ModelSpec, ModelStore

_MOST_ALTERNATIVES: Final = 20
_KEPT_TOKENS: Final = 4  # of a prompt that is cut, at its beginning


class Machine(NamedTuple):
    """What a request meets: the models on the disk, and the context of one that names none."""

    store: ModelStore
    ctx_tokens: int

    def ctx_of(self, model: ModelSpec, options: RunnerOptions) -> int:
        """Returns the context of one slot."""
        made = scheduler.effective(options, automatic_ctx_tokens=self.ctx_tokens, trained_ctx_tokens=model.ctx_tokens)
        assert made.num_ctx is not None
        return made.num_ctx


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
        refusal: what the engine says instead, once the model is loaded.
        rendered: the prompt, where nothing but it is asked for.
    """

    model: ModelSpec
    prompt: list[str]
    answer: text.Answer
    is_stream: bool
    dialect: Dialect
    options: RunnerOptions
    keep_alive_s: float | None
    refusal: RefusalError | None = None
    rendered: str | None = None


class Talk(NamedTuple):
    """One conversation, in whatever dialect it came."""

    name: str
    turns: Sequence[prompts.Turn]
    tools: Sequence[Body] = ()
    think: bool | str | None = None
    format: object = None
    options: Mapping[str, Any] = {}
    keep_alive_s: float | None = None
    is_stream: bool = False
    is_truncated: bool = True
    shifts: bool = True
    logprobs: int | None = None
    is_rendered_only: bool = False
    is_think_relaxed: bool = False


_SILENT: Final = text.Answer(pieces=(), tokens=0, done_reason="stop")


def generate_call(body: bytes, machine: Machine) -> Call:
    """Returns the call in a body of /api/generate.

    Raises:
        RefusalError: the request cannot be served.
    """
    return generate(read_body(body, GENERATE), machine)


def generate(request: Body, machine: Machine, dialect: Dialect | None = None) -> Call:
    """Returns the call of a text to go on with; answered as on /api/generate unless another dialect is given.

    Raises:
        RefusalError: the request cannot be served.
    """
    name = request.get("model", "")
    model = names.find(machine.store, name, is_required=False)
    odds = alternatives(request)
    keep_alive_s = request.get("keep_alive")
    if not request.get("prompt") and keep_alive_s == 0:
        return _silent(model, dialect or NativeGenerate(name), RunnerOptions(), keep_alive_s)
    if request.get("raw") and any(request.get(key) for key in ("template", "system", "context")):
        raise RefusalError("raw mode does not support template, system, or context")
    insert = ["insert"] if request.get("suffix") else []
    _check_abilities(model, name, ["completion", *insert, *_thinking(request.get("think"))], verb="generate")
    options = read_options(request.get("options"), model.options)
    runner = runner_options(options, shifts=request.get("shift") is not False)
    if not request.get("prompt"):
        return _silent(model, dialect or NativeGenerate(name), runner, keep_alive_s)
    room = machine.ctx_of(model, runner)
    rendered, tokens = _continued(model, request)
    refusal = refusals.no_images(is_conversation=False) if request.get("images") and not model.sees else None
    if len(tokens) >= room and request.get("truncate") is False:
        refusal = refusals.too_long(len(tokens), room)
    elif len(tokens) >= room:
        tokens = _cut(tokens, room)
    refusal, json_schema = _format(request.get("format"), options, refusal, is_conversation=False, is_jinja=True)
    limit = options.get("num_predict", -1)
    wanted = text.Wanted(
        limit_tokens=limit if limit > 0 else -1,
        room_tokens=-1 if runner.shift else room - len(tokens),
        stop=tuple(options.get("stop") or ()),
        json_schema=json_schema,
        is_talker=model.is_talker,
    )
    answer = _SILENT if refusal is not None else text.answer(tokens, wanted)
    if dialect is None:
        told = (piece.token for piece in answer.pieces if piece.token)
        dialect = NativeGenerate(name, () if request.get("raw") else (*tokens[1:], *told), alternatives=odds)
    is_stream = request.get("stream") is not False
    shown = rendered if request.get("_debug_render_only") else None
    return Call(model, tokens, answer, is_stream, dialect, runner, keep_alive_s, refusal, shown)


def _continued(model: ModelSpec, request: Body) -> tuple[str, list[str]]:
    """Returns the prompt of a text to go on with, and its tokens after those of an earlier answer."""
    rendered = prompt = request["prompt"]
    earlier = [codes.token_text(one) for one in request.get("context") or ()]
    if not request.get("raw"):
        rendered = prompts.of_text(
            model,
            prompt,
            system=request.get("system") or model.system,
            suffix=request.get("suffix", ""),
            template=request.get("template", ""),
            is_continued=bool(earlier),
        )
    tokens = text.tokenize(rendered, is_wordy=model.is_talker)
    tokens[1:1] = earlier
    rendered = "".join(earlier) + rendered
    return rendered, tokens


def chat_call(body: bytes, machine: Machine) -> Call:
    """Returns the call in a body of /api/chat.

    Raises:
        RefusalError: the request cannot be served.
    """
    request = read_body(body, CHAT)
    talk = Talk(
        name=request.get("model", ""),
        turns=request.get("messages") or (),
        tools=request.get("tools") or (),
        think=request.get("think"),
        format=request.get("format"),
        options=request.get("options") or {},
        keep_alive_s=request.get("keep_alive"),
        is_stream=request.get("stream") is not False,
        is_truncated=request.get("truncate") is not False,
        shifts=request.get("shift") is not False,
        logprobs=alternatives(request),
        is_rendered_only=request.get("_debug_render_only", False),
    )
    return conversation(talk, machine, NativeChat(talk.name, alternatives=talk.logprobs))


def conversation(talk: Talk, machine: Machine, dialect: Dialect) -> Call:
    """Returns the call of a conversation.

    Raises:
        RefusalError: the request cannot be served.
    """
    model = names.find(machine.store, talk.name, is_required=True)
    if not talk.turns and talk.keep_alive_s == 0:
        return _silent(model, dialect, RunnerOptions(), talk.keep_alive_s)
    thinking = [] if talk.is_think_relaxed else _thinking(talk.think)
    needed = ["completion", *thinking, *(["tools"] if talk.tools else [])]
    _check_abilities(model, talk.name, needed, verb="chat")
    options = read_options(dict(talk.options), model.options)
    runner = runner_options(options, shifts=talk.shifts)
    if not talk.turns:
        return _silent(model, dialect, runner, talk.keep_alive_s)
    turns = prompts.first_turns(model, talk.turns)
    room = machine.ctx_of(model, runner)
    made, tokens = _fitting(model, turns, talk.tools, room if talk.is_truncated else None)
    is_jinja = not model.go_template
    refusal = _conversation_refusal(talk, turns, sees=model.sees, is_jinja=is_jinja)
    if refusal is None and len(tokens) >= room and not talk.is_rendered_only:
        refusal = refusals.too_long(len(tokens), room)
    refusal, json_schema = _format(talk.format, options, refusal, is_conversation=True, is_jinja=is_jinja)
    answer = _SILENT
    if refusal is None and not talk.is_rendered_only:
        room_tokens = -1 if runner.shift else room - len(tokens)
        wanted = _wanted(model, talk, options, json_schema, room_tokens=room_tokens, partial=made.partial)
        answer = text.answer(tokens, wanted)
    rendered = made.text if talk.is_rendered_only else None
    return Call(model, tokens, answer, talk.is_stream, dialect, runner, talk.keep_alive_s, refusal, rendered)


def _wanted(
    model: ModelSpec,
    talk: Talk,
    options: Mapping[str, Any],
    json_schema: schema.Schema | None,
    *,
    room_tokens: int,
    partial: str,
) -> text.Wanted:
    """Returns what a conversation asks of the text."""
    limit = options.get("num_predict", -1)
    return text.Wanted(
        limit_tokens=1 if limit == 0 else limit,
        room_tokens=room_tokens,
        stop=tuple(options.get("stop") or ()),
        tools=_offered(talk.tools),
        json_schema=json_schema,
        is_parsed=model.is_parsed,
        hides_calls=bool(model.go_template),
        is_talker=model.is_talker,
        is_certain=options.get("temperature") == 0,
        partial=partial,
    )


def _thinking(think: bool | str | None) -> list[str]:
    return ["thinking"] if think else []


def _silent(model: ModelSpec, dialect: Dialect, runner: RunnerOptions, keep_alive_s: float | None) -> Call:
    """Returns the call of a request that only loads or unloads."""
    return Call(model, [], _SILENT, False, dialect, runner, keep_alive_s)


def _check_abilities(model: ModelSpec, name: str, needed: Sequence[str], *, verb: str) -> None:
    """Refuses what the model cannot do."""
    for ability in needed:
        if ability in model.capabilities:
            continue
        if ability == "completion":
            raise RefusalError(f'"{name}" does not support {verb}')
        if ability == "thinking":
            raise RefusalError(f'"{name}" does not support thinking')
        raise RefusalError(f"{names.full_name(name.strip())} does not support {ability}")


def alternatives(request: Body) -> int | None:
    """Returns how many alternatives of each token are told; None when no probability is.

    Raises:
        RefusalError: the number is none that Ollama takes.
    """
    count: int = request.get("top_logprobs", 0)
    if not 0 <= count <= _MOST_ALTERNATIVES:
        raise RefusalError(f"top_logprobs must be between 0 and {_MOST_ALTERNATIVES}")
    return count if request.get("logprobs") else None


def _format(
    given: object, options: Mapping[str, Any], refusal: RefusalError | None, *, is_conversation: bool, is_jinja: bool
) -> tuple[RefusalError | None, schema.Schema | None]:
    """Returns what the engine refuses, and the schema of the answer."""
    if refusal is not None:
        return refusal, None
    try:
        check_finite(dict(options))
        return None, schema.read_format(given, is_conversation=is_conversation, is_jinja=is_jinja)
    except RefusalError as error:
        return error, None


def _conversation_refusal(
    talk: Talk, turns: Sequence[prompts.Turn], *, sees: bool, is_jinja: bool
) -> RefusalError | None:
    """Returns what the engine says to images, and to tools that it cannot make a grammar of."""
    if not sees and any(turn.get("images") for turn in turns):
        return refusals.no_images(is_conversation=is_jinja)
    if not is_jinja:
        return None
    if talk.tools and talk.logprobs is not None and talk.is_stream:
        return refusals.no_logprobs_beside_tools()
    tools = [prompts.go_tool(tool) for tool in talk.tools]
    for tool in tools:
        if tool["type"] != "function":
            listed = prompts.dumped(tools, indent=2)
            message = f"Failed to parse tools: Unsupported tool type: {prompts.compact(tool)}; tools = {listed}"
            return refusals.engine_refusal(message, "server_error", 500)
        try:
            schema.check_tool(tool)
        except RefusalError as error:
            return error
    return None


def _fitting(
    model: ModelSpec, turns: Sequence[prompts.Turn], tools: Sequence[Body], room: int | None
) -> tuple[prompts.Prompt, list[str]]:
    """Returns the prompt of a conversation; the oldest turns are left out while it exceeds the room."""
    kept = list(turns)
    while True:
        made = prompts.of_conversation(model, kept, tools)
        tokens = text.tokenize(made.text, is_wordy=model.is_talker)
        oldest = next((turn for turn in kept[:-1] if (turn.get("role") or "").lower() != "system"), None)
        if room is None or len(tokens) < room or oldest is None:
            return made, tokens
        kept.remove(oldest)


def _cut(tokens: list[str], room: int) -> list[str]:
    """Returns a prompt of which the beginning and half of what else there is room for are left.

    A cut that leaves a single token loses the blank before it.
    """
    kept = min(_KEPT_TOKENS, room - 3)
    tail = (room - kept) // 2
    end = tokens[-tail:] if tail > 1 else [tokens[-1].lstrip(" ")]
    return [*tokens[: 1 + kept], *end]


def _offered(tools: Sequence[Body]) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Returns names and parameter schemas."""
    functions = (tool.get("function") or {} for tool in tools)
    return tuple((function.get("name", ""), function.get("parameters") or {}) for function in functions)
