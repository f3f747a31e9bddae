"""Plays cases against an engine or a gateway and says where it differs; see `--help`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from sollol_agents.lab.testing.recordings.form import load_cases
from sollol_agents.lab.testing.recordings.playing import ADDED_BY_GATEWAY, Outcome, play_cases, table

_SHOWN_CHARACTERS = 300


def main() -> int:
    """Plays the cases of a file; 1 when one of them differs."""
    parser = argparse.ArgumentParser(
        prog="python -m sollol_agents.lab.testing.recordings",
        description="plays recorded cases and says where an engine differs",
    )
    parser.add_argument("file", type=Path, help="recorded cases, one a line")
    parser.add_argument("url", help="where the engine or gateway listens, such as http://127.0.0.1:11434")
    parser.add_argument("groups", nargs="*", help="groups to play; all by default")
    parser.add_argument("--server", default="", help="only cases of a server with such flags or variables")
    parser.add_argument("--gateway", action="store_true", help="leave out the fields that a gateway adds")
    given = parser.parse_args()
    cases = [
        case
        for case in load_cases(given.file)
        if (not given.groups or case.group in given.groups) and given.server in str(case.server)
    ]
    outcomes = asyncio.run(play_cases(given.url, cases, ADDED_BY_GATEWAY if given.gateway else frozenset()))
    for one in outcomes:
        _tell(one)
    print(table(outcomes))
    return int(any(one.differences for one in outcomes))


def _tell(outcome: Outcome) -> None:
    """Prints where one case differs."""
    for difference in outcome.differences:
        print(f"{outcome.group}: {outcome.name}: {difference:.{_SHOWN_CHARACTERS}}")


if __name__ == "__main__":
    sys.exit(main())
