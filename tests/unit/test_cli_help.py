"""Help is short: what is often needed, two examples, and a way to the rest."""

from __future__ import annotations

import inspect
import io
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sollol_agents.cli import __main__ as program
from sollol_agents.cli import exit_codes, help_pages, layout, reading
from sollol_agents.cli.catalogue import COMMANDS, GROUPS
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.examples import EXAMPLES

FLAGS_MOST = 12


def commands(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every command at a word and below it, with its words."""
    there = COMMANDS[name].load()
    if isinstance(there, Commands):
        yield from ((f"{name} {below}", run) for below, run in there)
    else:
        yield name, there


def flags(command: Callable[..., Any]) -> dict[str, bool]:
    """The flags of a command, and whether its help shows them."""
    found = {}
    hints = typing.get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        told = [m for m in getattr(hints.get(parameter.name), "__metadata__", ()) if isinstance(m, Parameter)]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            name = told[0].names[0] if told and told[0].names else f"--{parameter.name.replace('_', '-')}"
            found[name] = not told or told[0].show
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_few_flags_and_two_examples(name: str) -> None:
    for path, command in commands(name):
        shown = [flag for flag, is_shown in flags(command).items() if is_shown]
        assert len(shown) <= FLAGS_MOST, f"{path} shows {shown}"
        assert len(EXAMPLES.get(path, ())) == 2, path


def test_every_example_is_of_a_command_and_its_flags() -> None:
    known = dict(pair for name in COMMANDS for pair in commands(name))
    assert set(EXAMPLES) <= set(known)
    for path, examples in EXAMPLES.items():
        there = {*flags(known[path]), "--help-all", "-o", "<", "-1"}
        for example in examples:
            assert example.startswith(f"sollol {path}")
            given = {word for word in example.split() if word.startswith("-")}
            assert {word.replace("--no-", "--") for word in given} <= there, example


def test_all_flags_come_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["nodes", "--help"]) == exit_codes.OK
    short = capsys.readouterr().out
    assert "--nats-creds-file" not in short
    assert "sollol nodes --help-all" in short
    assert program.run(["nodes", "--help-all"]) == exit_codes.OK
    whole = capsys.readouterr().out
    for flag in ("--nats-creds-file", "--log-level", "--config", "--watch"):
        assert flag in whole


def test_without_a_command_the_first_five_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run([]) == exit_codes.OK
    said = capsys.readouterr().out
    assert [name for name in ("up", "join", "nodes", "generate", "doctor") if f"  sollol {name}" not in said] == []
    assert said.count("\n  sollol ") == 5
    assert max(map(len, said.splitlines())) <= 80


def test_experts_and_single_actors_stand_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["--help"]) == exit_codes.OK
    said = capsys.readouterr().out
    places = [said.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    assert max(map(len, said.splitlines())) <= 80


PAGES = ("up", "generate", "embed", "jobs", "jobs purge", "service install")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_pages_look_as_they_were_kept(columns: int, assert_kept: Callable[[str, str], None]) -> None:
    kept = ""
    for line in PAGES:
        name, *words = line.split()
        found = reading.found(name, COMMANDS[name].load(), words)
        kept += help_pages.page(found.path, found.there, columns) + "\n"
    assert_kept(f"help_{columns}", kept)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [40, 80])
def test_a_page_is_as_wide_as_the_terminal_and_hides_nothing_when_all_is_wanted(name: str, columns: int) -> None:
    for path, command in commands(name):
        text = help_pages.page(path.split(), command, columns, is_all=True)
        for line in text.splitlines():
            assert len(line) <= columns or line.strip().count(" ") <= 1 or line.startswith("  sollol "), line
        assert [flag for flag in flags(command) if f"  {flag}" not in text] == []
        assert "None" not in text
        assert "--help-all` shows" not in text


@pytest.mark.parametrize(("told", "columns"), [("100", 100), ("5", 20), ("0", 80), ("many", 80), ("", 80)])
def test_the_environment_says_how_wide_a_page_is(told: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", told)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert layout.width() == columns
