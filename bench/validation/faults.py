"""Faults of the emulated machines by a schedule that is the same for every system.

Each machine crashes (its port is closed for 45 s and what ran is gone), falls silent for 25 s and slows to a quarter
for 60 s, each at random with its own mean time between; one machine answers 12 % of its requests with an error.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import httpx

from sollol_agents.lab.emulator.faults import Fault, FaultKind

_ERROR_RATIO: Final = 0.12
_CRASH_EVERY_S, _CRASHED_S = 500.0, 45.0
_STALL_EVERY_S, _STALLED_S = 900.0, 25.0
_SLOW_EVERY_S, _SLOW_S = 600.0, 60.0


def schedule(machines: int, horizon_s: float, factor: float, seed: int) -> list[list[Fault]]:
    """The faults of each machine, in compressed seconds from the beginning of the run."""
    rng = random.Random(f"faults/{machines}/{seed}")
    plan: list[list[Fault]] = []
    for number in range(machines):
        faults = [
            Fault(kind=FaultKind.REFUSE, at_s=at / factor, duration_s=_CRASHED_S / factor)
            for at in _instants(rng, _CRASH_EVERY_S, _CRASHED_S, horizon_s)
        ]
        faults += [
            Fault(
                kind=FaultKind.STALL,
                times=0,
                after_tokens=1,
                at_s=at / factor,
                until_s=(at + _STALLED_S) / factor,
                duration_s=_STALLED_S / factor,
            )
            for at in _instants(rng, _STALL_EVERY_S, _STALLED_S, horizon_s)
        ]
        faults += [
            Fault(kind=FaultKind.SLOW, times=0, factor=4.0, at_s=at / factor, until_s=(at + _SLOW_S) / factor)
            for at in _instants(rng, _SLOW_EVERY_S, _SLOW_S, horizon_s)
        ]
        if number == 1:
            faults.append(Fault(kind=FaultKind.LOAD_ERROR, times=0, chance=_ERROR_RATIO))
        plan.append(faults)
    return plan


def _instants(rng: random.Random, every_s: float, lasts_s: float, horizon_s: float) -> list[float]:
    instants, at = [], rng.expovariate(1.0 / every_s)
    while at < horizon_s:
        instants.append(at)
        at += lasts_s + rng.expovariate(1.0 / every_s)
    return instants


async def begin(engine_urls: Sequence[str], plan: Sequence[Sequence[Fault]]) -> None:
    """Tells every engine its faults; their time counts from now."""
    async with httpx.AsyncClient(trust_env=False) as http:
        for url, faults in zip(engine_urls, plan, strict=True):
            for fault in faults:
                (await http.post(f"{url}/emulator/faults", json=_as_json(fault))).raise_for_status()


def _as_json(fault: Fault) -> dict[str, object]:
    return {name: getattr(fault, name) for name in fault.__struct_fields__}
