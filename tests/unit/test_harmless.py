"""Nothing that a stranger named steers a terminal or begins a line of a log."""

from __future__ import annotations

import io
import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.cli import log_lines, output
from sollol_bus.observe.harmless import in_line, in_text

NASTY = "llama\x1b[2J\x1b]0;title\x07\r\nforged line\x9b31m\u202etxt.exe\u2028\ud800"


@given(st.text())
def test_a_line_has_no_control_and_no_mark_that_turns_letters(text: str) -> None:
    shown = in_line(text + NASTY)
    assert [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")] == []
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert in_line(text) == text
    assert in_text(f"{text}\n\t{text}") == f"{text}\n\t{text}"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert in_line("a" * 10, limit=4) == "aaaa… (6 characters more)"


def test_commands_print_names_of_strangers_on_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(("MODEL", "NODE"), [(NASTY, "n1")])
    output.say(f"{NASTY} is loaded")
    output.note(NASTY)
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "\r" not in told.out + told.err
    assert len(told.out.splitlines()[:2]) == 2
    assert "forged line" in told.out.splitlines()[1]


@pytest.mark.parametrize("formatter", [log_lines.PlainLines(), log_lines.JsonLines()], ids=["text", "json"])
def test_a_log_line_is_one_line_of_bounded_length(formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "model %s", (NASTY * 1000,), None)
    record.model = NASTY * 1000
    handler.emit(record)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue()) < 20_000
    if isinstance(formatter, log_lines.JsonLines):
        assert "forged line" in json.loads(stream.getvalue())["model"]
