"""A gateway with two nodes behind it, and one of them as the target of a client."""

from __future__ import annotations

import unittest
from typing import Final, NamedTuple

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
