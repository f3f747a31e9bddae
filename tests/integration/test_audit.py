"""The trail of what operators did: by the bus, over HTTP, and directly on what is kept."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.sdk.questions import ask_actor
from sollol_bus.transport.acting import ACTING
from sollol_schemas import subjects
from sollol_schemas.acts import Act, ActsReply, ActsRequest, Operator
from sollol_schemas.callers import name_of_key
from sollol_schemas.headers import OPERATOR

HERE = socket.gethostname()


async def acts(here: EmulatedSystem) -> dict[str, Act]:
    """The latest act of each kind."""
    reply = await ask_actor(here.client.bus, subjects.ADMIN_ACTS, ActsRequest(), ActsReply)
    return {one.act: one for one in reversed(reply.acts)}


async def have(here: EmulatedSystem, *wanted: str) -> bool:
    return set(wanted) <= set(await acts(here))


async def test_what_operators_did_is_kept_with_who_when_and_from_where(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as here:
        token = ACTING.set(Operator(who="olga", host="desk"))
        await here.client.drain("n1")
        await here.client.undrain("n1")
        ACTING.reset(token)
        await here.client.set_strategy("plan", hold=0.5)
        await here.client.reset_breakers()
        await here.client.forget_reliability("n1")
        await here.client.jobs.purge()
        store = KeyStore(here.client.bus)
        key, secret = await store.create("scripts", max_concurrent=2)
        await store.revoke(key.key_id)
        await eventually(have, here, "node.undrain", "strategy.set", "breakers.reset", "metrics.reset", "jobs.purge")
        await eventually(have, here, "keys.create", "keys.revoke")
        found = await acts(here)
        drained = found["node.drain"]
        assert (drained.target, drained.by) == ("n1", Operator(who="olga", host="desk"))
        assert drained.at
        assert found["strategy.set"].details == {"hold": "0.5"}
        assert found["strategy.set"].by == Operator(host=HERE)
        assert found["metrics.reset"].target == "n1"
        assert found["keys.create"].target == name_of_key(key.key_id)
        assert found["keys.create"].details == {"name": "scripts", "max_concurrent": "2"}
        assert secret not in str(found)
        assert key.secret_sha256 not in str(found)


async def test_an_administrators_act_over_http_names_the_key_and_the_address(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, gateway=GatewayConfig(port=0, require_key=True)) as here:
        key, secret = await KeyStore(here.gateway.bus).create("boss", is_admin=True)
        theirs = {"x-api-key": secret}

        async def is_known() -> bool:
            return (await here.http.get("/api/tags", headers=theirs)).status_code == 200

        await eventually(is_known)
        assert (await here.http.delete("/api/jobs/nope", headers=theirs)).status_code == 404
        job = (await here.http.post("/api/jobs", json={"body": {"model": "m", "prompt": "1"}}, headers=theirs)).json()
        await here.http.get(f"/api/jobs/{job['job_id']}/wait", headers=theirs)
        assert (await here.http.delete(f"/api/jobs/{job['job_id']}", headers=theirs)).status_code == 200
        await eventually(have, here, "jobs.purge")
        purged = (await acts(here))["jobs.purge"]
        assert purged.by == Operator(who=name_of_key(key.key_id), host=HERE, address="127.0.0.1")
        assert purged.target == job["job_id"]


@pytest.mark.parametrize("said", ["", "no json", "[]", '{"who":1}'])
async def test_an_act_by_nobody_in_particular_is_kept_all_the_same(tmp_path: Path, said: str) -> None:
    async with EmulatedSystem(tmp_path, nodes=0) as here:
        body = b'{"node_id":"elsewhere"}'
        headers = {OPERATOR: said} if said else None
        await here.client.bus.request(subjects.ADMIN_NODE.of("drain"), body, headers=headers)
        await eventually(have, here, "node.drain")
        assert (await acts(here))["node.drain"].by == Operator()
