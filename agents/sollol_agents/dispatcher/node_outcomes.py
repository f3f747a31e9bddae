"""Publishes outcomes of nodes, which may not publish where JetStream stores."""

from __future__ import annotations

from sollol_bus.transport.connection import Bus
from sollol_schemas import subjects
from sollol_schemas.headers import MSG_ID


def publish_outcome(bus: Bus, node_id: str, word: str, outcome: bytes, ack_to: str) -> None:
    """Publishes a node's outcome for it; the server acknowledges it to the node itself.

    Args:
        bus: The dispatcher's connection.
        node_id: The node.
        word: By which the stream knows this outcome among those of the node; empty: it does not.
        outcome: The event.
        ack_to: An inbox of the node's.
    """
    headers = {MSG_ID: f"node.{node_id}.{word}"} if word else None  # nobody else's is like that
    bus.publish(subjects.OUTCOME_EVENT.of(node_id), outcome, reply=ack_to, headers=headers)
