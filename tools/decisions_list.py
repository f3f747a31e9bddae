"""The list of decisions, made from their headings."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "docs" / "decisions"


def markdown() -> str:
    """One row for each decision, in order."""
    pages = sorted(FOLDER.glob("[0-9]*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in pages]
    rows = [title.partition(". ") for title in titles]
    lines = [f"| {number} | [{title}]({page.name}) |" for page, (number, _, title) in zip(pages, rows, strict=True)]
    return "\n".join(["| | decision |", "|---|---|", *lines])
