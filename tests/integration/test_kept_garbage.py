"""Every value that is kept in buckets replaced by garbage: the system comes up, says so, and is mended."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sollol_agents.cli.commands.doctor_kept import check_answers, check_kept
from sollol_agents.cli.commands.findings import Level
from sollol_agents.gateway.batches.store import streams
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.access import Access
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import DecodeFailed, Unauthorized
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.job_streams import job_streams
from sollol_bus.jetstream.streams import STREAMS, provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas import stores, subjects
from sollol_schemas.stores import KEPT

GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
SAMPLES = {"Learned": "scorer.learned.v1", "JobStatus": "job.status.v1"}
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
NAMES = [
    next(row.value for row in KEPT if row.bucket == bucket and key.startswith(row.key.partition("{")[0]))
    for bucket, key in KEYS
]
REWRITTEN = {"node.n1", "recorder", "scorer"}
"""What the system may write anew by itself; three things have the last name."""
CANARY = "crown-jewels"


def sample(name: str) -> Any:
    return msgspec.json.decode((GOLDEN / f"{SAMPLES.get(name, name)}.json").read_bytes())


def twisted(value: Any, *, number: Any, text: str) -> Any:
    """A message in which every number and every text is another."""
    if isinstance(value, dict):
        return {k: v if k == "type" else twisted(v, number=number, text=text) for k, v in value.items()}
    if isinstance(value, list):
        return [twisted(v, number=number, text=text) for v in value]
    if isinstance(value, str):
        return text
    return value if isinstance(value, bool) or value is None else number


def _json_with(name: str, number: Any = 7, text: str = "x") -> bytes:
    return msgspec.json.encode(twisted(sample(name), number=number, text=text))


KINDS: dict[str, Callable[[str], bytes]] = {
    "bytes": lambda name: CANARY.encode() + random.Random(name).randbytes(300),
    "empty": lambda _: b"",
    "another type": lambda _: msgspec.json.encode([CANARY, 1, None, {"keys": "x"}]),
    "fields of another type": lambda name: msgspec.json.encode(dict.fromkeys(sample(name), CANARY)),
    "an ack of the store": lambda _: b'{"stream":"KV_SOLLOL_SETTINGS","seq":7}',
    "huge numbers": lambda name: _json_with(name, number=10**40),
    "no numbers": lambda name: re.sub(rb":\d[\d.]*", b":NaN", _json_with(name)),
    "deep": lambda name: b'{"type":"%s","keys":' % SAMPLES.get(name, "").encode() + b"[" * 100_000,
    "1 MB": lambda _: b'"' + CANARY.encode() * 85_000 + b'"',
    "long texts": lambda name: _json_with(name, text=f"{CANARY}'\n\x1b[2J` - at `$.x`" * 1000),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_system_comes_up_over_garbage_in_every_bucket_says_so_and_the_doctor_removes_it(
    tmp_path: Path, nats_server: EmbeddedServer, bus: Bus, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    await provision(bus, streams=(*STREAMS, *job_streams(), *streams(60.0)))
    for (bucket, key), name in zip(KEYS, NAMES, strict=True):
        await Bucket(bus, bucket).put(key, KINDS[kind](name))
    bad = {f.found.split()[0] for f in await check_kept(bus, repair=False) if f.level is Level.WARNING}
    stack = {"bus": BusConfig(url=nats_server.url)}
    async with EmulatedSystem(tmp_path, gateway=GatewayConfig(port=0), stack=stack) as s:
        assert (await s.client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
        assert (await s.http.get("/readyz")).status_code == 200
        for path in ("/v1/batches", "/v1/files", "/api/jobs", "/v1/batches/batch-1", "/v1/files/file-1", "/api/jobs/j"):
            assert (await s.http.get(path)).status_code < 600, path
        job_id = await s.count(3)
        assert (await s.client.wait_for_task(job_id, timeout_s=20)).text.split() == ["2", "1", "0"]
        await eventually(lambda: bad - {"job.j"} <= _named(caplog), complaint="everything that is ignored is named")
        _assert_bounded(caplog)
        found = {f.found.split()[0] for f in await check_kept(bus, repair=False) if f.level is Level.WARNING}
        assert bad - REWRITTEN <= found
        assert all(f.level is Level.OK for f in await check_kept(bus, repair=True))
        assert [f.found for f in await check_kept(bus, repair=False)] == ["every value is what it must be"]
        assert await check_answers(bus) == []
        assert (await s.client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]


def _named(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {r.getMessage().split()[0] for r in caplog.records if getattr(r, "action", "") == "bad_entry"}


def _assert_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Each is said once by each that reads it, in one short line without what stood there."""
    texts = [r.getMessage() for r in caplog.records]
    assert not [text for text in texts if CANARY in text and not text.startswith("the operators' choice")]
    assert not [text for text in texts if len(text) > 400 or not text.isprintable()]
    said = [r.getMessage() for r in caplog.records if getattr(r, "action", "") == "bad_entry"]
    assert all(said.count(text) <= 4 for text in said), said


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_that_cannot_be_read_let_nobody_in_and_are_not_written_over(bus: Bus, kind: str) -> None:
    await provision(bus)
    value = KINDS[kind]("KeyRing")
    await Bucket(bus, stores.SETTINGS_BUCKET).put(stores.API_KEYS, value)
    async with asyncio.TaskGroup() as group:
        following: list[asyncio.Task[Any]] = []

        def spawn(coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
            following.append(group.create_task(coroutine, name=name))
            return following[-1]

        access = Access(bus, GatewayConfig(require_key=True), spawn)
        await access.start()
        for headers in ([], [(b"authorization", b"Bearer x")], [(b"x-api-key", CANARY.encode())]):
            with pytest.raises(Unauthorized):
                access.guest(headers, "/api/tags")
        if kind != "long texts":  # which make a ring of one key that nobody has
            with pytest.raises(DecodeFailed):
                await KeyStore(bus).create("laptop")
            assert (await Bucket(bus, stores.SETTINGS_BUCKET).get(stores.API_KEYS)).value == value
        for task in following:
            task.cancel()


async def test_the_doctor_leaves_the_state_of_a_job_that_waits_to_its_dispatcher(bus: Bus) -> None:
    await provision(bus, streams=(*STREAMS, *job_streams()))
    states = Bucket(bus, stores.JOBS_BUCKET)
    for job_id in ("waits", "is-gone"):
        await states.put(f"job.{job_id}", b"{")
    await publish_acked(bus, subjects.JOB_SUBMIT.of("5", "waits"), b"{}")
    assert {f.found.split()[0] for f in await check_kept(bus, repair=True)} == {"job.waits", "removed"}
    assert [entry.key for entry in await states.every("job.*")] == ["job.waits"]
