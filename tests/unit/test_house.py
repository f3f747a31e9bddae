"""What breaks the plan of the house is seen; that it is kept, `make check` says."""

from __future__ import annotations

import pytest

pytest.importorskip("tools.house", reason="the check of the sources is in the checkout only")

from tools.house import circles, faults, sources


def test_every_package_is_looked_at() -> None:
    assert {name.partition(".")[0] for name in sources()} == {
        "sollol_bus",
        "sollol_agents",
        "sollol_schemas",
        "sollol_contract",
        "bench",
        "tests",
        "tools",
    }


@pytest.mark.parametrize(
    "way_back",
    [
        "from house.first import thing",
        "import house.first",
        "from house import first",
        "from . import first",
        "from .first import thing",
        "def later():\n    from house.first import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.first import thing",
    ],
)
def test_a_circle_of_two_files_is_named(way_back: str) -> None:
    texts = {"house.__init__": "", "house.first": "from house.second import other", "house.second": way_back}
    assert faults(texts) == ["a circle of files: house.first -> house.second -> house.first"]


def test_a_file_and_the_package_above_it_may_not_import_each_other() -> None:
    texts = {"house.__init__": "from house.first import thing", "house.first": "from house import other"}
    assert faults(texts) == ["a circle of files: house.__init__ -> house.first -> house.__init__"]


def test_a_package_that_imports_its_modules_is_no_circle() -> None:
    texts = {
        "house.__init__": "from house import first",
        "house.first": "from house.second import x",
        "house.second": "",
    }
    assert faults(texts) == []


def test_the_shortest_circle_of_a_knot_is_told_once() -> None:
    graph = {"a": frozenset("b"), "b": frozenset("ac"), "c": frozenset("a"), "d": frozenset("a"), "e": frozenset("e")}
    assert circles({name: others - {name} for name, others in graph.items()}) == [("a", "b")]


def test_two_knots_are_told_apart() -> None:
    graph = {"a": frozenset("b"), "b": frozenset("ac"), "c": frozenset("d"), "d": frozenset("c")}
    assert circles(graph) == [("a", "b"), ("c", "d")]


def test_lines_that_the_formatter_must_not_touch_are_named() -> None:
    assert faults({"house.odd": "x = [1,\n     2]  # fmt" + ": skip\n"}) == [
        "house.odd has lines that are not formatted"
    ]


def test_a_file_and_a_function_that_are_too_long_are_named() -> None:
    body = "    pass\n" * 60
    assert faults({"house.tall": f"def long():\n{body}"}) == ["house.tall.long has 61 lines; at most 60"]
    assert faults({"house.tall": "x = 1\n" * 401}) == ["house.tall has 401 lines; at most 400"]
