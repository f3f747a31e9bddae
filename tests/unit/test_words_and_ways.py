"""The glossary and the drawing of both ways name what is there, and no more of it than a reader can hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "concepts.md"
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
MAX_WORDS = 30

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
