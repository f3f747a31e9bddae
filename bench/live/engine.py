"""An emulated engine on one of the benchmark's machines: `python -m bench.live.engine --preset g16 …`."""

from __future__ import annotations

import sys

from bench.live.machines import preset_of
from bench.routing.fleets import FLEETS
from sollol_agents.lab.emulator.__main__ import main
from sollol_agents.lab.emulator.presets import PRESETS

if __name__ == "__main__":
    PRESETS.update({spec.kind: preset_of(spec) for fleet in FLEETS.values() for spec in fleet})
    sys.exit(main())
