"""`sollol chat`: one message answered, or a conversation on a terminal."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.commands import chat_lines
from sollol_agents.cli.commands.explaining import show_why
from sollol_agents.cli.commands.line_history import history_path, line_editing
from sollol_agents.cli.commands.requesting import (
    Format,
    KeepAlive,
    Model,
    Options,
    Verbose,
    body_fields,
    named,
    provenance,
    read_prompt,
    show_answer,
    write_text,
)
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.exit_codes import INTERRUPTED, line_of
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import counted, note, say, seconds, tell
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.sections import routing_section
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.results import Answer
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.nearest import did_you_mean
from sollol_schemas.queries import ModelView
from sollol_schemas.routing import Routing

T = TypeVar("T")

_PICTURE_BYTES_MAX: Final = 20 << 20
_SEES: Final = "vision"


@of_commands.for_clients(routing=routing_section())
def chat(
    model: Model,
    message: Annotated[
        str | None, Parameter(help="One message; without it, all of stdin, or a conversation on a terminal.")
    ] = None,
    *,
    routing: Routing,
    bus: BusConfig,
    log: LogConfig,
    system: Annotated[str | None, Parameter(help="System message.")] = None,
    format_: Format = None,
    option: Options = None,
    keep_alive: KeepAlive = None,
    json_: of_commands.JsonFlag = False,
    verbose: Verbose = False,
    no_history: Annotated[
        bool, Parameter(has_negative=False, show_default=False, show=False, help="Keep no typed lines on this machine.")
    ] = False,
) -> int:
    """Answers one message, or holds a conversation on a terminal.

    In a conversation, Ctrl-C cuts the answer, Ctrl-D leaves, and /help lists what else there is.
    """
    log_lines.set_up(log)
    fields = body_fields(system=None, format_=format_, option=option, keep_alive=keep_alive)
    talk = Conversation(model, bus, routing, fields, system=system or "", verbose=verbose)
    if message is not None or not sys.stdin.isatty():
        return talk.answer_once(read_prompt(message), json_=json_)
    talk.begin()
    words = (*chat_lines.NAMES, *(one.name for one in talk.models))
    with line_editing(words, None if no_history else history_path()):
        return talk.hold()


class Conversation:
    """What was said so far, and with whom.

    Args:
        model: Name of the model.
        bus: Where the fleet is.
        routing: Of every message.
        fields: Further fields of the engine's body.
        system: What the model is told before everything else.
        verbose: Whether every answer is followed by why it was made where it was.
    """

    def __init__(
        self,
        model: str,
        bus: BusConfig,
        routing: Routing,
        fields: dict[str, Any],
        *,
        system: str,
        verbose: bool,
    ) -> None:
        self.models: tuple[ModelView, ...] = ()
        """The models of the fleet, as they were last asked for."""
        self._model = model
        self._bus = bus
        self._routing = routing
        self._fields = fields
        self._system = system
        self._verbose = verbose
        self._said: list[dict[str, object]] = []
        self._last: str = ""
        """Id of the last request."""

    def answer_once(self, text: str, *, json_: bool) -> int:
        """Answers one message and nothing more."""

        async def ask(client: Client) -> int:
            messages: list[dict[str, object]] = [*self._told_first(), {"role": "user", "content": text}]
            stream = client.chat_stream(self._model, messages, routing=self._routing, **self._fields)
            return await show_answer(stream, json_=json_, verbose=self._verbose)

        try:
            return self._with_client(ask)
        except KeyboardInterrupt:
            return INTERRUPTED

    def begin(self) -> None:
        """Says how to go on, once it is sure that the fleet answers and has the model.

        Raises:
            SollolError: It does not, or has not.
        """
        self._look()
        self._check(self._model)
        note(f"{self._model}: /help lists the commands, Ctrl-D leaves")

    def hold(self) -> int:
        """Asks and answers until the input ends; a failed or cut answer does not end the conversation."""
        while True:
            try:
                text = chat_lines.read_message(input)
            except EOFError:
                say()
                return 0
            except KeyboardInterrupt:
                say()
                note("Ctrl-D or /bye leaves")
                continue
            try:
                command = chat_lines.command_in(text)
                if command is not None and command.name in chat_lines.LEAVING:
                    return 0
                if command is not None:
                    self._obey(command)
                elif text:
                    self._turn(text)
            except KeyboardInterrupt:
                say()
            except SollolError as error:
                note(line_of(error))

    # -- commands -------------------------------------------------------------------------------------------

    def _obey(self, command: chat_lines.Command) -> None:
        match command.name:
            case "/help" | "/?":
                tell(chat_lines.help_text(), indent=" " * 25)
            case "/model":
                self._change_model(command.rest)
            case "/why":
                self._explain()
            case "/system":
                self._system = command.rest or self._system
                tell(f"the model is told first: {self._system}" if self._system else "the model is told nothing first")
            case "/clear":
                self._said.clear()
                say("the conversation begins anew")
            case "/save":
                self._save(command.rest)
            case name:
                meant = did_you_mean(name, chat_lines.NAMES)
                raise ConfigError(f"there is no command {name}{meant or '; /help lists them'}")

    def _change_model(self, name: str) -> None:
        self._look()
        if name:
            self._check(name)
            self._model = name
            say(f"{name} answers from now on")
            return
        say(f"{self._model} answers; there are:")
        for one in self.models:
            where = f"loaded on {', '.join(one.loaded_on)}" if one.loaded_on else "not loaded"
            tell(f"  {one.name} ({where}{', sees pictures' if _SEES in one.capabilities else ''})")

    def _explain(self) -> None:
        if not self._last:
            raise ConfigError("nothing has been answered yet")
        show_why(self._with_client(lambda client: client.why(self._last)))

    def _save(self, name: str) -> None:
        if not name:
            raise ConfigError("name the file: /save FILE")
        path = Path(name).expanduser()
        told = {"model": self._model, "messages": [*self._told_first(), *self._said]}
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        tell(f"{counted(len(self._said), 'message is', 'messages are')} in {path}")

    # -- messages -------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> None:
        """Asks, shows the answer as it comes, and remembers both; a cut answer as far as it was seen."""
        self._said.append(self._message(text))
        parts: list[str] = []

        async def ask(client: Client) -> int:
            messages = [*self._told_first(), *self._said]
            stream = client.chat_stream(self._model, messages, routing=self._routing, **self._fields)
            self._last = stream.request_id
            async with stream:
                async for chunk in stream:
                    write_text(chunk.text)
                    parts.append(chunk.text)
            say()
            note(f"— {provenance(stream.answer) if self._verbose else _short(stream.answer)}")
            return 0

        try:
            self._with_client(ask)
        except KeyboardInterrupt:
            say()
            note("— cut")
        except SollolError:
            if parts:
                say()
            raise
        finally:
            if any(parts):
                self._said.append({"role": "assistant", "content": "".join(parts)})
            else:
                self._said.pop()  # it was never answered

    def _message(self, text: str) -> dict[str, object]:
        """The message with its pictures, where the model sees."""
        said = chat_lines.said_in(text)
        view = self._view(self._model)
        if not said.pictures:
            return {"role": "user", "content": text}
        if view is not None and view.capabilities and _SEES not in view.capabilities:
            seeing = [one.name for one in self.models if _SEES in one.capabilities]
            others = f"; /model {seeing[0]} does" if seeing else ""
            raise ConfigError(f"{self._model} does not see pictures{others}")
        pictures = [_picture(path) for path in said.pictures]
        for path in said.pictures:
            note(f"shown: {path}")
        return {"role": "user", "content": said.text, "images": pictures}

    # -- inside ---------------------------------------------------------------------------------------------

    def _told_first(self) -> list[dict[str, object]]:
        return [{"role": "system", "content": self._system}] if self._system else []

    def _look(self) -> None:
        """Asks which models there are."""
        self.models = self._with_client(Client.models).models

    def _view(self, name: str) -> ModelView | None:
        return next((one for one in self.models if name in (one.name, one.name.removesuffix(":latest"))), None)

    def _check(self, name: str) -> None:
        """Raises when the fleet is known not to have a model."""
        if self.models and self._view(name) is None:
            meant = did_you_mean(name, [one.name for one in self.models])
            raise ConfigError(f"no node has the model {name}{meant or '; `sollol models` lists what there is'}")

    def _with_client(self, ask: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """What `ask` returns, or `INTERRUPTED`; a connection of its own for each: people pause for hours."""
        found: list[T] = []

        async def main() -> int:
            async with running.connected(named(self._bus)) as client:
                found.append(await ask(client))
            return 0

        code = running.run(main)
        if not found:
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            raise AssertionError("it ends with an answer, an error or a signal")
        return found[0]


def _short(answer: Answer) -> str:
    """Where an answer was made, and how quickly."""
    decision, figures = answer.decision, answer.figures
    if decision is None or figures is None:
        return "answered"
    parts = [decision.node_id, seconds(figures.actual_s)]
    if figures.output_tokens and figures.decode_s:
        parts.append(f"{figures.output_tokens / figures.decode_s:.0f} tokens/s")
    return " · ".join(parts)


def _picture(path: Path) -> str:
    """A picture as engines take it.

    Raises:
        ConfigError: It cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > _PICTURE_BYTES_MAX:
            raise ConfigError(f"{path} is larger than {_PICTURE_BYTES_MAX >> 20} MiB; make it smaller")
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
