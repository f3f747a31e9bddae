"""`sollol`: finds the command, runs it or explains it, and turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

import sollol_agents.cli.lean_start  # noqa: F401  before anything that it puts off
from sollol_agents.cli.catalogue import COMMANDS, FIRST_COMMANDS, overview

if TYPE_CHECKING:
    from sollol_agents.cli.reading import Found

_INTERRUPTED: int = 130


def run(argv: list[str]) -> int:
    """Runs one command line; returns its exit code."""
    if argv and argv[0] == "help":
        argv = [*argv[1:], "--help"]
    if not argv:
        print(FIRST_COMMANDS, end="")
        return 0
    if argv[0] in ("--help", "-h", "--help-all"):
        from sollol_agents.cli.layout import width  # noqa: PLC0415 for those who ask

        print(overview(width()), end="")
        return 0
    if argv[0] == "--version":
        from sollol_bus.version import VERSION  # noqa: PLC0415 for those who ask

        print(VERSION)
        return 0
    # what only looks at the commands is at its end here, and has loaded none of what runs them
    from sollol_agents.cli import exit_codes  # noqa: PLC0415
    from sollol_bus.errors import SollolError  # noqa: PLC0415
    from sollol_bus.observe.harmless import in_text  # noqa: PLC0415

    try:
        code, complaint = _run(argv)
    except SollolError as error:
        code, complaint = exit_codes.code_of(error), in_text(exit_codes.line_of(error))
    except KeyboardInterrupt:
        code, complaint = exit_codes.INTERRUPTED, ""
    except BrokenPipeError:
        # the reader, such as `head`, has seen enough
        _print_no_more()
        code, complaint = exit_codes.OK, ""
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _print_no_more()
        code, complaint = exit_codes.FAILED, f"sollol: there is no room for what it writes: {error.strerror}"
    if complaint:
        from sollol_agents.cli.output import note  # noqa: PLC0415 for those who erred

        note(complaint)
    return code


def _print_no_more() -> None:
    """Python must not complain again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> tuple[int, str]:
    """The exit code of a command line, and what was wrong with it, if anything was."""
    from sollol_agents.cli import exit_codes  # noqa: PLC0415

    name = argv[0]
    if name.startswith("-"):
        return exit_codes.USAGE, f"sollol: {_flag_without_command(name)}"
    if name not in COMMANDS:
        return exit_codes.USAGE, f"sollol: there is no command {name!r}; {_meant(name)}"
    from sollol_agents.cli import reading  # noqa: PLC0415

    path: tuple[str, ...] = (name,)
    try:
        found = reading.found(name, COMMANDS[name].load(), argv[1:])
        path = found.path
        asked = reading.asked_help(found.words)
        if asked or not callable(found.there):
            print(_page(found, is_all=asked == "--help-all"), end="")
            return exit_codes.OK, ""
        bound = reading.bound(found.there, found.words)
    except reading.WrongLine as error:
        return exit_codes.USAGE, f"sollol: {error} (`sollol {' '.join(path)} --help` shows what there is)"
    code = found.there(*bound.args, **bound.kwargs)
    return (code if isinstance(code, int) else exit_codes.OK), ""


def _page(found: Found, *, is_all: bool) -> str:
    from sollol_agents.cli import help_pages, layout  # noqa: PLC0415 for those who ask

    return help_pages.page(found.path, found.there, layout.width(), is_all=is_all)


def _flag_without_command(word: str) -> str:
    from sollol_schemas.nearest import nearest  # noqa: PLC0415

    flag = word.partition("=")[0]
    close = nearest(flag, ("--help", "--version"))
    meant = f"did you mean `sollol {close}`?" if close else f"flags stand behind a command: `sollol COMMAND {flag}`"
    return f"{flag} is no command; {meant}"


def _meant(name: str) -> str:
    from sollol_schemas.nearest import nearest  # noqa: PLC0415

    close = nearest(name, COMMANDS)
    return f"did you mean `sollol {close}`?" if close else "`sollol --help` lists the commands"


def main() -> None:
    """The entry point of the `sollol` command."""
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = _INTERRUPTED  # before the command has begun, or while it ends: nobody wants to see where
    sys.exit(code)


if __name__ == "__main__":
    main()
