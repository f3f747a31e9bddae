"""An emulated Ollama node for tests, demonstrations and benchmarks; never a real engine.

It speaks Ollama's HTTP API with the timing of a chosen machine and injectable faults.
"""

from sollol_agents.lab.emulator.config import EmulatorConfig
from sollol_agents.lab.emulator.faults import Fault, FaultKind
from sollol_agents.lab.emulator.node import EmulatedNode, serve_emulator
from sollol_agents.lab.emulator.presets import PRESETS, Preset

__all__ = ["PRESETS", "EmulatedNode", "EmulatorConfig", "Fault", "FaultKind", "Preset", "serve_emulator"]
