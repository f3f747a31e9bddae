"""Who may say and hear what, made from the permissions that the NATS server is given."""

from __future__ import annotations

from sollol_bus.server.rights import Permissions, permissions
from sollol_schemas.subjects import Role

_NAMES = {Role.CLIENT: "U", Role.NODE: "N", Role.OBSERVER: "U", Role.NEWCOMER: "", Role.CONTROL: "U"}
_WORDS = {Role.CONTROL: "control, operator"}


def markdown() -> str:
    """A row for each subject or pattern that any role may use: `P` publishes, `S` subscribes."""
    allowed = {role: permissions(role, name) for role, name in _NAMES.items()}
    subjects = sorted({subject for one in allowed.values() for subject in (*one.publish, *one.subscribe)}, key=_order)
    head = [_WORDS.get(role, role.value) for role in allowed]
    lines = [f"| | {' | '.join(head)} |", f"|---|{'---|' * len(head)}"]
    lines += [
        f"| `{subject}` | {' | '.join(_cell(one, subject) for one in allowed.values())} |" for subject in subjects
    ]
    return "\n".join(lines)


def _cell(allowed: Permissions, subject: str) -> str:
    return "P" * (subject in allowed.publish) + "S" * (subject in allowed.subscribe)


def _order(subject: str) -> tuple[bool, bool, str]:
    return subject.startswith("$"), subject.startswith("_"), subject
