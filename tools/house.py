"""Checks the plan of the house: no circle of files, no file and no function that is too long, one style of lines.

Every import counts, also one inside a function and one for types alone: whoever reads the one file must know of the
other. That a package's `__init__` runs when a module of it is imported does not count; only what is written does.
"""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_PACKAGES: Final = (
    "sollol_bus",
    "agents/sollol_agents",
    "schemas/sollol_schemas",
    "schemas/sollol_contract",
    "bench",
    "tests",
    "tools",
)
_UNFORMATTED: Final = "# fmt" + ":"
_MAX_FILE_LINES: Final = 400
_MAX_FUNCTION_LINES: Final = 60

Graph = Mapping[str, frozenset[str]]
"""The modules that each module imports."""


def sources(root: Path = ROOT) -> dict[str, str]:
    """The text of every module that is checked, by its dotted name; a package's own is `package.__init__`."""
    return {
        ".".join(path.relative_to((root / package).parent).with_suffix("").parts): path.read_text(encoding="utf-8")
        for package in _PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }


def faults(texts: Mapping[str, str]) -> list[str]:
    """What is wrong, a line each."""
    trees = {name: ast.parse(text) for name, text in texts.items()}
    graph = {name: frozenset(_imported(name, tree, trees)) - {name} for name, tree in trees.items()}
    found = [f"a circle of files: {' -> '.join((*circle, circle[0]))}" for circle in circles(graph)]
    for name, text in texts.items():
        lines = text.count("\n")
        if lines > _MAX_FILE_LINES:
            found.append(f"{name} has {lines} lines; at most {_MAX_FILE_LINES}")
        if _UNFORMATTED in text:
            found.append(f"{name} has lines that are not formatted")
        found += [f"{name}.{too_long}; at most {_MAX_FUNCTION_LINES}" for too_long in _long_functions(trees[name])]
    return found


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """A shortest circle of every knot, each beginning with its first name in the alphabet."""
    found: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for name in sorted(graph):
        circle = () if name in seen else _shortest_circle(graph, name)
        if circle:
            found.append(circle)
            ahead = _reached(graph, name)
            seen |= {other for other in ahead if name in _reached(graph, other)}
    return found


def main() -> int:
    """Prints what is wrong; 1 when anything is."""
    found = faults(sources())
    print("\n".join(found) or "no circle of files, nothing too long")
    return 1 if found else 0


def _imported(name: str, tree: ast.Module, known: Mapping[str, object]) -> Iterator[str]:
    package = name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from _modules((alias.name for alias in node.names), known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # a name is a module of the package, or something that the package's own file has
                yield from _modules((f"{base}.{alias.name}",), known) or _modules((base,), known)


def _modules(names: Iterator[str] | tuple[str, ...], known: Mapping[str, object]) -> list[str]:
    spelled = [(name, f"{name}.__init__") for name in names]
    return [module for pair in spelled for module in pair if module in known]


def _reached(graph: Graph, start: str) -> set[str]:
    """Everything that a module imports, and what those import."""
    reached: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph.get(ahead.pop(), frozenset()) - reached
        reached |= new
        ahead += new
    return reached


def _shortest_circle(graph: Graph, start: str) -> tuple[str, ...]:
    """The shortest way from a module back to it; empty when there is none."""
    queue: deque[tuple[str, ...]] = deque([(start,)])
    seen: set[str] = set()
    while queue:
        way = queue.popleft()
        for following in sorted(graph.get(way[-1], ())):
            if following == start:
                return way
            if following not in seen:
                seen.add(following)
                queue.append((*way, following))
    return ()


def _long_functions(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > _MAX_FUNCTION_LINES:
                yield f"{node.name} has {lines} lines"


if __name__ == "__main__":
    sys.exit(main())
