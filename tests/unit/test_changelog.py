"""The changelog has the form that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
KINDS = ["Added", "Changed", "Fixed", "Security"]

pytestmark = pytest.mark.skipif(not CHANGELOG.is_file(), reason="the documents are in the checkout only")


def test_every_entry_stands_under_one_of_four_kinds() -> None:
    text = CHANGELOG.read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["[Unreleased]"]
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == KINDS
    assert "\n- " not in text.partition("### Added")[0]


def test_an_entry_is_one_behaviour_and_stands_once() -> None:
    text = CHANGELOG.read_text(encoding="utf-8")
    entries = [" ".join(entry.split()) for entry in re.findall(r"^- ((?:.+\n)(?:  .+\n)*)", text, re.MULTILINE)]
    assert len(set(entries)) == len(entries)
    assert [entry for entry in entries if not entry.endswith(".") or len(re.findall(r"\w\. [A-Z]", entry)) > 0] == []
