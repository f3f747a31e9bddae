"""Where a request may run and what it costs, through every door of a running fleet; the engines are emulated."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sollol_agents.lab.testing.gateway_questions import ANY_PORT
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BadRequest, NoEligibleNode
from sollol_bus.sdk.client import Client
from sollol_schemas.prices import NodePrice
from sollol_schemas.queries import Usage, UsageBy, UsageRequest
from sollol_schemas.routing import Routing, RoutingMode

CHEAP = Routing(routing_mode=RoutingMode.CHEAP)
RENTED, OWN = NodePrice(per_hour=4.0, currency="EUR"), NodePrice(per_hour=0.1, currency="EUR")


async def _are_told(client: Client) -> bool:
    told = {view.node_id: view.telemetry for view in (await client.nodes()).nodes}
    return (told["n1"].price, told["n2"].price) == (RENTED, OWN) and told["n2"].labels == {"site": "office"}


async def _used(client: Client) -> dict[str, Usage]:
    return {one.node: one for one in (await client.usage(UsageRequest(by=(UsageBy.NODE,)))).entries}


async def _are_recorded(client: Client, count: int) -> bool:
    return sum(one.requests for one in (await _used(client)).values()) >= count


async def _explained(client: Client, request_id: str) -> bool:
    return bool((await client.why(request_id)).outcomes)


async def test_prices_and_labels_that_operators_set_decide_where_requests_run_and_are_added_up(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2, gateway=ANY_PORT) as here:
        client = here.client
        first = await client.generate(MODEL, "count down from 1", routing=CHEAP)
        assert first.decision is not None
        assert first.decision.reason.endswith("; no node has a price: as fast")
        await asyncio.gather(
            client.set_node("n1", price=RENTED), client.set_node("n2", price=OWN, labels={"site": "office"})
        )
        await eventually(_are_told, client)

        answer = await client.generate(MODEL, "count down from 3", routing=CHEAP)
        assert answer.decision is not None
        assert (answer.decision.node_id, answer.decision.mode) == ("n2", RoutingMode.CHEAP)
        assert " EUR instead of " in answer.decision.reason
        body = {"model": MODEL, "prompt": "count down from 1", "stream": False}
        places = [
            (await here.http.post("/api/generate", json=body | more, headers=head)).headers["x-sollol-node"]
            for more, head in (
                ({"routing_mode": "cheap"}, {}),
                ({}, {"X-Sollol-Routing-Mode": "cheap"}),
                ({"where": "site=office"}, {}),
                ({}, {"X-Sollol-Where": "site!=office"}),
                ({"prefer": "site=office"}, {}),
            )
        ]
        assert places == ["n2", "n2", "n2", "n1", "n2"]
        job_id = await client.generate_async(MODEL, "1", routing=Routing(where="site!=office"))
        assert (await client.wait_for_task(job_id, timeout_s=10)).text
        assert next(o for o in here.outcomes if o.decision.job_id).node_id == "n1"

        with pytest.raises(NoEligibleNode, match=r"n1 \(no site, asked for site=cloud\)"):
            await client.generate(MODEL, "1", routing=Routing(where="site=cloud"))
        refused = await here.http.post("/api/generate", json=body | {"where": "office"})
        assert (refused.status_code, "write site=office" in refused.json()["error"]) == (400, True)
        with pytest.raises(BadRequest, match="write site=office"):
            await client.generate(MODEL, "1", where="office")

        await eventually(_are_recorded, client, 8)
        used = await _used(client)
        assert set(used["n1"].expenses) == set(used["n2"].expenses) == {"EUR"}
        outcomes = [o for o in here.outcomes if o.node_id == "n2" and o.figures is not None and o.figures.expense]
        measured = sum(o.figures.expense or 0.0 for o in outcomes if o.figures is not None)
        assert used["n2"].expenses["EUR"] == pytest.approx(measured, rel=1e-5)  # of six digits
        assert measured <= sum(o.figures.actual_s + 1.0 for o in outcomes if o.figures is not None) * 0.1 / 3600
        await eventually(_explained, client, answer.request_id)
        why = await client.why(answer.request_id)
        assert {c.node_id: c.currency for c in why.decisions[0].candidates} == {"n1": "EUR", "n2": "EUR"}
        assert why.outcomes[0].figures is not None
        assert (why.outcomes[0].figures.currency, why.outcomes[0].figures.energy_j) == ("EUR", None)

        await here.node("n3", price_per_kwh=0.36, currency="EUR", power_busy_w=1000.0, labels={"site": "shed"})
        metered = await client.generate(MODEL, "count down from 1", routing=Routing(where="site=shed"))
        assert metered.figures is not None
        energy_j, expense = metered.figures.energy_j or 0.0, metered.figures.expense
        assert energy_j > 0.0
        assert expense == pytest.approx(energy_j * 1e-7, rel=1e-4)
