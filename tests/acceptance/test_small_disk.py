"""`sollol up` on a real file system of 1 GiB: it starts again and again, and outlives its being full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sollol_agents.lab.testing import processes
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 GiB; the test is skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


async def test_it_starts_three_times_in_a_row(fleet: ProcessFleet, small_disk: Path) -> None:
    for _ in range(3):
        up = await fleet.up("--store-dir", str(small_disk), "--no-dashboard")
        done = await processes.sollol(fleet.nats_url, "doctor")
        assert "SOLLOL_EVENTS, " in done.out
        assert "MiB at most" in done.out
        assert "keeps" in await up.log_text()
        await up.close()


async def test_requests_go_on_while_it_is_full_and_all_is_well_soon_after(
    fleet: ProcessFleet, small_disk: Path
) -> None:
    up = await fleet.up("--store-dir", str(small_disk), "--no-dashboard")
    engine = await fleet.emulator("attic", "--preset", "instant", "--model", "m", "--preload", "m")
    await fleet.node("attic", engine.url)
    ask = {"model": "m", "prompt": "count down from 3", "stream": False}
    async with httpx.AsyncClient(base_url=up.served["http"], timeout=20, trust_env=False) as http:
        await eventually(lambda: is_ready(http))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            for _ in range(2048):
                try:
                    file.write(bytes(MIB))
                except OSError:
                    break
        await eventually(lambda: is_ready(http, store=False))
        for _ in range(60):
            assert (await http.post("/api/generate", json=ask)).status_code == 200
        assert (await http.post("/api/jobs", json={"body": ask})).status_code == 503
        done = await processes.sollol(fleet.nats_url, "doctor")
        assert (done.code, "full disk" in done.out) == (1, True)
        filler.unlink()
        await eventually(lambda: is_ready(http))

        async def takes_jobs() -> bool:
            return (await http.post("/api/jobs", json={"body": ask})).status_code < 300

        await eventually(takes_jobs)
    assert "the disk is full" in await up.log_text()


async def is_ready(http: httpx.AsyncClient, *, store: bool = True) -> bool:
    answer = await http.get("/readyz")
    return answer.status_code == 200 and ("store" not in answer.json()) is store
