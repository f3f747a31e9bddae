"""Which node somebody means by a name."""

from __future__ import annotations

from sollol_agents.scorer.choice.eligibility import who_bears
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.queue import refusals
from sollol_schemas.errors import ErrorBody


def node_called(core: SchedulerCore, name: str) -> Node | ErrorBody:
    """The node that is called so, by its id, host, address or URL; or why none is."""
    nodes = core.fleet.nodes
    found = who_bears(name, nodes.values(), core.here)
    if len(found) == 1:
        return nodes[found[0]]
    if found:
        return refusals.ambiguous_node(name, found, [node.telemetry for node in nodes.values()])
    return refusals.unknown_node(name, nodes)
