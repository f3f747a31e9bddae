"""Puts off what is imported at the start and seldom used, which is most of the time that a command needs to start.

nats-py takes aiohttp for websockets alone, and its own part about JetStream for what we mostly do ourselves; httpx is
for engines and callbacks. They stand in their places from the start, as modules that are loaded when somebody looks
into them. httpx has a command line of its own, too, which brings click, rich and pygments along where they are
installed, a fifth of the start of `sollol up`; it does without.

What is imported stays, so that looking for garbage in it is in vain: that took a tenth of the time. Later too, Python's
usual 700 new objects are reached with every few requests, and the search took a tenth of a node's time.

Only the command line may do so: a program of somebody else's decides itself what it imports.
"""

from __future__ import annotations

import gc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final

PUT_OFF: Final = frozenset({"aiohttp", "httpx", "multidict", "nats.js"})
"""Modules that are loaded when they are used."""
LEFT_OUT: Final = frozenset({"httpx._main"})
"""Modules without which whoever imports them does, as if they were not installed."""
GARBAGE_OBJECTS: Final = 25_000
"""So many more objects than before make Python look for garbage: each request in flight holds dozens, and is none."""


class _Later:
    """A finder of modules that loads the listed ones at their first use, or not at all."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """How such a module is loaded; None for any other, and where there is none.

        Raises:
            ModuleNotFoundError: It is left out.
        """
        if name in LEFT_OUT:
            raise ModuleNotFoundError(f"{name} is left out of the command line", name=name)
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
    gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
