"""Jobs and streams survive kill -9 of everything: each job has exactly one result, and no answer breaks off.

The submitter and the reader of jobs are plain NATS clients that use nothing of this software; answers are streamed to
the client library, where what broke is to go on. Seeded by SOLLOL_CHAOS_SEED, as
long as SOLLOL_CHAOS_S says. Order is defined at the moment of a grant among the jobs that the scorer knows, so it is
judged between kills: of two jobs that were known and untroubled, the one that is both older and of higher priority
must not begin later. Jobs of one priority that were stored within milliseconds of each other have no such order:
two dispatchers agree on the server's clock to within half a round trip.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.api
import nats.js.errors
import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext

from sollol_agents.children import Child
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig

MODEL = "llama3.2:3b"
SEED = int(os.environ.get("SOLLOL_CHAOS_SEED", "20"))
CHAOS_S = float(os.environ.get("SOLLOL_CHAOS_S", "15"))
JOBS = int(os.environ.get("SOLLOL_CHAOS_JOBS", "250"))
WORDS = 90
COUNTED = [str(number) for number in range(WORDS - 1, -1, -1)]
READERS = 3
QUIET_S = 60.0
PAUSE_S = 2.5
CALM_S = 3.0
"""An order is judged only so long after a kill or a return."""
BLUR_S = 0.5
"""Events of two dispatchers are heard so far apart at most."""
TARGETS = ("dispatcher", "scorer", "node", "nats-server")
FLAGS = {"scorer": ("--hold", "0.99")}
"""Nobody waits for a faster node while the one behind takes a slower one: the start shows the order."""
EMULATOR = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL, "--parallel", "4")

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(CHAOS_S + QUIET_S + 90)]


class Victims:
    """The processes that are killed, and how each comes back."""

    def __init__(self, server: EmbeddedServer, rng: random.Random) -> None:
        self.kills: collections.Counter[str] = collections.Counter()
        self.troubled_at: list[float] = []
        """When something was killed or came back."""
        self._server = server
        self._rng = rng
        self._alive: dict[str, Child] = {}
        self._revive: dict[str, Callable[[int], Awaitable[Child]]] = {}
        self._starts = 0

    async def add(self, name: str, revive: Callable[[int], Awaitable[Child]]) -> None:
        self._revive[name] = revive
        self._starts += 1
        self._alive[name] = await revive(self._starts)

    async def strike(self, what: str) -> None:
        """Kills one process of a kind; it comes back a moment later."""
        self.kills[what] += 1
        self.troubled_at.append(time.monotonic())
        if what == "nats-server":
            assert self._server.pid is not None
            os.kill(self._server.pid, signal.SIGKILL)  # its guard starts it again
            return
        name = self._rng.choice([name for name in sorted(self._alive) if name.startswith(what)])
        self._alive[name].kill()
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))  # how long it is away is part of the chaos
        self._starts += 1
        self._alive[name] = await self._revive[name](self._starts)
        self.troubled_at.append(time.monotonic())


class Streams:
    """Callers that read one long answer after another through the client library."""

    def __init__(self, client: Client) -> None:
        self.whole = self.resumed = 0
        self.wrong: list[str] = []
        """What came of answers that had begun, and are not whole."""
        self._client = client
        self._is_over = False

    def stop(self) -> None:
        """Nobody asks anything new."""
        self._is_over = True

    async def read(self) -> None:
        """Asks again where nothing had been said yet."""
        while not self._is_over:
            said: list[str] = []
            try:
                async with self._client.generate_stream(MODEL, f"count down from {WORDS}") as stream:
                    async for chunk in stream:
                        said += chunk.text.split()
                    self.resumed += stream.call.resumed
            except SollolError as error:
                if said:
                    self.wrong.append(f"{error.body.code} after {len(said)} words: {error} {error.details}")
                await asyncio.sleep(0.2)
            else:
                self.whole += said == COUNTED
                if said != COUNTED:
                    self.wrong.append(" ".join(said))


class Listener:
    """When each job became known to a scorer and began, as a plain client hears it."""

    def __init__(self) -> None:
        self.known_at: dict[str, float] = {}
        self.began_at: dict[str, float] = {}
        self.priority: dict[str, int] = {}
        self.troubled: set[str] = set()

    async def on_event(self, msg: Msg) -> None:
        event = json.loads(msg.data)
        job_id, news, now = event["job_id"], event["news"], time.monotonic()
        if news == "queued":
            self.known_at.setdefault(job_id, now)
            self.priority[job_id] = event.get("priority", 5)
        elif news == "running" and job_id not in self.began_at:
            self.began_at[job_id] = now
        elif news in ("running", "retrying"):
            self.troubled.add(job_id)

    def _is_steady(self, job: str, troubled_at: list[float]) -> bool:
        """Whether it waited through no trouble: its dispatcher may have died with it, and another one took it later."""
        known, began = self.known_at[job], self.began_at[job]
        return job not in self.troubled and not any(known - BLUR_S < at < began for at in troubled_at)

    def judged(self, troubled_at: list[float]) -> tuple[int, int]:
        """Pairs of jobs whose order is defined, and how many of them began in the wrong order."""
        untroubled = {job for job in self.began_at.keys() & self.known_at.keys() if self._is_steady(job, troubled_at)}
        jobs = sorted(untroubled, key=lambda j: int(j.rpartition("-")[2]))
        pairs = wrong = 0
        for number, old in enumerate(jobs):
            for new in jobs[number + 1 :]:
                began = self.began_at[new]
                is_calm = all(not -2 * BLUR_S < began - at < CALM_S for at in troubled_at)
                is_defined = is_calm and max(self.known_at[old], self.known_at[new]) < began - BLUR_S
                if is_defined and self.priority[old] > self.priority[new]:
                    pairs += 1
                    wrong += self.began_at[old] > began + BLUR_S
        return pairs, wrong


async def test_every_job_has_exactly_one_result_whatever_is_killed(
    fleet: ProcessFleet, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    rng = random.Random(SEED)
    async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"))) as server:
        fleet.nats_url = server.url
        victims = Victims(server, rng)
        await _populate(fleet, victims)
        nc = await nats.connect(fleet.nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        acked: set[str] = set()
        try:
            async with fleet.client() as client:
                await _torment(nc, Streams(client), victims, rng, figure=figure, acked=acked)
        except (TimeoutError, AssertionError) as error:
            found = await diagnosis(nc, acked)
            raise AssertionError(f"{error!r}\nkills: {victims.kills}; logs in {fleet.folder}\n{found}") from error
        finally:
            await nc.close()


async def _torment(
    nc: NatsClient,
    streams: Streams,
    victims: Victims,
    rng: random.Random,
    *,
    figure: Callable[[str], None],
    acked: set[str],
) -> None:
    began = time.monotonic()
    js = nc.jetstream(timeout=2)
    listener = Listener()
    await nc.subscribe("sollol.v1.events.job.*.*", cb=listener.on_event)
    async with asyncio.timeout(CHAOS_S + QUIET_S), asyncio.TaskGroup() as group:
        numbers = iter(range(JOBS))
        spread = itertools.islice(numbers, JOBS * 2 // 3)
        submitting = group.create_task(_submit(js, spread, acked, pause_s=0.8 * CHAOS_S / JOBS))
        reading = [group.create_task(streams.read()) for _ in range(READERS)]
        targets = itertools.cycle(rng.sample(TARGETS, len(TARGETS)))
        while time.monotonic() - began < CHAOS_S or victims.kills.keys() != set(TARGETS):
            await victims.strike(next(targets))
            await asyncio.sleep(rng.uniform(0.5, PAUSE_S))
        streams.stop()
        await asyncio.gather(submitting, *reading)
        await _submit(js, numbers, acked, pause_s=0.0)  # a backlog for the calm, to see its order
        calm_at = time.monotonic()
        results, writes = await _results(js)
    settled_s = time.monotonic() - calm_at
    seen = collections.Counter(result["job_id"] for result in results)
    states = collections.Counter(result["state"] for result in results)
    lost = acked - set(seen)
    wrong = [r["job_id"] for r in results if not _is_right(r)]
    pairs, misordered = listener.judged(victims.troubled_at)
    left = await _left(js)
    figure(
        f"seed {SEED}: {len(acked)} jobs acked, {len(seen)} with a result; acked but lost {len(lost)}, "
        f"doubled {writes - len(seen)}, wrong {len(wrong)}, misordered {misordered} of {pairs} pairs; "
        f"streams: {streams.whole} whole, {streams.resumed} times resumed, {len(streams.wrong)} wrong; "
        f"kills {dict(sorted(victims.kills.items()))}; states {dict(states)}; settled {settled_s:.1f} s after the chaos"
    )
    assert (len(acked), len(seen), writes, lost, wrong) == (JOBS, JOBS, JOBS, set(), [])
    assert states == {"done": JOBS}
    assert streams.wrong == []
    assert streams.resumed > 0, "an answer broke off and went on"
    assert misordered == 0
    assert pairs > 0, "an order was judged"
    assert left == 0, "the queue is empty"
    assert set(victims.kills) == set(TARGETS), "everything was killed"


async def _populate(fleet: ProcessFleet, victims: Victims) -> None:
    """Two nodes, two dispatchers, and two scorers of which one is in office."""
    await fleet.actor("recorder", "--database", str(fleet.folder / "recorder.sqlite3"))
    for actor in ("scorer-1", "scorer-2", "dispatcher-1", "dispatcher-2"):

        async def revive(start: int, actor: str = actor) -> Child:
            role = actor.partition("-")[0]
            return await fleet.actor(role, *FLAGS.get(role, ()), name=f"{actor}-{start}")

        await victims.add(actor, revive)
    for name, tps in (("node-attic", "50"), ("node-cellar", "50")):
        engine = await fleet.emulator(name, *EMULATOR, "--decode-tps", tps)

        async def node(start: int, name: str = name, url: str = engine.url) -> Child:
            argv = ("--nats", fleet.nats_url, "--id", name, "--engine", "ollama", "--url", url, "--slots", "4")
            return await fleet.sollol("node", *argv, name=f"{name}-{start}")

        await victims.add(name, node)
    await fleet.joined("node-attic", "node-cellar")


async def _submit(js: JetStreamContext, numbers: Iterable[int], acked: set[str], *, pause_s: float) -> None:
    """Hands jobs of mixed priority over, one publish each."""
    for number in numbers:
        job_id = f"job-{number}"
        body = {"model": MODEL, "prompt": f"count down from {number % 40}"}
        payload = json.dumps({"body": body}).encode()
        subject = f"sollol.v1.jobs.submit.{random.Random(SEED + number).randint(1, 10)}.{job_id}"
        while job_id not in acked:
            try:
                await js.publish(subject, payload, headers={"Nats-Msg-Id": job_id})
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.1)  # the server is away; the id makes a second publish harmless
            else:
                acked.add(job_id)
        await asyncio.sleep(pause_s)  # spreads the jobs over the kills


async def _results(js: JetStreamContext) -> tuple[list[dict[str, Any]], int]:
    """Every result in the stream, once there are enough, and how many were ever written."""
    state = nats.js.api.StreamState(messages=0, bytes=0, first_seq=0, last_seq=0, consumer_count=0)

    async def are_enough() -> bool:
        nonlocal state
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            state = (await js.stream_info("SOLLOL_RESULTS")).state
        return int(state.messages) >= JOBS

    await eventually(are_enough, within_s=QUIET_S, complaint=f"{JOBS} results are stored")
    found = []
    for seq in range(state.first_seq, state.last_seq + 1):
        with contextlib.suppress(nats.js.errors.NotFoundError):  # one that a second result has replaced
            found.append(json.loads((await js.get_msg("SOLLOL_RESULTS", seq)).data or b""))
    return found, state.last_seq


async def _left(js: JetStreamContext) -> int:
    """Messages left in the queue of jobs, once the last acks are in."""
    left = -1

    async def is_empty() -> bool:
        nonlocal left
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            left = (await js.stream_info("SOLLOL_JOBS")).state.messages
        return bool(left == 0)

    with contextlib.suppress(AssertionError):
        await eventually(is_empty, within_s=45)
    return left


async def diagnosis(nc: NatsClient, acked: set[str]) -> str:
    """What a reader of a failed run wants to know: the state of every unfinished job, of the queue and of the fleet."""
    streams = [f"$JS.API.STREAM.INFO.{stream}" for stream in ("SOLLOL_JOBS", "SOLLOL_RESULTS", "KV_SOLLOL_JOB")]
    consumers = [f"$JS.API.CONSUMER.INFO.SOLLOL_JOBS.p{priority}" for priority in range(1, 11)]
    lines = [f"{len(acked)} of {JOBS} jobs are acked"]
    lines += [f"{subject}: {await _told(nc, subject)}" for subject in ("sollol.v1.nodes", *streams, *consumers)]
    for job_id in sorted(acked):
        text = await _told(nc, "sollol.v1.jobs.get", json.dumps({"job_id": job_id}).encode())
        if '"state":"done"' not in text:
            lines.append(f"{job_id}: {text}")
    return "\n".join(lines)


async def _told(nc: NatsClient, subject: str, body: bytes = b"") -> str:
    try:
        return (await nc.request(subject, body, timeout=3)).data.decode()
    except (nats.errors.Error, TimeoutError) as error:
        return f"no answer: {error!r}"


def _is_right(result: dict[str, Any]) -> bool:
    number = int(result["job_id"].rpartition("-")[2]) % 40
    words = (result.get("body") or {}).get("response", "").split()
    return bool(words == [str(n) for n in range(number - 1, -1, -1)])
