"""Teams, ceilings, usage and the trail, as an operator asks for them on the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from sollol_agents.lab.testing.processes import sollol
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually


async def test_an_operator_gives_a_caller_a_team_and_ceilings_and_reads_what_was_used_and_done(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as here:
        url = here.stack.nats_url
        limits = ("--team", "research", "--per-minute", "60", "--max-priority", "normal")
        said = await sollol(url, "fleet", "limit", "laptop", *limits, "--json")
        told = json.loads(said.out)
        assert (told["team"], told["max_priority"], told["requests_per_minute"]) == ("research", 5, 60.0)
        assert (await sollol(url, "fleet", "limit", "laptop", "--max-priority", "99")).code != 0
        await here.client.generate("m", "1")

        async def is_recorded() -> bool:
            return bool((await here.client.usage()).entries)

        await eventually(is_recorded)
        used = await sollol(url, "usage", "--since", "1h", "--by", "team", "--by", "model", "--csv")
        (row,) = csv.DictReader(io.StringIO(used.out))
        assert (row["team"], row["model"], row["requests"], row["failed"]) == ("", "m:latest", "1", "0")
        acts = json.loads((await sollol(url, "audit", "-o", "json")).out)
        assert [(one["act"], one["target"]) for one in acts] == [("fleet.limit", "laptop")]
        assert "research" in acts[0]["details"]
