"""Inboxes: whose prefix is whose, and where answers and results may be published."""

from __future__ import annotations

from typing import Final

from sollol_schemas.ids import is_bus_id

CLIENT_INBOX_PREFIXES: Final = ("_INBOX.", "_INBOX_cli.")
"""What callers' inboxes begin with; where nobody is known by name, also with a prefix of their own, `_INBOX_mine`."""
_MOST_CHARACTERS: Final = 256
CONTROL_INBOX_PREFIX: Final = "_INBOX_ctl"
CLIENT_INBOX_PREFIX: Final = "_INBOX_cli"
"""Also a gateway's and a dashboard's: they are of the control role, but take tokens as a client does."""
NODE_INBOX_PREFIX: Final = "_INBOX_node"
NEWCOMER_INBOX_PREFIX: Final = "_INBOX_new"
LEAVE_S: Final = 900.0
"""How long a node may speak into an inbox that a message to it named as its reply subject: longer than any request has
whose caller says nothing of it, and ends are said again."""
_ROOT: Final = "_INBOX"
_OURS: Final = frozenset({CONTROL_INBOX_PREFIX, NODE_INBOX_PREFIX, NEWCOMER_INBOX_PREFIX})
JOB_CALLBACK_ROOT: Final = "callbacks."
"""Results are delivered to subjects below this one, or into callers' inboxes, and nowhere else."""


def client_inbox_prefix(user: str | None) -> str:
    """The inboxes of a client: below its own user name where there are users."""
    return f"{CLIENT_INBOX_PREFIX}.{user}" if user and is_bus_id(user) else CLIENT_INBOX_PREFIX


def node_inbox_prefix(node_id: str) -> str:
    """A node's own inbox space."""
    return f"{NODE_INBOX_PREFIX}.{node_id}"


def is_node_inbox(subject: str, node_id: str) -> bool:
    """Whether `subject` is an inbox of this node's."""
    return subject.startswith(f"{NODE_INBOX_PREFIX}.{node_id}.") and _is_concrete(subject)


def is_client_inbox(subject: str) -> bool:
    """Whether tokens may be published to `subject`: a concrete subject inside the callers' inbox space."""
    root = subject.partition(".")[0]
    is_callers = root == _ROOT or (root.startswith(f"{_ROOT}_") and root not in _OURS)
    return is_callers and root != subject and _is_concrete(subject)


def _is_concrete(subject: str) -> bool:
    """Whether it has no wildcard and can stand on the wire; a pattern takes ten times as long, five times a request."""
    return (
        subject.isascii()
        and len(subject) <= _MOST_CHARACTERS
        and ".." not in subject
        and subject[-1:] != "."
        and "*" not in subject
        and ">" not in subject
        and " " not in subject
        and "\t" not in subject
        and "\r" not in subject
        and "\n" not in subject
    )


def is_callback_subject(subject: str) -> bool:
    """Whether a result may be delivered to `subject`: below `callbacks.`, or in a caller's inbox."""
    below = subject.removeprefix(JOB_CALLBACK_ROOT)
    return is_client_inbox(subject) or (below != subject and is_client_inbox(CLIENT_INBOX_PREFIXES[0] + below))
