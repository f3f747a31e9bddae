"""An office in a cluster of three real servers, one of which is cut off with the holder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sollol_agents.lab.testing.cluster import Cluster
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BusError, ConfigError, NoResponders
from sollol_bus.jetstream import tenure
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.office import Candidate
from sollol_bus.jetstream.streams import bucket_spec, provision
from sollol_bus.jetstream.vacancy import why_vacant
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.topology import is_clustered, is_lone
from sollol_schemas import stores, subjects


async def connected(url: str) -> Bus:
    found: list[Bus] = []

    async def is_connected() -> bool:
        try:
            found.append(await Bus.connect(BusConfig(url=url, stream_replicas=3)))
        except ConfigError:
            return False
        return True

    await eventually(is_connected)
    return found[0]


async def made(bus: Bus) -> None:
    async def is_made() -> bool:
        try:
            await provision(bus, streams=(bucket_spec(stores.OFFICES_BUCKET),))
        except (BusError, ConfigError):
            return False  # the cluster chooses its leaders
        return True

    await eventually(is_made, complaint="a bucket of three copies")


async def nobody_answers(bus: Bus, subject: str) -> bool:
    try:
        await bus.request(subject, timeout_s=1.0)
    except NoResponders:
        return True
    except BusError:
        return False
    return False


async def has_no_quorum(bus: Bus) -> bool:
    return "no quorum" in await why_vacant(bus, "office")


async def test_a_holder_that_is_cut_off_from_who_asks_for_it_has_no_successor_before_it_is_out_of_office(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure, "CLUSTER_TENURE_S", 4)
    async with Cluster(tmp_path) as cluster:
        far, near = await connected(cluster.url("x")), await connected(cluster.url("a"))
        try:
            await made(near)
            assert (is_clustered(near), is_lone(near)) == (True, False)
            was_held: list[bool] = []
            losses: list[str] = []
            first = Candidate(far, "office", "first", probe=subjects.SCORER_PROBE.of, on_lost=losses.append)
            standby = Candidate(
                near,
                "office",
                "standby",
                probe=subjects.SCORER_PROBE.of,
                on_acquired=lambda _term: was_held.append(first.is_held),
            )
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(first.run())]
                await eventually(lambda: first.is_held)
                running.append(tasks.create_task(standby.run()))
                await eventually(lambda: standby.owner == "first")
                cluster.cut()
                await eventually(nobody_answers, near, subjects.SCORER_PROBE.of("first"))
                assert (first.is_held, standby.is_held) == (True, False)
                await eventually(lambda: standby.is_held)
                assert (was_held, losses) == ([False], ["not renewed in time"])
                await eventually(has_no_quorum, far)
                assert "is in office; start" in await why_vacant(near, "other")
                await Bucket(near, stores.OFFICES_BUCKET).put("office", b"no holder")  # and it stays in office
                await eventually(lambda: standby.is_held and standby.owner == "standby")
                for task in running:
                    task.cancel()
        finally:
            await asyncio.gather(far.close(), near.close())
