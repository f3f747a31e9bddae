"""Routing as it stands in a body on the bus."""

from __future__ import annotations

import socket
from typing import Any

import msgspec

from sollol_schemas.node_names import for_the_bus
from sollol_schemas.routing import Routing


def called_here(node: str) -> str:
    """What others call a node that is called so on this machine: `localhost` becomes this host's name."""
    return for_the_bus(node, socket.gethostname())


def fields_of(routing: Routing) -> dict[str, Any]:
    """The fields of a body that say this."""
    fields: dict[str, Any] = msgspec.to_builtins(routing)
    if routing.node_id is not None:
        fields["node_id"] = called_here(routing.node_id)
    return fields
