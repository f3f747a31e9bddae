"""What a person types in a conversation: lines, commands and pictures; and where the lines are kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sollol_agents.cli.commands.chat_lines import Command, Said, command_in, help_text, read_message, said_in


def typed(*lines: str) -> Callable[[str], str]:
    """Asks for a line after the other."""
    left = iter(lines)
    return lambda _prompt: next(left)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((" Hi ",), "Hi"),
        (('"""one', "  two", 'three"""'), "one\n  two\nthree"),
        (('"""', "one", '"""'), "one"),
        (('"""all in one"""',), "all in one"),
    ],
    ids=["a line", "several", "quotes alone", "quotes in one line"],
)
def test_a_message_is_a_line_or_what_stands_between_three_quotes(lines: tuple[str, ...], message: str) -> None:
    assert read_message(typed(*lines)) == message


def test_three_quotes_at_the_beginning_do_not_end_what_they_begin() -> None:
    assert read_message(typed('"""', "", 'x"""')) == "x"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/model llama3.1:8b", Command("/model", "llama3.1:8b")),
        ("/BYE", Command("/bye")),
        ("what is 1/2?", None),
        ("/tmp/cat.png what is this?", None),
        ("/tmp/absent.png", Command("/tmp/absent.png")),
    ],
    ids=["with a name", "in capitals", "a slash inside", "a picture", "no picture"],
)
def test_a_line_that_begins_with_a_slash_is_a_command_unless_a_picture_lies_there(
    text: str, command: Command | None
) -> None:
    assert command_in(text, lambda path: path == Path("/tmp/cat.png")) == command


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("what is ./cat.png?", Said("what is ?", (Path("cat.png"),))),
        ("'my cat.JPG' and dog\\ two.webp differ", Said("and differ", (Path("my cat.JPG"), Path("dog two.webp")))),
        ("tell of absent.png", Said("tell of absent.png")),
        ("two  blanks", Said("two  blanks")),
    ],
    ids=["a path", "blanks in names", "no such file", "no picture"],
)
def test_pictures_are_taken_out_of_a_message(text: str, said: Said) -> None:
    assert said_in(text, lambda path: "absent" not in path.name) == said


def test_the_help_names_every_command_and_key() -> None:
    assert all(word in help_text() for word in ("/help", "/model", "/why", "/clear", "/save", "/bye", '"""', "Ctrl-C"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no readline")
def test_typed_lines_are_kept_for_their_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "chat_history"
    script = (
        "import readline, sys; from pathlib import Path\n"
        "from sollol_agents.cli.commands.line_history import line_editing\n"
        "with line_editing((), Path(sys.argv[1])): readline.add_history(sys.argv[2])\n"
    )
    for line in ("first", "second"):
        subprocess.run([sys.executable, "-c", script, str(path), line], check=True)
    assert path.read_text().split() == ["first", "second"]
    assert path.stat().st_mode & 0o777 == 0o600
