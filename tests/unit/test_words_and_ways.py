"""The glossary and the drawing of both ways name what is there, and no more of it than a reader can hold."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "concepts.md"
DRAWING = ROOT / "docs" / "architecture.md"
OPAQUE = frozenset(
    [
        "telling",
        "asked",
        "teller",
        "keeper",
        "crew",
        "burial",
        "ending",
        "care",
        "desk",
        "gate",
        "sane",
        "finite",
        "asking",
        "utils",
        "helpers",
        "common",
    ]
)
"""Names that say nothing about a file."""
MAX_WORDS, MAX_DECIDING, MAX_TYPES = 30, 16, 22

pytestmark = pytest.mark.skipif(not GLOSSARY.is_file(), reason="the documents are in the checkout only")


def glossary() -> list[tuple[str, str, Path]]:
    """Every word with its meaning and its file."""
    rows = re.findall(r"^\| ([a-z ]+) \| (.+?) \| `([^`]+)` \|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    return [(word, meaning, ROOT / path) for word, meaning, path in rows]


def files_of_words() -> list[tuple[str, Path]]:
    return [(word, path) for word, _, path in glossary()] if GLOSSARY.is_file() else []


def test_the_glossary_has_at_most_thirty_words_of_a_sentence_each() -> None:
    words = [word for word, _, _ in glossary()]
    assert 0 < len(words) <= MAX_WORDS
    assert len(set(words)) == len(words)
    assert [word for word, meaning, _ in glossary() if not re.fullmatch(r"[A-Z][^.]*(\.[a-z][^.]*)*\.", meaning)] == []


@pytest.mark.parametrize(("word", "path"), files_of_words())
def test_a_word_of_the_glossary_is_used_in_its_file(word: str, path: Path) -> None:
    assert re.search(word, path.read_text(encoding="utf-8"), re.IGNORECASE)


def test_no_file_has_a_name_that_says_nothing() -> None:
    folders = ("sollol_bus", "agents", "schemas", "bench", "tools")
    names = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in names if path.stem in OPAQUE] == []


# -- the drawing of both ways -------------------------------------------------------------------------------


class Step(NamedTuple):
    """One row of a way."""

    decides: bool
    function: str
    path: str


def steps() -> list[Step]:
    rows = re.findall(r"^\| (◆?) ?\| .+ \| `([\w.]+)` \| `([^`]+)` \|$", drawing(), re.MULTILINE)
    return [Step(bool(mark), function, path) for mark, function, path in rows]


def types() -> list[tuple[str, str]]:
    return re.findall(r"^\| `(\w+)` \| .+ \| `([^`]+)` \|$", drawing(), re.MULTILINE)


def drawing() -> str:
    return DRAWING.read_text(encoding="utf-8") if DRAWING.is_file() else ""


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """Every class, function and method of a file; methods with their class."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
            own = [n for n in ast.iter_child_nodes(node) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
            found |= {f"{node.name}.{function.name}" for function in own}
    return frozenset(found)


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.function)
def test_a_step_of_a_way_is_a_function_of_its_file(step: Step) -> None:
    assert step.function in names_in(step.path)


@pytest.mark.parametrize(("name", "path"), types())
def test_a_type_on_both_ways_is_a_class_of_its_file(name: str, path: str) -> None:
    assert name in names_in(path)


def test_a_reader_meets_few_deciding_functions_and_few_types() -> None:
    deciding = [step.function for step in steps() if step.decides]
    assert 8 <= len(deciding) <= MAX_DECIDING
    assert 15 <= len(types()) <= MAX_TYPES


def test_every_type_of_the_drawings_is_explained() -> None:
    drawings = re.findall(r"^```mermaid\nsequenceDiagram\n(.*?)^```", drawing(), re.DOTALL | re.MULTILINE)
    assert len(drawings) == 2
    in_brackets = " ".join(text for one in drawings for text in re.findall(r"\(([^)]*)\)", one))
    named = set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b", in_brackets))
    assert len(named) >= 15
    assert named <= {name for name, _ in types()}
