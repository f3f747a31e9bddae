"""A fleet with users: each file that `sollol credentials` writes opens its own doors and no others."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sollol_agents.lab.testing.processes import ProcessFleet

MODEL = "llama3.2:3b"

pytestmark = pytest.mark.timeout(90)


def sollol(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sollol_agents.cli", *argv], capture_output=True, text=True, timeout=60, check=False
    )


async def test_every_member_of_a_fleet_with_users_may_do_its_own_part_only(fleet: ProcessFleet, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    made = sollol("credentials", str(folder), "--node", "attic", "--client", "app")
    assert made.returncode == 0, made.stderr
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["accounts.conf", "app.toml", "node-attic.toml", "observer.toml", "up.toml"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())

    up = await fleet.sollol(
        "up",
        "--config",
        str(folder / "up.toml"),
        "--nats-port",
        "0",
        "--http-port",
        "0",
        "--store-dir",
        str(tmp_path / "s"),
    )
    nats = ("--nats", up.served["nats"])
    engine = await fleet.emulator("attic", "--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)
    await fleet.sollol("node", "--config", str(folder / "node-attic.toml"), *nats, "--url", engine.url)

    client = ("--config", str(folder / "app.toml"), *nats)
    answer = sollol("generate", *client, MODEL, "count down from 3")
    assert answer.returncode == 0, answer.stderr
    assert "2 1 0" in answer.stdout
    assert "attic" in sollol("nodes", *client).stdout

    refused = sollol("drain", *client, "attic")
    assert refused.returncode != 0
    assert "may not publish" in refused.stderr
    assert sollol("drain", "--config", str(folder / "up.toml"), *nats, "attic").returncode == 0
    assert sollol("nodes", *nats).returncode != 0


def test_no_password_is_overwritten(tmp_path: Path) -> None:
    assert sollol("credentials", str(tmp_path / "c"), "--node", "a").returncode == 0
    again = sollol("credentials", str(tmp_path / "c"), "--node", "b")
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_a_name_that_is_no_id_is_refused(tmp_path: Path) -> None:
    refused = sollol("credentials", str(tmp_path / "c"), "--node", "a.b")
    assert refused.returncode == 2
    assert "are allowed" in refused.stderr
