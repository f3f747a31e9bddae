"""`sollol`: finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import itertools
import os
import sys

from cyclopts import App, CycloptsError, Group, UnknownOptionError

import sollol_agents.cli.lean_start  # noqa: F401  first of all that is ours
from sollol_agents.cli import exit_codes, help_text
from sollol_bus.errors import SollolError
from sollol_bus.observe.harmless import in_text
from sollol_bus.version import VERSION
from sollol_schemas.nearest import nearest

_START = Group("Start", sort_key=1)
_USE = Group("Use", sort_key=2)
_LOOK = Group("Look", sort_key=3)
_OPERATE = Group("Operate", sort_key=4)
_EXPERTS = Group("For experts", sort_key=5)
_ACTORS = Group("Single actors", sort_key=6)

_HERE = "sollol_agents.cli.commands"
_COMMANDS: tuple[tuple[str, str, Group, str], ...] = (
    ("up", "up:up", _START, "Start the whole system in one process."),
    ("node", "actors:node", _START, "Join the fleet with the engine on this machine."),
    ("discover", "discover:discover", _START, "Look for engines at addresses that you name."),
    ("demo", "demo:demo", _START, "Show a fleet at work, and a node killed while it works."),
    ("init", "init:init", _START, "Write a settings file with every setting."),
    ("service", "service:service", _START, "Keep a node, or the whole system, running as a service."),
    ("fleet", "fleet:fleet", _START, "Make a fleet that knows its members; list, renew, revoke them."),
    ("invite", "fleet:invite", _START, "Print the one command with which a machine joins."),
    ("join", "join:join", _START, "Become a member of the fleet that invited you."),
    ("doctor", "doctor:doctor", _START, "Check this machine and the fleet, and say what to do."),
    ("node-check", "node_check:node_check", _START, "Hold an agent of a node to the protocol of nodes."),
    ("version", "version:version", _START, "Show versions."),
    ("generate", "requesting:generate", _USE, "Stream an answer to a prompt."),
    ("chat", "requesting:chat", _USE, "Answer a message or hold a conversation."),
    ("embed", "requesting:embed", _USE, "Embed texts."),
    ("jobs", "jobs:jobs", _USE, "Submit, follow and steer durable jobs."),
    ("batch", "batch:batch", _USE, "Run a file of requests as durable jobs."),
    ("nodes", "listings:nodes", _LOOK, "List the nodes."),
    ("models", "listings:models", _LOOK, "List the models."),
    ("stats", "listings:stats", _LOOK, "Show requests, latency and speed."),
    ("reliability", "listings:reliability", _LOOK, "Show how reliable each node is."),
    ("usage", "accounts:usage", _LOOK, "Show who has used how much."),
    ("audit", "accounts:audit", _LOOK, "Show what operators did."),
    ("why", "explaining:why", _LOOK, "Explain one request."),
    ("route", "explaining:route", _EXPERTS, "Say where a request would run, and why."),
    ("watch", "watch:watch", _LOOK, "Print decisions and node events as they happen."),
    ("top", "top:top", _LOOK, "Show fleet, queue and decisions in the terminal, live."),
    ("drain", "node_operations:drain", _OPERATE, "Take a node out of service."),
    ("undrain", "node_operations:undrain", _OPERATE, "Put a node back into service."),
    ("load", "node_operations:load", _OPERATE, "Load a model on a node."),
    ("unload", "node_operations:unload", _OPERATE, "Unload a model from a node."),
    ("pull", "node_operations:pull", _OPERATE, "Download a model to a node."),
    ("keys", "keys:keys", _OPERATE, "Make, list or revoke API keys of the gateways."),
    ("strategy", "steering:strategy", _EXPERTS, "Show or change how nodes are picked."),
    ("breaker", "steering:breaker", _EXPERTS, "List or close circuit breakers."),
    ("set", "node_operations:set_node", _OPERATE, "Change a node's weight or labels."),
    ("scorer", "actors:scorer", _ACTORS, "Run a scorer."),
    ("dispatcher", "actors:dispatcher", _ACTORS, "Run a dispatcher."),
    ("recorder", "actors:recorder", _ACTORS, "Run a recorder."),
    ("registrar", "actors:registrar", _ACTORS, "Admit members to the fleet that was made on this machine."),
    ("gateway", "actors:gateway", _ACTORS, "Run an HTTP gateway."),
    ("dashboard", "actors:dashboard", _ACTORS, "Show the fleet in a browser."),
    ("engine", "engines:engine", _EXPERTS, "Run a real llama.cpp with a tiny generated model."),
    ("emulate", "engines:emulate", _EXPERTS, "Run an emulated Ollama, for tests and benchmarks."),
)
"""Name, place, group and summary of each command; a command's module is imported when it runs."""


def build_app() -> App:
    """The command line with every command, none of them imported yet."""
    app = App(
        name="sollol",
        help="Makes a fleet of LLM machines behave like one, over NATS.",
        help_epilogue=exit_codes.HELP,
        help_format="plaintext",
        version=VERSION,
    )
    for name, place, group, summary in _COMMANDS:
        app.command(f"{_HERE}.{place}", name=name, group=group, help=summary)
    return app


def run(argv: list[str]) -> int:  # noqa: PLR0911 one for each way in which a command line ends
    """Runs one command line; returns its exit code."""
    if argv and not argv[0].startswith("-") and argv[0] not in {name for name, *_ in _COMMANDS}:
        close = nearest(argv[0], (name for name, *_ in _COMMANDS))
        hint = f"did you mean `sollol {close}`?" if close else "`sollol --help` lists the commands"
        print(f"sollol: there is no command {argv[0]!r}; {hint}", file=sys.stderr)
        return exit_codes.USAGE
    if not argv:
        print(help_text.FIRST_COMMANDS, end="")
        return exit_codes.OK
    is_all = "--help-all" in argv
    argv = ["--help" if word == "--help-all" else word for word in argv]
    try:
        app = build_app()
        code = app(argv, result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"sollol: {_told(error)}; `sollol {argv[0]} --help` shows what there is", file=sys.stderr)
        return exit_codes.USAGE
    except SollolError as error:
        print(in_text(exit_codes.line_of(error)), file=sys.stderr)
        return exit_codes.code_of(error)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # the reader, such as `head`, has seen enough; Python must not complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.OK
    if {"--help", "-h"} & set(argv):
        _show_more(app, argv, is_all=is_all)
    return code if isinstance(code, int) else exit_codes.OK


def _show_more(app: App, argv: list[str], *, is_all: bool) -> None:
    """The examples of a command, and the flags that its help leaves out."""
    names: list[str] = []
    for word in itertools.takewhile(lambda word: not word.startswith("-"), argv):
        try:
            app = app[word]
        except KeyError:
            break
        names.append(word)
    command = app.default_command
    help_text.show_examples(names)
    if command is None or not names:
        return
    if is_all:
        help_text.show_further_flags(command)
    elif help_text.has_hidden_flags(command):
        print(f"\n`sollol {' '.join(names)} --help-all` shows the flags of connection, logging and all others too.")


def _told(error: CycloptsError) -> str:
    """What is wrong with a command line, in one sentence without its full stop."""
    if not isinstance(error, UnknownOptionError):
        return str(error).rstrip(".")
    word = (error.token.keyword or error.token.value).partition("=")[0]
    flags = [name for argument in error.argument_collection for name in argument.names if argument.parse]
    longer = [flag for flag in flags if flag.endswith(f"-{word.lstrip('-')}")]  # --mode: --routing-mode
    meant = longer[0] if longer else nearest(word, flags)
    return f"there is no flag {word}" + (f"; did you mean {meant}?" if meant else "")


def main() -> None:
    """The entry point of the `sollol` command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
