"""How a command line is read: every way to write a flag, and what is said of a line that is wrong."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from sollol_agents.cli import __main__ as program
from sollol_agents.cli import exit_codes, reading
from sollol_agents.cli.arguments import arguments_of, choices_of
from sollol_agents.cli.catalogue import COMMANDS
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.examples import EXAMPLES


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    ONE_LINE = "one_line"


def ask(
    model: str,
    prompt: str | None = None,
    *texts: str,
    count: int = 1,
    score: float | None = None,
    loud: bool = False,
    quiet: Annotated[bool, Parameter(has_negative=False)] = False,
    option: list[str] | None = None,
    by: list[Literal["team", "day"]] | None = None,
    secret: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    file: Path | None = None,
    output: Annotated[Form, Parameter(name=("--output", "-o"))] = Form.TABLE,
) -> None:
    """What tests read lines for."""


def look(addresses: Annotated[list[str], Parameter(name="ADDRESS")], *, why: str) -> None:
    """Takes a list where its place is, and a flag that must be given."""


def read(line: str) -> tuple[list[Any], dict[str, Any]]:
    return reading.bound(ask, shlex.split(line))


@pytest.mark.parametrize(
    ("line", "args", "flags"),
    [
        ("m", ["m"], {}),
        ("m hi", ["m", "hi"], {}),
        ("m hi a b", ["m", "hi", "a", "b"], {}),
        ("--count 2 m --score=1.5 hi", ["m", "hi"], {"count": 2, "score": 1.5}),
        ("m --score -1", ["m"], {"score": -1.0}),
        ("m --score 1e-3", ["m"], {"score": 0.001}),
        ("m --loud --quiet", ["m"], {"loud": True, "quiet": True}),
        ("m --no-loud", ["m"], {"loud": False}),
        ("m --loud=false --quiet=True", ["m"], {"loud": False, "quiet": True}),
        ("m --no-loud=false", ["m"], {"loud": True}),
        ("m --loud=1 --quiet=No", ["m"], {"loud": True, "quiet": False}),
        ("m --option a=1 --option b=2", ["m"], {"option": ["a=1", "b=2"]}),
        ("m --option '[1, 2]'", ["m"], {"option": ["[1, 2]"]}),
        ("m --by team --by day", ["m"], {"by": ["team", "day"]}),
        ("m --file ./x", ["m"], {"file": Path("x")}),
        ("m -o json", ["m"], {"output": Form.JSON}),
        ("m -ojson", ["m"], {"output": Form.JSON}),
        ("m -o=json", ["m"], {"output": Form.JSON}),
        ("m --output=json", ["m"], {"output": Form.JSON}),
        ("m -o one-line", ["m"], {"output": Form.ONE_LINE}),
        ("m -o one_line", ["m"], {"output": Form.ONE_LINE}),
        ("m -o JSON --by Team", ["m"], {"output": Form.JSON, "by": ["team"]}),
        ("--model m hi", ["m", "hi"], {}),
        ("m --prompt hi", ["m"], {"prompt": "hi"}),
        ("m --secret -x9", ["m"], {"secret": "-x9"}),
        ("m --secret=--loud", ["m"], {"secret": "--loud"}),
        ("m --secret=", ["m"], {"secret": ""}),
        ("m -5", ["m", "-5"], {}),
        ("m -", ["m", "-"], {}),
        ("m '- two words'", ["m", "- two words"], {}),
        ("m --option '-a b'", ["m"], {"option": ["-a b"]}),
        ("m -- --loud -- x", ["m", "--loud", "--", "x"], {}),
    ],
)
def test_a_line_gives_a_command_what_it_takes(line: str, args: list[Any], flags: dict[str, Any]) -> None:
    assert read(line) == (args, flags)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "MODEL is missing"),
        ("m --jsn", "there is no flag --jsn"),
        ("m --lod", "there is no flag --lod; did you mean --loud?"),
        ("m --hlp", "there is no flag --hlp; did you mean --help?"),
        ("m --no-quiet", "there is no flag --no-quiet; did you mean --quiet?"),
        ("m --loud --loud", "--loud is given more than once"),
        ("m --loud --no-loud", "--loud is given more than once"),
        ("m --count 1 --count 1", "--count is given more than once"),
        ("m --count", "--count needs a value"),
        ("m --option --loud", "--option needs a value"),
        ("m --secret --loud", "--secret needs a value"),
        ("m --secret --", "--secret needs a value"),
        ("m --count 1.5", "--count: '1.5' cannot be used; allowed: an integer"),
        ("m --score nan", "--score: 'nan' cannot be used; allowed: a number"),
        ("m --loud=2", "--loud: '2' cannot be used; allowed: true, false, or no value"),
        ("m --by teem", "--by: 'teem' cannot be used; allowed: team, day; did you mean team?"),
        ("m -o x", "-o: 'x' cannot be used; allowed: table, json, one_line"),
    ],
)
def test_a_wrong_line_is_told_in_one_sentence(line: str, said: str) -> None:
    with pytest.raises(reading.WrongLine) as caught:
        read(line)
    assert str(caught.value) == said


def test_a_list_takes_all_words_and_a_flag_may_be_needed() -> None:
    assert reading.bound(look, ["a", "b", "--why", "x"]) == ([["a", "b"]], {"why": "x"})
    for words, said in ((["--why", "x"], "ADDRESS is missing"), (["a"], "--why is missing")):
        with pytest.raises(reading.WrongLine, match=said):
            reading.bound(look, words)


@pytest.mark.parametrize("path", EXAMPLES)
def test_every_example_is_read(path: str) -> None:
    for line in EXAMPLES[path]:
        name, *words = shlex.split(line.partition(" < ")[0])[1:]
        found = reading.found(name, COMMANDS[name].load(), words)
        assert " ".join(found.path) == path
        assert callable(found.there)
        if not reading.asked_help(found.words):
            reading.bound(found.there, found.words)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_value_of_a_command_is_of_a_kind_that_is_read(name: str) -> None:
    there = COMMANDS[name].load()
    for command in [run for _, run in there] if isinstance(there, Commands) else [there]:
        for argument in arguments_of(command):
            word = (choices_of(argument.kind) or ("7",))[0]
            if not argument.is_switch:
                assert reading.value_of(argument, argument.title, word) is not None


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("help", exit_codes.OK, "Usage: sollol COMMAND\n", ""),
        ("help nodes", exit_codes.OK, "Usage: sollol nodes [FLAGS]\n", ""),
        ("help jobs list", exit_codes.OK, "Usage: sollol jobs list [FLAGS]\n", ""),
        ("jobs", exit_codes.OK, "Usage: sollol jobs COMMAND\n", ""),
        ("generate -h", exit_codes.OK, "Usage: sollol generate MODEL [PROMPT] [FLAGS]\n", ""),
        ("nodes --jsn --help", exit_codes.OK, "Usage: sollol nodes [FLAGS]\n", ""),
        ("help jbs", exit_codes.USAGE, "", "there is no command 'jbs'; did you mean `sollol jobs`?"),
        ("--hlp", exit_codes.USAGE, "", "--hlp is no command; did you mean `sollol --help`?"),
        ("--nats=x nodes", exit_codes.USAGE, "", "flags stand behind a command: `sollol COMMAND --nats`"),
        ("jobs --json", exit_codes.USAGE, "", "`sollol jobs` has no command '--json'; there are submit, list"),
        ("service install node --id x", exit_codes.USAGE, "", "no flag --id; flags among ARGS stand behind `--`"),
    ],
)
def test_lines_that_ask_for_help_or_need_it(
    line: str, code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(line.split()) == code
    said = capsys.readouterr()
    assert said.out.startswith(out)
    assert bool(said.out) is bool(out)
    assert err in said.err
    assert bool(said.err) is bool(err)
