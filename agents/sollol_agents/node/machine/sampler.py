"""What is known of the engine's machine; sampled in threads, so that a slow driver or disk delays nobody."""

from __future__ import annotations

import asyncio
import logging

from sollol_agents.node.config import NodeConfig, engine_candidates
from sollol_agents.node.machine.gpu import GpuProbe, NoGpus, find_gpus
from sollol_agents.node.machine.host import HostSample, sample_host
from sollol_agents.node.machine.remote import host_of, is_remote, stated_gpus, unknown_host
from sollol_bus.parts import Part
from sollol_schemas.telemetry import Gpu

log = logging.getLogger(__name__)


class Machine(Part):
    """The newest sample of the engine's machine; empty until `start`.

    An engine on another machine is not there to be measured: what is told then is what the settings state.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self.host = HostSample(cpu_count=1, cpu_load_ratio=0.0, ram_total_mib=0.0, ram_available_mib=0.0, name="")
        self.gpus: tuple[Gpu, ...] = ()
        self._probe: GpuProbe = NoGpus()

    async def start(self) -> None:
        """Finds out whose machine it is, finds the GPUs and takes the first sample."""
        config, url = self._config, engine_candidates(self._config)[0][1]
        if config.machine == "remote" or (config.machine == "auto" and await is_remote(url)):
            self.host = unknown_host(host_of(url), config.ram_gb)
            self.gpus = stated_gpus(config.vram_gb)
            log.info(
                "the engine at %s is not on this machine: tells nothing of this machine's GPU, memory and load",
                url,
                extra={"action": "engine_remote"},
            )
            return
        if config.vram_gb or config.ram_gb:
            log.warning(
                "vram_gb and ram_gb are for engines on other machines; this one's memory is measured",
                extra={"action": "memory_measured"},
            )
        self._probe = await asyncio.to_thread(find_gpus)
        await self.sample()

    async def sample(self) -> None:
        """Takes a new sample, in a thread; of another machine there is none."""
        if self.host.is_remote:
            return
        self.host, self.gpus = await asyncio.to_thread(lambda: (sample_host(), self._probe.read()))

    async def close(self) -> None:
        """Gives the driver back."""
        self._probe.close()
