"""How a benchmark starts: the arguments that all of them share, a folder of its own, and figures as JSON or text."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.machine import describe

Figures = dict[str, Any]


def parser_of(program: str, about: str | None) -> argparse.ArgumentParser:
    """The arguments `--json`, `--quick` and `--out`; a benchmark adds its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="few samples, to see that it works")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    return parser


def started(
    parser: argparse.ArgumentParser,
    measure: Callable[[Path, argparse.Namespace], Coroutine[Any, Any, Figures]],
    as_text: Callable[[Figures], str] | None = None,
) -> int:
    """Measures and prints the figures, headed by command and machine; the exit code says only whether it ran."""
    arguments = parser.parse_args()
    figures: Figures = {"command": " ".join([parser.prog, *sys.argv[1:]]), "machine": describe()}
    with tempfile.TemporaryDirectory(prefix="sollol-bench-") as folder:
        figures |= uvloop.run(measure(Path(folder), arguments))
    text = in_json(figures)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    print(text if arguments.json or as_text is None else as_text(figures))
    return 0


def in_json(figures: object) -> str:
    """The figures as JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(figures), indent=2).decode()
