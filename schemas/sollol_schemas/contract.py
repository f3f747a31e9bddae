"""Which messages a process understands, as one number: how old and new versions know that they may run side by side.

A new number is given when somebody begins to send what an older process would misread. Fields that older ones may pass
over need none.
"""

from __future__ import annotations

from typing import Final

CONTRACT: Final = 2
"""What this version speaks."""
OLDEST: Final = 1
"""What it still understands, and is understood by."""
ADDED: Final = {
    1: "requests, jobs and members",
    2: "answers that break off go on elsewhere, and leaving nodes hand theirs over",
}
"""What each number brought."""


def fits(contract: int, oldest: int, *, beside: int, beside_oldest: int) -> bool:
    """Whether two processes may run side by side: each speaks what the other still understands."""
    return contract >= beside_oldest and beside >= oldest
