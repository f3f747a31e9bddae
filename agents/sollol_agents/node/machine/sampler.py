"""What is known of the engine's machine; sampled beside the heartbeat, so that a slow driver or disk delays nobody."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sollol_agents.node.config import NodeConfig, engine_candidates
from sollol_agents.node.machine.gpu import FixedGpus, GpuProbe, find_gpus, with_shared_memory
from sollol_agents.node.machine.host import HostSample, sample_host
from sollol_agents.node.machine.remote import are_here, host_of, resolved, stated_gpus, unknown_host
from sollol_agents.node.machine.threads import in_thread
from sollol_bus.parts import Part
from sollol_schemas.telemetry import Gpu, LoadedModel

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0
_WHOLE_EVERY: Final = 10
"""Every so many heartbeats the machine's name, cores and addresses are looked up, too."""
_ENGINES_GPU: Final = Gpu(index=0, name="GPU", memory_total_mib=0.0, driver="engine", shares_ram=True)
"""A GPU of which nobody tells but the engine, by the memory that its models take there."""


class Machine(Part):
    """The newest sample of the engine's machine; empty until `start`.

    An engine on another machine is not there to be measured: what is told then is what the settings state.

    Args:
        config: Settings.
        patience_s: So long a driver may take for one look before that is called a problem.
    """

    def __init__(self, config: NodeConfig, *, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._config = config
        self.host = HostSample(cpu_count=1, cpu_load_ratio=0.0, ram_total_mib=0.0, ram_available_mib=0.0, name="")
        self.gpus: tuple[Gpu, ...] = ()
        self.gpu_problem = ""
        """What is wrong with a GPU or its driver, and what that costs; empty: nothing."""
        self._measured: tuple[Gpu, ...] = ()
        self._probe: GpuProbe = FixedGpus()
        self._look: asyncio.Future[tuple[Gpu, ...]] | None = None
        self._has_engine_gpu = False

    async def start(self) -> None:
        """Finds out whose machine it is, finds the GPUs and takes the first sample."""
        config, url = self._config, engine_candidates(self._config)[0][1]
        addresses = () if config.machine == "local" else await resolved(url)
        if config.machine == "remote" or (config.machine == "auto" and not await are_here(addresses)):
            self.host = unknown_host(host_of(url), config.ram_gb, addresses)
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
        self._look = in_thread(self._find, name="gpu")
        await self.sample()

    async def run(self) -> None:
        """Takes a new sample with each heartbeat, for ever; of another machine there is none.

        Where no driver is to be asked, `glance` has all that changes, and this looks up the rest now and then.
        """
        beats = 0
        while not self.host.is_remote:
            rest = 1 if self._has_driver else _WHOLE_EVERY - beats
            await asyncio.sleep(rest * self._config.heartbeat_s)
            beats = (beats + rest) % _WHOLE_EVERY
            await self.sample(is_whole=not beats)

    async def sample(self, *, is_whole: bool = True) -> None:
        """Takes a new sample; a driver that does not answer in time costs its figures alone, and is not asked twice.

        Args:
            is_whole: Whether the machine's name, cores and addresses are looked up again.
        """
        self.host = await in_thread(sample_host, name="host") if is_whole else sample_host(self.host)
        self._tell_problem(await self._read_gpus())
        self._take_memory()

    def glance(self) -> None:
        """Takes a new sample of what the kernel knows at once, unless one comes with a driver's answers."""
        if not self.host.is_remote and not self._has_driver:
            self.host = sample_host(self.host)
            self._take_memory()

    @property
    def _has_driver(self) -> bool:
        """Whether somebody must be asked about GPUs who could keep us waiting."""
        return self._look is not None or not isinstance(self._probe, FixedGpus)

    def _take_memory(self) -> None:
        gpus = self._measured or ((_ENGINES_GPU,) if self._has_engine_gpu else ())
        self.gpus = with_shared_memory(gpus, self.host)

    async def _read_gpus(self) -> str:
        """Reads the GPUs; returns what is wrong with them or their driver."""
        if not self._has_driver:
            self._measured = self._probe.read()
            return self._probe.problem
        self._look = self._look or in_thread(self._probe.read, name="gpu")
        done, _ = await asyncio.wait((self._look,), timeout=self._patience_s)
        if not done:
            return f"the GPU's driver has not answered for {self._patience_s:g} s"
        self._measured, self._look = self._look.result(), None
        return self._probe.problem

    def believe(self, loaded: tuple[LoadedModel, ...]) -> None:
        """An engine that put a model into video memory has a GPU, whatever the drivers tell; for good."""
        if not self._has_engine_gpu and not self.host.is_remote and any(model.vram_bytes for model in loaded):
            self._has_engine_gpu = True
            self._take_memory()

    async def close(self) -> None:
        """Gives the driver back, unless it hangs."""
        if self._look is None:
            self._probe.close()

    def _find(self) -> tuple[Gpu, ...]:
        self._probe = find_gpus() if self._config.read_gpus else FixedGpus()
        return self._probe.read()

    def _tell_problem(self, problem: str) -> None:
        if problem == self.gpu_problem:
            return
        self.gpu_problem = problem
        if problem:
            log.warning("%s", problem, extra={"action": "gpu_problem"})
        else:
            log.info("the GPUs answer again", extra={"action": "gpu_found"})
