"""Every value that is kept in buckets replaced by garbage: the system comes up, says so, and is mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from sollol_agents.cli.commands.doctor_kept import check_answers, check_kept
from sollol_agents.cli.commands.findings import Level
from sollol_agents.gateway.batches.store import streams
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.job_streams import job_streams
from sollol_bus.jetstream.streams import STREAMS, provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas import stores, subjects

KEYS = (
    (stores.OFFICES_BUCKET, stores.SCORER_LEASE),
    (stores.OFFICES_BUCKET, stores.RECORDER_LEASE),
    (stores.NODES_BUCKET, "node.n1"),
    (stores.SETTINGS_BUCKET, stores.API_KEYS),
    (stores.SETTINGS_BUCKET, stores.OPERATORS_CHOICE),
    (stores.SETTINGS_BUCKET, stores.INTENTS),
    (stores.LEARNED_BUCKET, stores.LEARNED),
    (stores.JOBS_BUCKET, "job.j"),
    (stores.BATCHES_BUCKET, "file._.file-1"),
    (stores.BATCHES_BUCKET, "batch._.batch-1"),
)

ACK = b'{"stream":"KV_SOLLOL_SETTINGS","seq":7}'
"""What JetStream writes where somebody sends it."""

pytestmark = pytest.mark.timeout(60)


async def test_the_system_comes_up_over_garbage_in_every_bucket_and_the_doctor_removes_it(
    tmp_path: Path, nats_server: EmbeddedServer, bus: Bus
) -> None:
    await provision(bus, streams=(*STREAMS, *job_streams(), *streams(60.0)))
    for bucket, key in KEYS:
        await Bucket(bus, bucket).put(key, ACK if key in (stores.API_KEYS, stores.INTENTS) else b"\xff\x00[")
    stack = {"bus": BusConfig(url=nats_server.url)}
    async with EmulatedSystem(tmp_path, gateway=GatewayConfig(port=0), stack=stack) as s:
        assert (await s.client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
        assert (await s.http.get("/readyz")).status_code == 200
        assert (await s.http.get("/v1/batches")).json()["data"] == []
        assert (await s.http.get("/v1/files")).json()["data"] == []
        assert (await s.http.get("/api/jobs")).status_code == 200
        found = await check_kept(bus, repair=False)
        named = {f.found.split()[0] for f in found if f.level is Level.WARNING}
        ours = {"api_keys", "intents", "scorer", "file._.file-1", "batch._.batch-1", "job.j"}
        assert named == ours, "what the system writes by itself it has written anew"
        assert all(f.level is Level.OK for f in await check_kept(bus, repair=True))
        assert [f.found for f in await check_kept(bus, repair=False)] == ["every value is what it must be"]
        assert await check_answers(bus) == []
        assert (await s.client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]


async def test_the_doctor_leaves_the_state_of_a_job_that_waits_to_its_dispatcher(bus: Bus) -> None:
    await provision(bus, streams=(*STREAMS, *job_streams()))
    states = Bucket(bus, stores.JOBS_BUCKET)
    for job_id in ("waits", "is-gone"):
        await states.put(f"job.{job_id}", b"{")
    await publish_acked(bus, subjects.JOB_SUBMIT.of("5", "waits"), b"{}")
    assert {f.found.split()[0] for f in await check_kept(bus, repair=True)} == {"job.waits", "removed"}
    assert [entry.key for entry in await states.every("job.*")] == ["job.waits"]
