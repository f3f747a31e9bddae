"""What `sollol warm` shows, at several widths."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sollol_agents.cli.commands.warming import show_warmed
from sollol_agents.cli.output import Form, on_screen
from sollol_bus.sdk.warming import Warmed
from sollol_schemas.errors import ErrorBody, ErrorCode

WARMED = [
    Warmed(node="desk", prompt_tokens=1840, cached_tokens=0, load_s=4.2, actual_s=5.1),
    Warmed(node="gaming-pc", prompt_tokens=1840, cached_tokens=1792, actual_s=0.08),
    Warmed(
        node="http://10.0.0.9:11434",
        error=ErrorBody(code=ErrorCode.UNKNOWN_NODE, message="no node is known as 'http://10.0.0.9:11434'"),
    ),
]


def test_what_was_warmed_looks_as_it_was_kept(
    capsys: pytest.CaptureFixture[str], assert_kept: Callable[[str, str], None]
) -> None:
    shown = []
    for width in (60, 80, 100, 120, 200):
        with on_screen(Form.TABLE, width):
            show_warmed(WARMED)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width
        shown.append(f"{f' {width} ':=^{width}}\n{text}")
    assert_kept("warm", "\n".join(shown))
