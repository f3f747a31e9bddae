"""What docs/security.md says of where prompts lie, checked on the disk of a real system."""

from __future__ import annotations

from pathlib import Path

import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_schemas.queries import StatsReply

MODEL = "llama3.2:3b"
PROMPT = "what is a pomegranate?"


def files_with(folder: Path, text: str) -> list[str]:
    """Every file below a folder that holds a text, as it is or in the words of a log."""
    mark = text.encode()
    return [str(path) for path in folder.rglob("*") if path.is_file() and mark in path.read_bytes()]


async def test_a_direct_prompt_lies_nowhere_and_a_job_is_kept_until_it_is_done(
    fleet: ProcessFleet, tmp_path: Path
) -> None:
    await fleet.up("--log-level", "debug")
    engine = await fleet.emulator("attic", "--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)
    await fleet.node("attic", engine.url, "--log-level", "debug")
    async with fleet.client() as client:
        assert (await client.generate(MODEL, PROMPT)).text
        await engine.add_fault(Fault(kind=FaultKind.OUT_OF_MEMORY, times=0))
        with pytest.raises(SollolError):
            await client.generate(MODEL, PROMPT)
        await engine.clear_faults()

        async def is_recorded() -> bool:
            stats: StatsReply = await client.stats()
            return stats.total.requests >= 2

        await eventually(is_recorded)
        assert files_with(tmp_path, "pomegranate") == []

        await engine.add_fault(Fault(kind=FaultKind.HANG))
        job = await client.generate_async(MODEL, PROMPT)
        await eventually(lambda: files_with(tmp_path, "pomegranate") != [])
        kept = files_with(tmp_path, "pomegranate")
        assert all("/jetstream/" in path for path in kept), kept
        await client.jobs.cancel(job)
