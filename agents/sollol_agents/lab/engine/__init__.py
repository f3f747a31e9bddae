"""A real llama.cpp engine with a tiny model that is generated, for tests and demonstrations.

Needs the extra `engine` (`pip install 'sollol-bus[engine]'`); importing this package does not.
"""

from sollol_agents.lab.engine.countdown import SIZES, EngineUnavailableError, ModelSize, ensure_model, write_model
from sollol_agents.lab.engine.server import EngineConfig, run_engine

__all__ = [
    "SIZES",
    "EngineConfig",
    "EngineUnavailableError",
    "ModelSize",
    "ensure_model",
    "run_engine",
    "write_model",
]
