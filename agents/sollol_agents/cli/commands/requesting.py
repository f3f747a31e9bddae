"""`sollol generate` and `embed`: requests from the terminal, and what `chat` has of them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import counted, is_terminal, note, say, seconds, show_json, show_json_line, show_table
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.sections import routing_section
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.observe.harmless import in_text
from sollol_bus.sdk.results import Answer, AnswerStream
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.inboxes import client_inbox_prefix
from sollol_schemas.routing import Routing

_SHOWN_NUMBERS = 4

Model = Annotated[str, Parameter(help="Name of the model, as `sollol models` lists it.")]
Options = Annotated[
    list[str] | None,
    Parameter(name="--option", help="Engine option KEY=VALUE, repeatable: temperature=0."),
]
KeepAlive = Annotated[
    str | None, Parameter(show=False, help="How long the engine keeps the model: 10m, 3600, -1 for ever.")
]
Format = Annotated[
    str | None, Parameter(name="--format", show=False, help="`json`, or a JSON Schema that the answer must follow.")
]
Verbose = Annotated[
    bool, Parameter(has_negative=False, show_default=False, help="Say on stderr where the answer was made and why.")
]
Prompt = Annotated[str | None, Parameter(help="The prompt; without it, all of stdin.")]


@of_commands.for_clients(routing=routing_section())
def generate(
    model: Model,
    prompt: Prompt = None,
    *,
    routing: Routing,
    bus: BusConfig,
    log: LogConfig,
    system: Annotated[str | None, Parameter(help="System prompt.")] = None,
    format_: Format = None,
    option: Options = None,
    keep_alive: KeepAlive = None,
    json_: of_commands.JsonFlag = False,
    verbose: Verbose = False,
    dry_run: Annotated[
        bool, Parameter(has_negative=False, show_default=False, help="Only say where it would run, and why.")
    ] = False,
) -> int:
    """Streams an answer to a prompt.

    Ctrl-C cancels the request on the fleet.
    """
    log_lines.set_up(log)
    text = read_prompt(prompt)
    fields = body_fields(system=system, format_=format_, option=option, keep_alive=keep_alive)

    async def main() -> int:
        async with running.connected(named(bus)) as client:
            if dry_run:
                show_json(await client.route(model, text, routing=routing))
                return 0
            stream = client.generate_stream(model, text, routing=routing, **fields)
            return await show_answer(stream, json_=json_, verbose=verbose)

    return running.run(main)


@of_commands.for_clients(routing=routing_section())
def embed(
    model: Model,
    *texts: Annotated[str, Parameter(help="Texts to embed; without any, each line of stdin is one.")],
    routing: Routing,
    bus: BusConfig,
    log: LogConfig,
    keep_alive: KeepAlive = None,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Embeds texts and shows their vectors."""
    log_lines.set_up(log)
    inputs = list(texts) or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not inputs:
        raise ConfigError("nothing to embed: give texts, or lines on stdin")
    fields = body_fields(system=None, format_=None, option=None, keep_alive=keep_alive)

    async def main() -> int:
        async with running.connected(named(bus)) as client:
            result = await client.embed(model, inputs, routing=routing, **fields)
        if json_:
            show_json(result)
            return 0
        rows = [
            (text[:40], str(len(vector)), " ".join(f"{x:.4f}" for x in vector[:_SHOWN_NUMBERS]) + " …")
            for text, vector in zip(inputs, result.embeddings, strict=False)
        ]
        show_table(("TEXT", "SIZE", "VECTOR"), rows, numbers=("SIZE",))
        return 0

    return running.run(main)


def read_prompt(given: str | None) -> str:
    """The prompt from the command line, or all of stdin."""
    if given is not None:
        return given
    if sys.stdin.isatty():
        raise ConfigError("no prompt: write it behind the model's name, or pipe it in")
    return sys.stdin.read()


def body_fields(
    *, system: str | None, format_: str | None, option: list[str] | None, keep_alive: str | None
) -> dict[str, Any]:
    """The fields of the engine's body that the flags stand for.

    Raises:
        ConfigError: An option is not KEY=VALUE, or the format is neither `json` nor JSON.
    """
    fields: dict[str, Any] = {"system": system, "keep_alive": number_or_text(keep_alive)}
    if option:
        pairs = [text.partition("=") for text in option]
        for key, equals, _ in pairs:
            if not key or not equals:
                raise ConfigError(f"--option {key!r} must be KEY=VALUE, for example temperature=0")
        fields["options"] = {key: _json_or_text(value) for key, _, value in pairs}
    if format_ is not None:
        fields["format"] = _json_or_text(format_)
        if isinstance(fields["format"], str) and format_ != "json":
            raise ConfigError("--format must be `json` or a JSON Schema")
    return {name: value for name, value in fields.items() if value is not None}


def provenance(answer: Answer) -> str:
    """Where an answer was made, how long it took, and why it was made there; empty when unknown."""
    decision, figures = answer.decision, answer.figures
    if decision is None:
        return ""
    parts = [f"{decision.node_id} ({decision.mode}, {decision.strategy})"]
    if figures is not None:
        parts.append(f"{seconds(figures.actual_s)}, predicted {seconds(decision.forecast.total_s)}")
        if figures.output_tokens and figures.decode_s:
            parts.append(
                f"{counted(figures.output_tokens, 'token')} at {figures.output_tokens / figures.decode_s:.0f}/s"
            )
    if decision.queue_s >= 0.01:
        parts.append(f"waited {seconds(decision.queue_s)}")
    if decision.attempt > 1:
        parts.append(f"attempt {decision.attempt}")
    return " · ".join([*parts, decision.reason])


def write_text(text: str) -> None:
    """A piece of an answer, at once; nothing in it steers a terminal."""
    sys.stdout.write(in_text(text) if is_terminal() else text)
    sys.stdout.flush()


async def show_answer(stream: AnswerStream, *, json_: bool, verbose: bool) -> int:
    """Prints an answer as it comes."""
    try:
        async with stream:
            async for chunk in stream:
                if not json_ and chunk.text:
                    write_text(chunk.text)
    except SollolError:
        if verbose or is_terminal():
            note(f"— failed · request {stream.request_id}")
        raise
    answer = stream.answer
    if json_:
        show_json(answer)
        return 0
    if not answer.text.endswith("\n"):
        say()
    for call in answer.tool_calls:
        show_json_line(call)
    if verbose or is_terminal():
        note(f"— {provenance(answer)} · request {answer.request_id}")
    return 0


def named(bus: BusConfig) -> BusConfig:
    """The settings of the connection, with inboxes as clients have them."""
    return msgspec.structs.replace(bus, inbox_prefix=client_inbox_prefix(bus.user))


def _json_or_text(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def number_or_text(text: str | None) -> object:
    """A number where the text is one, else the text."""
    if text is None:
        return None
    value = _json_or_text(text)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else text
