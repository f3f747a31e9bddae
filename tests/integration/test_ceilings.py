"""Teams and ceilings of callers, on a real bus: counted over gateways and dispatchers, changed while they hold."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.testing.gateway_questions import generate
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import QueueFull
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import encode
from sollol_bus.trust.callers import named
from sollol_bus.trust.standings import StandingStore
from sollol_schemas import stores
from sollol_schemas.callers import Standing, name_of_key
from sollol_schemas.keys import ApiKey, KeyRing
from sollol_schemas.subjects import Role

WITH_KEYS = GatewayConfig(port=0, require_key=True)


async def is_known(here: EmulatedSystem, name: str, **standing: Any) -> None:
    """Returns when scorer and dispatcher know the standing."""
    scorer = next(actor for actor in here.stack.actors if actor.name == "scorer")
    dispatcher = next(actor for actor in here.stack.actors if actor.name == "dispatcher")
    wanted = Standing(**standing)
    for roster in (
        lambda: scorer.core.ceilings._roster,  # type: ignore[attr-defined]
        lambda: dispatcher._requests._roster,  # type: ignore[attr-defined]
    ):
        await eventually(lambda roster=roster: roster().of(name) == wanted)


async def test_what_a_key_has_open_is_counted_over_all_gateways(tmp_path: Path) -> None:
    async with (
        EmulatedSystem(tmp_path, gateway=WITH_KEYS, decode_tps=50.0) as here,
        here.beside(WITH_KEYS) as second,
    ):
        key, secret = await KeyStore(here.gateway.bus).create("scripts", max_concurrent=1)
        await is_known(here, name_of_key(key.key_id), title="scripts", max_concurrent=1)
        theirs = {"x-api-key": secret}

        async def is_served(http: httpx.AsyncClient) -> bool:
            return (await http.get("/api/version", headers=theirs)).status_code == 200

        async with httpx.AsyncClient(base_url=second.url) as other:
            for http in (here.http, other):
                await eventually(is_served, http, complaint="the key is known")
            async with here.http.stream("POST", "/api/generate", json=generate(200), headers=theirs) as first:
                lines = first.aiter_lines()
                await anext(lines)
                refused = await other.post("/api/generate", json=generate(1), headers=theirs)
                assert refused.status_code == 429
                assert "scripts" in refused.json()["error"]


async def test_a_key_may_have_so_many_jobs_that_wait_or_run(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, gateway=WITH_KEYS, nodes=0) as here:
        key, secret = await KeyStore(here.gateway.bus).create("scripts", max_jobs=1)
        await is_known(here, name_of_key(key.key_id), title="scripts", max_jobs=1)
        theirs, job = {"x-api-key": secret}, {"body": {"model": "m", "prompt": "x"}}

        async def is_served() -> bool:
            return (await here.http.get("/api/version", headers=theirs)).status_code == 200

        await eventually(is_served)
        assert (await here.http.post("/api/jobs", json=job, headers=theirs)).status_code == 202
        refused = await here.http.post("/api/jobs", json=job, headers=theirs)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert "(scripts) may have 1 jobs" in refused.text


async def test_a_client_of_the_bus_has_ceilings_as_a_key_has(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as here:
        await StandingStore(here.client.bus).change(named("laptop", max_priority=3, requests_per_minute=1))
        await is_known(here, "laptop", max_priority=3, requests_per_minute=1)
        shown = Members(tmp_path, {"laptop": Role.CLIENT}).creds_file("laptop")  # whoever is open reads only the name
        config = BusConfig(url=here.stack.nats_url, creds_file=shown)
        bus = await Bus.connect(config)
        try:
            async with Client(bus) as laptop:
                answer = await laptop.generate("m", "1", priority=9)
                assert answer.decision is not None
                assert answer.decision.priority == 3
                with pytest.raises(QueueFull, match="sollol fleet limit laptop") as caught:
                    await laptop.generate("m", "1")
                assert caught.value.retry_after_s is not None
        finally:
            await bus.close()
        await StandingStore(here.client.bus).change(named("laptop", requests_per_minute=0))
        await is_known(here, "laptop", max_priority=3)


async def test_a_gateway_moves_ceilings_that_an_older_version_kept_with_its_keys(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=0) as here:
        old = ApiKey(key_id="abc", name="old", secret_sha256="0", created_at="", max_priority=3)
        await Bucket(here.client.bus, stores.SETTINGS_BUCKET).put(stores.API_KEYS, encode(KeyRing(keys=(old,))))
        async with here.beside(GatewayConfig(port=0)):
            moved = await StandingStore(here.client.bus).load()
        assert moved.callers == {"key-abc": Standing(title="old", max_priority=3)}


async def test_two_who_change_the_table_at_once_lose_nothing(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=0) as here:
        store = StandingStore(here.client.bus)
        await asyncio.gather(*(store.change(named(f"c{n}", team="t")) for n in range(8)))
        assert len((await store.load()).callers) == 8
