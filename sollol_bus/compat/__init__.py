"""The calls of SOLLOL, Hydra and the projects around them, on this system: change the import, and the program runs.

    from sollol_bus.compat import SOLLOL, SOLLOLConfig

    sollol = SOLLOL(SOLLOLConfig(hosts=["gpu-node-1:11434"])).start(blocking=False)

Results are dictionaries whose items are attributes too. New programs use `sollol_bus.Client`, which says the same in
types. What is exported here is public; `docs/guides/migrating.md` tells of each project what stays and what changes.
"""

from typing import TYPE_CHECKING, Final, NoReturn

from sollol_bus.compat.balancer import SOLLOL
from sollol_bus.compat.config import SOLLOLConfig
from sollol_bus.compat.integration import SOLLOLIntegration
from sollol_bus.compat.orchestrator import (
    ModelOrchestrator,
    ReasoningEngine,
    ReasoningMode,
    routing_for_style,
    routing_mode_for,
)
from sollol_bus.compat.priorities import TaskPriority
from sollol_bus.compat.reliability import NodeReliabilityTracker
from sollol_bus.compat.results import Result
from sollol_bus.compat.router_ledger import CircuitBreakerConfig, RoutingStrategy, TaskCategory
from sollol_bus.compat.streams import ChunkStream
from sollol_bus.compat.task_router import TaskRouter
from sollol_schemas.routing import RoutingMode

__all__ = [
    "SOLLOL",
    "ChunkStream",
    "CircuitBreakerConfig",
    "ModelOrchestrator",
    "NodeReliabilityTracker",
    "ReasoningEngine",
    "ReasoningMode",
    "Result",
    "RoutingMode",
    "RoutingStrategy",
    "SOLLOLConfig",
    "SOLLOLIntegration",
    "TaskCategory",
    "TaskPriority",
    "TaskRouter",
    "routing_for_style",
    "routing_mode_for",
]

_INSTEAD: Final = {
    "OllamaPool": "SOLLOL, started, has its chat, generate and embed",
    "connect": "SOLLOL(nats='nats://host:4222').start() uses a fleet that runs",
    "SOLLOLClient": "SOLLOL(nats='nats://host:4222').start() uses a fleet that runs",
    "Priority": "TaskPriority names the priorities",
    "HybridRouter": "SOLLOL, started, chooses the node of every request",
    "RayHybridRouter": "SOLLOL, started, chooses the node of every request",
    "OllamaLoadBalancer": "SOLLOLIntegration, initialized, has its generate",
    "DistributedManager": "SOLLOLIntegration, initialized, has its get_cluster_stats",
    "NodeRegistry": "SOLLOLConfig(hosts=[...]) names the engines, and get_node_resources() lists the nodes",
    "discover_ollama_nodes": "SOLLOLIntegration, initialized, finds them; get_node_resources() lists them",
    "ModelPool": "distribute_task() of SOLLOLIntegration asks several models at once",
}
"""What takes the place of names of those projects that are not here."""


if not TYPE_CHECKING:  # a checker shall go on finding names that are not here

    def __getattr__(name: str) -> NoReturn:
        if name in _INSTEAD:
            raise ImportError(f"sollol_bus.compat has no {name}: {_INSTEAD[name]}", name=name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
