"""Real processes for each test, and the figures that the tests measured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from sollol_agents.testing import ProcessFleet

_FIGURE = "figure"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    figures = [
        f"{r.nodeid.rpartition('::')[2]}: {text}"
        for r in reports
        for name, text in r.user_properties
        if name == _FIGURE
    ]
    if figures:
        terminalreporter.section("measured on this machine, in this run")
        for line in figures:
            terminalreporter.write_line(line)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Notes a measured figure for the summary at the end of the run; it travels with the test's report."""

    def note(text: str) -> None:
        request.node.user_properties.append((_FIGURE, text))

    return note


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[ProcessFleet]:
    """An empty fleet; whatever is started in it is gone afterwards."""
    async with ProcessFleet(tmp_path) as made:
        yield made
        started = [p for child in made.children if child.exit_code is None for p in family(child.pid)]
    assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
