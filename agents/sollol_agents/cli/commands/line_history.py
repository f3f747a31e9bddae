"""Lines that a person typed earlier, found again with the arrow keys; kept for the user alone.

They lie in the user's state directory, as prompts: whoever reads that file reads what was asked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

_LINES_MAX: Final = 1000
_OWNER_ONLY: Final = 0o600


def history_path() -> Path:
    """Where the lines lie."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "sollol" / "chat_history"


@contextlib.contextmanager
def line_editing(words: Sequence[str], path: Path | None) -> Iterator[None]:
    """Lets `input` edit lines, complete `words` with Tab, and find earlier lines again.

    Args:
        words: What Tab completes.
        path: Where the lines are kept between two conversations; None: nowhere.
    """
    try:
        import readline  # noqa: PLC0415 not on every platform, and only a conversation needs it
    except ImportError:
        yield
        return

    def complete(text: str, state: int) -> str | None:
        found = [word for word in words if word.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n")
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(_LINES_MAX)
    if path is not None:
        _read(readline, path)
    try:
        yield
    finally:
        if path is not None:
            _write(readline, path)


def _read(readline: ModuleType, path: Path) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, _OWNER_ONLY))
        path.chmod(_OWNER_ONLY)
        readline.read_history_file(path)


def _write(readline: ModuleType, path: Path) -> None:
    """Writes the lines; a disk that takes none is no reason to fail."""
    before = os.umask(0o077)
    try:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)
            path.chmod(_OWNER_ONLY)
    finally:
        os.umask(before)
