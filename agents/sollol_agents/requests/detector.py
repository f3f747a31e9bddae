"""Task detection: what kind of work a prompt asks for, by scored words.

Each word, and each phrase of up to three words, votes for a category with a weight. The category with the most votes
wins; ties go to the one that stands first in `PRECEDENCE`. Only the beginning and the end of a long prompt are read:
instructions stand there, and the cost stays near a tenth of a millisecond. Another detector can be installed as an
entry point of the group `sollol_bus.detectors` and chosen by name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Final, Protocol

import msgspec

ENTRY_POINT_GROUP: Final = "sollol_bus.detectors"
_WINDOW = 500


class Task(msgspec.Struct, frozen=True):
    """What a prompt asks for."""

    task_type: str = "generation"
    """generation, classification, extraction, summarization or analysis."""
    coding_category: str | None = None
    """coding, refactoring, testing, documentation, debugging or code_review; None when it is not about code."""


class Detector(Protocol):
    """Finds the task in a prompt's text."""

    def detect(self, text: str) -> Task:
        """The task; must be quick, and never raise."""


_STRONG, _WEAK = 3, 1
TASK_WORDS: Final[dict[str, tuple[str, str]]] = {
    "summarization": (
        (
            "summary summaries summarize summarise summarizes summarized summarised summarizing "
            "summarising tldr, key points, key takeaways"
        ),
        "shorten condense brief briefly, in one sentence, in two sentences, in three sentences, few sentences",
    ),
    "classification": (
        "classify classifies classified classification categorize categorise categorized categorised sentiment",
        "label labels labelled labeled, which category, which class, positive or negative, true or false, yes or no",
    ),
    "extraction": (
        "extract extracts extracted extracting extraction, named entities, named entity",
        "parse field fields, list all, find all, pull out, as json",
    ),
    "analysis": (
        "analyze analyse analyzes analyzed analysed analysis compare comparison evaluate assess assessment",
        "why explain reason reasons reasoning implications tradeoffs, pros and cons",
    ),
}
"""Per category the words, then the phrases after commas, that vote strongly and weakly."""
CODING_WORDS: Final[dict[str, tuple[str, str]]] = {
    "code_review": (
        (
            "codereview, code review, review this code, review my code, review the code, review this change, "
            "review this diff, review this patch, review this function, review this class, review this pull"
        ),
        "review, pull request, code smell, code smells",
    ),
    "debugging": (
        (
            "debug debugging stacktrace traceback segfault, stack trace, fix this bug, fix the bug, fix my bug, "
            "fix this error, fix the error, fix this crash, fix the crash"
        ),
        "bug bugs crash crashes exception exceptions error errors, does not work, doesn't work",
    ),
    "refactoring": (
        "refactor refactors refactored refactoring",
        "simplify restructure rename optimize optimise optimization optimisation, clean up",
    ),
    "testing": (
        "pytest jest unittest unittests, unit test, unit tests, test case, test cases, integration tests",
        "test tests mock mocks mocking coverage assert",
    ),
    "documentation": (
        "docstring docstrings readme javadoc, api docs, api doc",
        "document documents documentation docs comment",
    ),
    "coding": (
        (
            "implement implements implemented implementation, write a function, write a class, write a script, "
            "write a program, write some code, write code, write an algorithm"
        ),
        "code function class method algorithm python javascript typescript rust golang java c++ sql regex api",
    ),
}
CODE_MARKS: Final = re.compile(r"```|\bdef \w+\(|#include\s*<|\bfunction \w+\(|\bimport \w+|=>")
PRECEDENCE: Final = (*TASK_WORDS, *CODING_WORDS)
_CODING_FLOOR = 3
_PHRASE_WORDS = 3
_WORD = re.compile(r"[a-z0-9_'+#]+")


def _votes_of(table: dict[str, tuple[str, str]]) -> dict[str, tuple[str, int]]:
    """Category and weight by word or phrase of up to three words."""
    votes: dict[str, tuple[str, int]] = {}
    for category, lists in table.items():
        for weight, listed in zip((_STRONG, _WEAK), lists, strict=True):
            words, *phrases = (part.strip() for part in listed.split(","))
            for entry in (*words.split(), *phrases):
                votes.setdefault(entry, (category, weight))
    return votes


_TASKS: Final = _votes_of(TASK_WORDS)
_CODING: Final = _votes_of(CODING_WORDS)
_FIRST_WORDS: Final = frozenset(entry.partition(" ")[0] for entry in (*_TASKS, *_CODING))


_UNVOTED: Final = Task()


class WordDetector:
    """The built-in detector.

    Args:
        coding_floor: Votes below which a prompt without code in it is not about code; 0 where all of them are.
    """

    def __init__(self, coding_floor: int = _CODING_FLOOR) -> None:
        self._coding_floor = coding_floor

    def detect(self, text: str) -> Task:
        """The task with the most votes; `generation` when nothing votes."""
        seen = text if len(text) <= 2 * _WINDOW else f"{text[:_WINDOW]}\n{text[-_WINDOW:]}"
        words = _WORD.findall(seen.lower())
        tasks: dict[str, int] = {}
        coding: dict[str, int] = {}
        for place, word in enumerate(words):
            if word not in _FIRST_WORDS:
                continue
            for end in range(place + 1, min(place + _PHRASE_WORDS, len(words)) + 1):
                phrase = " ".join(words[place:end])
                for table, votes in ((_TASKS, tasks), (_CODING, coding)):
                    if phrase in table:
                        name, weight = table[phrase]
                        votes[name] = votes.get(name, 0) + weight
        if not tasks and not coding:
            return _UNVOTED
        category = _winner(coding)
        if category is not None and coding[category] < self._coding_floor and CODE_MARKS.search(seen) is None:
            category = None
        return Task(task_type=_winner(tasks) or "generation", coding_category=category)


def _winner(votes: dict[str, int]) -> str | None:
    """The name with the most votes; the earlier in `PRECEDENCE` among equals."""
    return min(votes, key=lambda name: (-votes[name], PRECEDENCE.index(name)), default=None)


class UnknownDetector(ValueError):
    """No detector is installed under this name."""


@lru_cache(maxsize=8)
def detector_named(name: str) -> Detector:
    """The built-in detector (`words`), or one that is installed as an entry point.

    Raises:
        UnknownDetector: There is none of this name; the message lists those there are.
    """
    if name == "words":
        return WordDetector()
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in installed:
        known = ", ".join(["words", *sorted(installed)])
        raise UnknownDetector(f"unknown detector {name!r}; there are: {known}")
    detector: Detector = installed[name].load()()
    return detector
