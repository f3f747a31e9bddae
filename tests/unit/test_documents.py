"""What the documents say about settings, files and each other is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sollol_agents.cli.sections import all_sections
from sollol_agents.cli.settings_table import markdown, renewed

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))] if README.is_file() else []

pytestmark = pytest.mark.skipif(not README.is_file(), reason="the documents are in the checkout only")


def test_the_table_of_settings_is_current() -> None:
    text = README.read_text(encoding="utf-8")
    assert renewed(text, markdown(all_sections())) == text, "run `make schemas`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
