"""Puts off what is imported at the start and seldom used, which is most of the time that a command needs to start.

nats-py takes aiohttp for websockets alone, and its own part about JetStream for what we mostly do ourselves. Both stand
in their places from the start, as modules that are loaded when somebody looks into them.

Only the command line may do so: a program of somebody else's decides itself what it imports.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final

PUT_OFF: Final = frozenset({"aiohttp", "multidict", "nats.js"})
"""Modules that are loaded when they are used."""


class _Later:
    """A finder of modules that loads the listed ones at their first use."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """How such a module is loaded; None for any other, and where there is none."""
        if name not in PUT_OFF:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def load_websockets() -> None:
    """Loads what speaks websockets: while connecting it would take as long as that may."""
    if importlib.util.find_spec("aiohttp") is not None:
        import aiohttp  # noqa: PLC0415 an extra of the client library

        aiohttp.ClientSession  # noqa: B018 looking at it loads it


if not any(isinstance(finder, _Later) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Later())
