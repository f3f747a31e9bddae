"""`sollol`: finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys

import sollol_agents.cli.lean_start  # noqa: F401  before anything that it puts off
from sollol_agents.cli.catalogue import COMMANDS, FIRST_COMMANDS, overview

_WIDTH: int = 80
_INTERRUPTED: int = 130


def run(argv: list[str]) -> int:
    """Runs one command line; returns its exit code."""
    if not argv:
        print(FIRST_COMMANDS, end="")
        return 0
    if argv[0] in ("--help", "-h", "--help-all"):
        print(overview(_width()), end="")
        return 0
    if argv == ["--version"]:
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
    from sollol_agents.cli import exit_codes, quick  # noqa: PLC0415

    name = argv[0]
    if not name.startswith("-"):
        if name not in COMMANDS:
            return exit_codes.USAGE, f"sollol: there is no command {name!r}; {_meant(name)}"
        command, words = quick.found(COMMANDS[name].load(), argv[1:])
        if command is not None and (bound := quick.bound(command, words)) is not None:
            code = command(*bound.args, **bound.kwargs)
            return (code if isinstance(code, int) else exit_codes.OK), ""
    from sollol_agents.cli import with_cyclopts  # noqa: PLC0415

    return with_cyclopts.run(argv)


def _meant(name: str) -> str:
    from sollol_schemas.nearest import nearest  # noqa: PLC0415

    close = nearest(name, COMMANDS)
    return f"did you mean `sollol {close}`?" if close else "`sollol --help` lists the commands"


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH
    except (OSError, ValueError):  # no terminal, or a stream that only looks like one
        return _WIDTH


def main() -> None:
    """The entry point of the `sollol` command."""
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = _INTERRUPTED  # before the command has begun, or while it ends: nobody wants to see where
    sys.exit(code)


if __name__ == "__main__":
    main()
