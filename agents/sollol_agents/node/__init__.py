"""The node monitor: one process beside one engine, which runs work on it and tells the fleet about it."""

from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig

__all__ = ["NodeConfig", "NodeMonitor"]
