"""How tables and values are laid out."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.cli.output import Form, counted, gib_of_bytes, note, on_screen, show_json, show_table, tell
from sollol_agents.cli.table import GAP, Place, cells, cut, places, width_of
from sollol_agents.cli.yaml_text import yaml_of
from sollol_agents.fleet_view.gpus import short_gpu, short_gpus

yaml = pytest.importorskip("yaml")

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Mn", "Me", "Cf")), max_size=40
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


@given(TEXTS, st.integers(1, 50))
def test_a_text_that_is_cut_fits_and_says_so(text: str, width: int) -> None:
    shown = cut(text, width)
    assert width_of(shown) <= width
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]))


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("llama3.1:8b, qwen3:32b", 18, "llama3.1:8b…"),
        ("weight 2.5, site=den", 9, "weight…"),
        ("abcdefghij", 6, "abcde…"),
        ("日本語モデル", 7, "日本語…"),
    ],
)
def test_a_text_is_cut_between_words_where_there_are_any(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown


@given(st.integers(1, 150), st.lists(st.lists(TEXTS, min_size=5, max_size=5), max_size=4))
def test_no_row_is_wider_than_the_terminal_and_no_number_is_cut(width: int, rows: list[list[str]]) -> None:
    headings = ("NODE", "STATE", "COUNT", "REMARKS", "SEEN")
    shown = places(headings, rows, width=width, whole={2, 4}, first_to_go=(4,))
    assert shown[0].column == 0
    for row in (headings, *rows):
        made = cells(row, shown, {2, 4})
        assert width_of(GAP.join(made)) <= width
        for text, (index, _) in zip(made, shown, strict=True):
            assert index not in (2, 4) or text.strip() == row[index].strip()


def test_the_least_columns_go_first_and_then_those_on_the_right() -> None:
    headings, rows = ("NODE", "STATE", "GPU", "SEEN"), [("attic", "up", "RTX 4090", "1.25 s")]
    kept = [[i for i, _ in places(headings, rows, width=w, whole={3}, first_to_go=(1,))] for w in (30, 23, 18, 13, 5)]
    assert kept == [[0, 1, 2, 3], [0, 2, 3], [0, 2], [0, 2], [0]]


def test_the_widest_column_gives_before_another_goes() -> None:
    shown = places(("NODE", "LOADED"), [("attic", "llama3.1:8b, qwen3:32b, phi4")], width=30)
    assert shown == [Place(0, 5), Place(1, 23)]


def test_where_everything_is_wanted_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with on_screen(Form.WIDE, 20):
        show_table(("NODE", "LOADED"), [("attic", "x" * 100)])
    assert capsys.readouterr().out == f"NODE   LOADED\nattic  {'x' * 100}\n"


def test_a_last_column_goes_on_in_the_next_line(capsys: pytest.CaptureFixture[str]) -> None:
    with on_screen(width=24):
        show_table(("CHECK", "FOUND"), [("node", "one is up and the others are not")], is_last_wrapped=True)
    assert capsys.readouterr().out == "CHECK  FOUND\nnode   one is up and the\n       others are not\n"


def test_a_sentence_is_broken_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    with on_screen(width=24):
        tell("one is up and the others are not", indent="  ")
    assert capsys.readouterr().out == "one is up and the others\n  are not\n"


def test_what_is_wrong_is_broken_between_words_too(capsys: pytest.CaptureFixture[str]) -> None:
    with on_screen(width=24):
        note("sollol: no node is known as 'attic'\ntry `sollol nodes`")
    assert capsys.readouterr().err == "sollol: no node is known\n  as 'attic'\ntry `sollol nodes`\n"


@given(JSON)
def test_yaml_says_what_json_says(value: Any) -> None:
    assert yaml.safe_load(yaml_of(value)) == value


def test_an_answer_may_be_wanted_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    with on_screen(Form.YAML):
        show_json({"node_id": "attic", "loaded": ["llama3.1:8b"], "slots": 2, "note": "yes", "labels": {}})
    said = 'node_id: attic\nloaded:\n  - "llama3.1:8b"\nslots: 2\nnote: "yes"\nlabels: {}\n'
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", "RTX 4070 Laptop"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA H200", "H200"),
        ("Tesla T4", "T4"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("Intel(R) Arc(TM) A770 Graphics", "Arc A770"),
        ("Apple M2 Max", "Apple M2 Max"),
        ("NVIDIA Graphics", "NVIDIA Graphics"),
    ],
)
def test_a_gpu_has_the_name_that_people_say(name: str, short: str) -> None:
    assert short_gpu(name) == short


def test_equal_gpus_are_counted() -> None:
    assert short_gpus(["NVIDIA H100", "NVIDIA H100", "Tesla T4"]) == "2 x H100, T4"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "-"), (700_000, "<0.1 GiB"), (4.9e9, "4.6 GiB")], ids=["unknown", "tiny", "usual"]
)
def test_a_size_has_one_unit(size: float, text: str) -> None:
    assert gib_of_bytes(size) == text


def test_one_thing_is_not_several() -> None:
    assert [counted(n, "node") for n in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
    assert counted(2, "copy", "copies") == "2 copies"


def test_colours_are_for_terminals_that_have_some(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(os, "environ", {"TERM": "xterm", "COLUMNS": "30"})
    show_table(("NODE", "STATE"), [("attic", "down")])
    assert "\x1b[31mdown\x1b[0m" in capsys.readouterr().out
    monkeypatch.setitem(os.environ, "NO_COLOR", "1")
    show_table(("NODE", "STATE"), [("attic", "down")])
    assert "\x1b" not in capsys.readouterr().out
