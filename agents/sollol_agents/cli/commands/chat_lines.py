"""What a person types in a conversation: commands, messages of several lines, and pictures named by their paths.

Pure but for the look whether a file is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

QUOTES: Final = '"""'
COMMANDS: Final = {
    "/help": "this list",
    "/model [NAME]": "tell which models there are, or go on with another one",
    "/why": "why the last answer was made where it was",
    "/system [TEXT]": "show or set what the model is told before everything else",
    "/clear": "forget the conversation so far",
    "/save FILE": "write the conversation to a file, as JSON",
    "/bye": "leave, as Ctrl-D does",
}
LEAVING: Final = frozenset({"/bye", "/exit", "/quit"})
NAMES: Final = tuple(form.partition(" ")[0] for form in COMMANDS)
_PICTURE: Final = re.compile(
    r"""'(?P<single>[^'\n]+?\.(?:png|jpe?g|webp))'|"(?P<double>[^"\n]+?\.(?:png|jpe?g|webp))"|"""
    r"""(?P<bare>(?:\\.|[^\s\\'"])+?\.(?:png|jpe?g|webp))(?=$|[\s,;:!?)])""",
    re.IGNORECASE,
)
_BLANKS: Final = re.compile(" {2,}")
_ESCAPED: Final = re.compile(r"\\(.)")


class Command(NamedTuple):
    """A line that begins with `/`."""

    name: str
    rest: str = ""


class Said(NamedTuple):
    """A message, without the paths of its pictures."""

    text: str
    pictures: tuple[Path, ...] = ()


def help_text() -> str:
    """The commands and keys, a line each."""
    rows = [
        *COMMANDS.items(),
        (QUOTES, "begin a message of several lines, and end it"),
        ("PATH.png, .jpg, .webp", "show a picture to a model that sees"),
        ("Ctrl-C", "cut the answer, or forget the line"),
    ]
    width = max(len(form) for form, _ in rows)
    return "\n".join(f"  {form:<{width}}  {what}" for form, what in rows)


def read_message(ask: Callable[[str], str]) -> str:
    """The next message: one line, or what stands between two of three double quotes.

    Args:
        ask: Shows a prompt and returns the line that a person types.
    """
    line = ask(">>> ")
    if not line.lstrip().startswith(QUOTES):
        return line.strip()
    lines = [line.lstrip()[len(QUOTES) :]]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(ask("... "))
    lines[-1] = lines[-1].rstrip()[: -len(QUOTES)]
    return "\n".join(lines).strip("\n")


def command_in(text: str, is_file: Callable[[Path], bool] = Path.is_file) -> Command | None:
    """The command that a message is; None of one for the model, also where it begins with the path of a picture."""
    if not text.startswith("/") or "\n" in text:
        return None
    if (match := _PICTURE.match(text)) is not None and is_file(_path_in(match)):
        return None
    name, _, rest = text.partition(" ")
    return Command(name.lower(), rest.strip())


def said_in(text: str, is_file: Callable[[Path], bool] = Path.is_file) -> Said:
    """The message with the pictures that it names; a path where no file lies stays a part of the text."""
    pictures: list[Path] = []

    def take(match: re.Match[str]) -> str:
        path = _path_in(match)
        if not is_file(path):
            return match[0]
        pictures.append(path)
        return ""

    left = _PICTURE.sub(take, text)
    return Said(_BLANKS.sub(" ", left).strip() if pictures else text, tuple(pictures))


def _path_in(match: re.Match[str]) -> Path:
    quoted = match["single"] or match["double"]
    return Path(quoted or _ESCAPED.sub(r"\1", match["bare"])).expanduser()
