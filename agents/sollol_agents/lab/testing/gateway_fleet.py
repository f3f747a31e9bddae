"""A gateway with two nodes behind it, one of them as the target of a client, and the packages of clients."""

from __future__ import annotations

import importlib
import unittest
import warnings
from typing import Any, Final, NamedTuple

COUNTDOWN: Final = "countdown"
"""The model that both nodes have."""


class GatewayFleet(NamedTuple):
    """A gateway with two nodes: `emulated` before an emulated Ollama (a fake) and `real` before a llama.cpp server."""

    url: str
    engines: dict[str, str]
    """Where each engine itself listens, by node id."""

    def need(self, engine: str) -> str:
        """Where an engine listens.

        Raises:
            SkipTest: It is not there.
        """
        if engine not in self.engines:
            raise unittest.SkipTest("xllamacpp is not installed: pip install 'sollol-bus[engine]'")
        return self.engines[engine]


class Target:
    """A gateway, and the node behind it that is to answer.

    Raises:
        SkipTest: The node is not there.
    """

    def __init__(self, fleet: GatewayFleet, node: str) -> None:
        fleet.need(node)
        self.url = fleet.url
        self.node = node
        self.is_emulated = node == "emulated"
        self.embedder = "nomic-embed-text" if self.is_emulated else COUNTDOWN
        self.headers = {"X-Sollol-Node-Id": node, "X-Sollol-Strict": "true"}


class ClientPackage:
    """A client's package, imported when a test first uses it.

    Some take ten seconds to import, and every worker reads every file of tests but runs few of them.

    Args:
        name: Of the package, or of a module in it.

    Raises:
        SkipTest: From whatever asks it for something: it is not installed.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401 it is another's
        if attribute.startswith("_"):  # by such names pytest looks at everything that it finds
            raise AttributeError(attribute)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is theirs
            try:
                package = importlib.import_module(self._name)
            except ModuleNotFoundError as error:
                raise unittest.SkipTest(f"{error}: make install puts it here") from error
            return getattr(package, attribute)
