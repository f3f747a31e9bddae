"""What the scorer learnt outlives every scorer: from the bucket where it is kept, or else from the recorder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sollol_agents.children import Child
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.jetstream.api import api
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus
from sollol_schemas import stores
from sollol_schemas.decision import CandidateCost

MODEL = "llama3.2:3b"
REQUESTS = 8


@pytest.fixture
async def spread(fleet: ProcessFleet, tmp_path: Path) -> AsyncIterator[ProcessFleet]:
    """A server, a recorder and a dispatcher as processes; scorers and the node come and go."""
    async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"))) as server:
        fleet.nats_url = server.url
        await fleet.actor("recorder", "--database", str(tmp_path / "recorder.sqlite3"))
        await fleet.actor("dispatcher")
        yield fleet
        for child in reversed(fleet.children):
            await child.close()


async def scorers_and_node(fleet: ProcessFleet, url: str, life: int) -> list[Child]:
    """Two scorers and the node's monitor, all of them new and without a memory of their own."""
    scorers = [
        await fleet.actor("scorer", "--snapshot-every-s", "0.2", name=f"scorer-{life}{number}") for number in "ab"
    ]
    node = await fleet.sollol(
        "node", "--nats", fleet.nats_url, "--id", "attic", "--engine", "ollama", "--url", url, name=f"attic-{life}"
    )
    await fleet.joined("attic")
    return [*scorers, node]


def prompt(who: str) -> str:
    """A prompt that no engine has cached for somebody else."""
    return f"dear {who}, count down from 40 " + "and mind every single step on the way down " * 30


async def predicted(client: Client) -> CandidateCost:
    return (await client.route(MODEL, prompt("anybody"))).candidates[0]


async def test_all_scorers_are_killed_and_the_first_decision_of_a_new_one_uses_what_they_learnt(
    spread: ProcessFleet,
) -> None:
    flags = ("--preset", "rtx4090-24", "--model", f"{MODEL}=3.2", "--preload", MODEL)
    engine = await spread.emulator("attic", *flags, "--decode-tps", "1500", "--prefill-tps", "900")
    async with spread.client() as client:
        bucket = Bucket(client.bus, stores.LEARNED_BUCKET)
        actors = await scorers_and_node(spread, engine.url, 1)
        before = await predicted(client)
        for number in range(REQUESTS):
            await client.generate(MODEL, prompt(f"caller {number}"))
        await eventually(lambda: _has_saved(bucket), complaint="what was learnt is in the bucket")
        learned = await predicted(client)
        assert learned.decode_s < before.decode_s / 2, "the engine is faster than its hardware promises"
        assert learned.prefill_s > before.prefill_s * 2, "and slower at prompts"

        for child in actors:
            child.kill()
        actors = await scorers_and_node(spread, engine.url, 2)
        restored = await predicted(client)
        assert restored.decode_s == pytest.approx(learned.decode_s, rel=0.02)
        assert restored.prefill_s == pytest.approx(learned.prefill_s, rel=0.02)

        await eventually(lambda: _has_recorded(client), complaint="every outcome is recorded")
        for child in actors:
            child.kill()
        await api(client.bus, f"STREAM.DELETE.KV_{stores.LEARNED_BUCKET}")
        await scorers_and_node(spread, engine.url, 3)
        from_record = await predicted(client)
        assert from_record.decode_s < before.decode_s / 2
        assert from_record.prefill_s == pytest.approx(learned.prefill_s, rel=0.2)
        await eventually(lambda: _has_saved(bucket), complaint="the bucket was made again")


async def _has_saved(bucket: Bucket) -> bool:
    entry = await bucket.get("scorer")
    if not entry.value:
        return False
    node = msgspec.json.decode(entry.value).get("nodes", {}).get("attic", {})
    return bool(node.get("record", {}).get("attempts", 0) > REQUESTS * 0.9)


async def _has_recorded(client: Client) -> bool:
    entries = (await client.reliability("attic", MODEL)).entries
    return bool(entries) and entries[0].successes == REQUESTS


async def test_a_corrupt_document_is_ignored_and_replaced(spread: ProcessFleet, tmp_path: Path) -> None:
    engine = await spread.emulator("attic", "--preset", "instant", "--model", f"{MODEL}=3.2", "--preload", MODEL)
    bus = await Bus.connect(spread.bus_config())
    try:
        bucket = Bucket(bus, stores.LEARNED_BUCKET)
        await scorers_and_node(spread, engine.url, 1)
        await bucket.put("scorer", b'{"type":"scorer.learned.v1","nodes":{"attic":{"instance":7}}}')
        scorer = await spread.actor("scorer", "--snapshot-every-s", "0.2", name="scorer-late")
        assert "is ignored" in (tmp_path / "scorer-late.log").read_text()
        assert scorer.exit_code is None
        async with spread.client() as client:
            assert (await client.generate(MODEL, "count down from 3")).text

            async def is_replaced() -> bool:
                entry = await bucket.get("scorer")
                return entry.value is not None and b'"term"' in entry.value

            await eventually(is_replaced)
    finally:
        await bus.close()
