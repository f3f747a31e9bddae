"""An office, on a real server that is also killed and paused."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.office import Candidate
from sollol_bus.jetstream.streams import provision
from sollol_bus.jetstream.vacancy import nobody, why_vacant
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import encode
from sollol_schemas import stores, subjects
from sollol_schemas.stores import Holder


class Stander:
    """A candidate with its own connection and a record of what it was told."""

    def __init__(self, bus: Bus, name: str, **options: object) -> None:
        self.bus = bus
        self.terms: list[int] = []
        self.losses: list[str] = []
        self.now_shift_s = 0.0
        self.office = Candidate(
            bus,
            "office",
            name,
            on_acquired=self.terms.append,
            on_lost=self.losses.append,
            clock=lambda: time.monotonic() + self.now_shift_s,
            **options,  # type: ignore[arg-type]
        )
        self.task = asyncio.get_running_loop().create_task(self.office.run())

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.bus.close()


Join = Callable[..., Awaitable[Stander]]


@pytest.fixture
async def join(nats_server: EmbeddedServer) -> AsyncIterator[Join]:
    candidates: list[Stander] = []

    async def make(name: str, **options: object) -> Stander:
        bus = await Bus.connect(BusConfig(url=nats_server.url, name=name))
        await provision(bus)
        candidates.append(Stander(bus, name, **{"probe": subjects.SCORER_PROBE.of, **options}))
        return candidates[-1]

    yield make
    for candidate in candidates:
        await candidate.end()


async def test_a_lone_candidate_takes_office_and_keeps_its_term_over_renewals(join: Join) -> None:
    a = await join("a", ttl_s=1)
    await eventually(lambda: a.office.is_held)
    bucket = Bucket(a.bus, stores.OFFICES_BUCKET)
    term = a.office.term

    async def was_renewed_twice() -> bool:
        return (await bucket.get("office")).revision >= term + 2

    await eventually(was_renewed_twice)
    assert a.terms == [term]
    assert a.losses == []


async def test_of_several_candidates_one_is_in_office(join: Join) -> None:
    candidates = [await join(name) for name in ("a", "b", "c")]
    await eventually(lambda: all(c.office.owner for c in candidates))
    assert sum(c.office.is_held for c in candidates) == 1
    assert len({c.office.owner for c in candidates}) == 1


async def test_a_holder_that_leaves_hands_over_with_a_higher_term(join: Join) -> None:
    a = await join("a", ttl_s=60)
    await eventually(lambda: a.office.is_held)
    b = await join("b", ttl_s=60, probe=None)
    await eventually(lambda: b.office.owner == "a")
    await a.office.close()
    assert a.losses == ["left"]
    assert not a.office.is_held
    await eventually(lambda: b.office.is_held)
    assert b.office.term > a.terms[0]
    await asyncio.wait_for(a.task, 30)


async def test_a_holder_whose_connection_is_gone_is_succeeded_long_before_its_lease_ends(join: Join) -> None:
    a = await join("a", ttl_s=60)
    await eventually(lambda: a.office.is_held)
    b = await join("b", ttl_s=60)
    await eventually(lambda: b.office.owner == "a")
    await a.bus.close()
    await eventually(lambda: b.office.is_held, within_s=10)
    assert not a.office.is_held


async def test_without_a_probe_the_time_to_live_decides(join: Join) -> None:
    a = await join("a", ttl_s=1, probe=None)
    await eventually(lambda: a.office.is_held)
    b = await join("b", ttl_s=1, probe=None)
    await a.bus.close()
    await eventually(lambda: b.office.is_held)
    assert b.office.term > a.terms[0]


async def test_a_restart_of_the_server_ends_the_office_and_somebody_takes_it_again(
    nats_server: EmbeddedServer, join: Join
) -> None:
    a, b = await join("a"), await join("b")
    await eventually(lambda: a.office.is_held or b.office.is_held)
    first = max(a.office.term, b.office.term)
    await nats_server.kill()
    await eventually(lambda: bool(a.losses or b.losses))
    assert (a.losses or b.losses) == ["disconnected"]
    assert not a.office.is_held
    assert not b.office.is_held
    await nats_server.start()
    await eventually(lambda: a.office.is_held or b.office.is_held)
    assert max(a.office.term, b.office.term) > first
    assert not (a.office.is_held and b.office.is_held)


async def test_a_holder_whose_server_stops_answering_steps_down_before_the_lease_can_expire(
    nats_server: EmbeddedServer, join: Join
) -> None:
    a = await join("a", ttl_s=1)
    await eventually(lambda: a.office.is_held)
    assert nats_server.pid is not None
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: bool(a.losses))
        assert a.losses == ["not renewed in time"]
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    await eventually(lambda: a.office.is_held)
    assert a.terms[1] > a.terms[0]


async def test_a_process_that_was_suspended_is_out_of_office_when_it_wakes(join: Join) -> None:
    a = await join("a", ttl_s=3)
    await eventually(lambda: a.office.is_held)
    a.now_shift_s = 2.8
    assert not a.office.is_held
    assert a.office.term == 0
    await eventually(lambda: a.office.is_held)
    assert a.losses == ["was not running when it had to renew"]
    assert len(a.terms) == 2


async def test_a_holder_that_is_overwritten_is_out_of_office(join: Join, bus: Bus) -> None:
    a = await join("a", ttl_s=1)
    await eventually(lambda: a.office.is_held)
    await Bucket(bus, stores.OFFICES_BUCKET).put("office", encode(Holder(instance="usurper", tenure_s=60)), ttl_s=60)
    await eventually(lambda: bool(a.losses))
    assert a.losses[0] in {"taken by usurper", "not renewed in time"}


async def test_a_renewal_whose_ack_was_lost_does_not_end_the_office(join: Join, bus: Bus) -> None:
    a = await join("a", ttl_s=3)
    await eventually(lambda: a.office.is_held)
    bucket = Bucket(bus, stores.OFFICES_BUCKET)
    stored = await bucket.put("office", encode(Holder(instance="a", tenure_s=3, is_lone=True)), ttl_s=3)

    async def was_renewed() -> bool:
        return (await bucket.get("office")).revision > stored

    await eventually(was_renewed)
    assert a.office.is_held
    assert a.losses == []


async def test_terms_rise_and_offices_never_overlap_while_candidates_come_and_go(join: Join) -> None:
    held: list[Stander] = []
    terms: list[int] = []
    for name in ("a", "b", "c", "d"):
        newcomer = await join(name, ttl_s=2)
        if held:
            assert held[-1].office.is_held
            assert not newcomer.office.is_held
            await held[-1].office.close()
        await eventually(lambda c: c.office.is_held, newcomer)
        held.append(newcomer)
        terms.append(newcomer.office.term)
        assert sum(c.office.is_held for c in held) == 1
    assert terms == sorted(set(terms))


GARBAGE = (
    b"",
    b"\xff\xfe",
    b"an old name",
    b"null",
    b'{"instance": "a b", "tenure_s": 3}',
    b'{"instance": "x", "tenure_s": 1e9}',
    encode(Holder(instance="nobody_alive", tenure_s=1)),
)
"""What may lie there instead of a holder, and a holder without a time to live who is not there."""


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_what_names_no_living_holder_counts_as_vacant(join: Join, bus: Bus, garbage: bytes) -> None:
    await provision(bus)
    bucket = Bucket(bus, stores.OFFICES_BUCKET)
    await bucket.put("office", garbage)
    a = await join("a", ttl_s=1)
    await eventually(lambda: a.office.is_held)
    term = a.office.term
    await bucket.put("office", garbage)  # over a living holder, too: it writes over it

    async def is_mended() -> bool:
        return b'"instance":"a"' in ((await bucket.get("office")).value or b"")

    await eventually(is_mended)
    assert (a.office.term, a.losses) == (term, []) or b"nobody_alive" in garbage


async def test_an_office_that_nobody_has_ever_held_is_vacant_and_its_store_not_blamed(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "OFFICES_BUCKET", "SOLLOL_NEVER_MADE")
    bus = await Bus.connect(BusConfig(url=nats_server.url))
    try:
        assert await why_vacant(bus, stores.SCORER_LEASE) == nobody(stores.SCORER_LEASE)
    finally:
        await bus.close()
