"""What unit tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SCREENS = Path(__file__).parent / "screens"


@pytest.fixture
def assert_kept() -> Callable[[str, str], None]:
    """Compares a text with `screens/<name>.txt`, which a person can read.

    A file that is not there is written, and the test fails: look at it, and keep it if it is right. To renew one,
    delete it.
    """

    def compare(name: str, text: str) -> None:
        path = SCREENS / f"{name}.txt"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            pytest.fail(f"{path} was not there; look at what is in it now")
        assert text == path.read_text(encoding="utf-8")

    return compare
