"""What is wrong with a command line, in one sentence without its full stop."""

from __future__ import annotations

from cyclopts import (  # noqa: TID251
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from sollol_schemas.nearest import nearest


def told(error: CycloptsError) -> str:
    """The sentence, with what was meant where that can be guessed."""
    if isinstance(error, UnknownOptionError):
        return _unknown_flag(error)
    if isinstance(error, UnknownCommandError):
        return _unknown_command(error)
    if isinstance(error, MissingArgumentError):
        return _missing(error)
    if isinstance(error, UnusedCliTokensError):
        return f"it takes nothing more, and there is {' '.join(error.unused_tokens or ())!r}"
    return str(error).rstrip(".")


def line_of(error: CycloptsError, command: str) -> str:
    """The whole line: the sentence, and where to read on."""
    where = " ".join(error.command_chain or (command,))
    return f"sollol: {told(error)} (`sollol {where} --help` shows what there is)"


def _unknown_flag(error: UnknownOptionError) -> str:
    word = (error.token.keyword or error.token.value).partition("=")[0]
    flags = [name for argument in error.argument_collection for name in argument.names if argument.parse]
    longer = [flag for flag in flags if flag.endswith(f"-{word.lstrip('-')}")]  # --mode: --routing-mode
    meant = longer[0] if longer else nearest(word, flags)
    return f"there is no flag {word}" + (f"; did you mean {meant}?" if meant else "")


def _unknown_command(error: UnknownCommandError) -> str:
    word = error.unused_tokens[0] if error.unused_tokens else ""
    names = [] if error.app is None else [name for name in error.app if not name.startswith("-")]
    parent = " ".join(("sollol", *(error.command_chain or ())))
    meant = nearest(word, names)
    what = f"did you mean {meant!r}?" if meant else f"there are {', '.join(names)}"
    return f"`{parent}` has no command {word!r}; {what}"


def _missing(error: MissingArgumentError) -> str:
    if error.argument is None:
        return "an argument is missing"
    name = error.keyword or error.argument.name
    if error.keyword is None and error.argument.field_info.is_positional:
        return f"{name.lstrip('-').upper()} is missing"
    return f"{name} needs a value"
