"""What is raised where errors come in groups."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for top in ("sollol_bus", "agents", "schemas", "bench", "tools", "examples")
    for path in (ROOT / top).rglob("*.py")
    if "node_modules" not in path.parts
)


def raises(node: ast.AST) -> bool:
    ends = isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "exit")
    return ends or (isinstance(node, ast.Raise) and node.exc is not None)


def groups_raising(source: str) -> list[int]:
    tries = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.TryStar)]
    inside = [node for one in tries for handler in one.handlers for node in ast.walk(handler)]
    return [node.lineno for node in inside if isinstance(node, ast.Raise | ast.Call) and raises(node)]


@pytest.mark.skipif(not SOURCES, reason="away from the sources")
def test_nothing_is_raised_inside_of_except_star_which_python_before_3_11_4_wraps_in_a_group() -> None:
    assert {str(path): lines for path in SOURCES if (lines := groups_raising(path.read_text()))} == {}


def test_such_a_raise_is_found() -> None:
    assert groups_raising("try:\n  pass\nexcept* OSError as e:\n  raise e.exceptions[0]\n") == [4]
    assert groups_raising("import sys\ntry:\n  pass\nexcept* OSError:\n  sys.exit(1)\n") == [5]
    assert groups_raising("try:\n  pass\nexcept* OSError:\n  raise\n") == []
