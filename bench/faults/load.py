"""The callers of a case: streams, short calls and jobs, by HTTP and by plain NATS clients that use nothing of ours."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from bench.faults.judge import CUT_OFF, HANG_S, LOST, Jobs, Sample
from sollol_agents.lab.testing.waiting import eventually

MODEL = "countdown"
SECRET = "of-the-bench"
"""With which plain callers may cancel."""
SHORT, LONG, JOB = 3, 100, 10
"""Answers have so many tokens."""
PAUSE_S = 0.25
_RETRY_S = 0.2
_SIGN_WITHIN_S = 5.0  # after its connection came back, a plain caller waits so long for a sign before it asks anew
_PING_EVERY_S = 2  # a server that stops is left after two pings without an answer, as a careful client does
_RESULTS = "SOLLOL_RESULTS"
_ASKED_S = 2.0


class Caller:
    """Everybody who calls at one place: over the gateway there, and over NATS there.

    Args:
        place: Where that is, such as a site's name; empty for a system that is in one place.
        http_url: Its gateway.
        nats_url: Its servers, separated by commas.
        case: Tells the prompts of one case from those of another.
        numbers: Numbers its calls.
    """

    def __init__(self, place: str, http_url: str, nats_url: str, case: str, numbers: Iterable[int]) -> None:
        self.place = place
        self.samples: list[Sample] = []
        """Every call so far."""
        self.acked: set[str] = set()
        """Jobs that are stored."""
        self.nats = NatsClient()
        """The plain client."""
        self._http = httpx.AsyncClient(base_url=http_url, trust_env=False, timeout=None)
        self._nats_url = nats_url
        self._case = case
        self._numbers = iter(numbers)
        self._open: dict[str, asyncio.Event] = {}
        """Set when a plain call is over; by prompt."""

    async def connect(self) -> None:
        """Connects the plain client."""
        options: dict[str, Any] = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.1, "error_cb": _ignore}
        options |= {"ping_interval": _PING_EVERY_S, "max_outstanding_pings": 2, "disconnected_cb": self._on_disconnect}
        options["reconnected_cb"] = self._on_reconnect
        await self.nats.connect(self._nats_url.split(","), **options)

    async def close(self) -> None:
        """Leaves."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await asyncio.wait_for(self.nats.close(), 5)
        await self._http.aclose()

    async def call(self, way: str, wanted: int) -> None:
        """One call, to its end."""
        number = next(self._numbers)
        sample = Sample(
            way=f"{way}@{self.place}" if self.place else way,
            prompt=f"{self._case} {number} {way}: count {wanted}",
            wanted=wanted,
            is_short=wanted == SHORT,
            began_s=time.monotonic(),
            request_id=f"{self._case}-call-{number}",
        )
        self.samples.append(sample)
        body = {"model": MODEL, "prompt": sample.prompt, "stream": True}
        await (self._by_http(sample, body) if way == "http" else self._by_nats(sample, body))

    async def submit(self, job_id: str) -> None:
        """Stores a job; asks until it is stored."""
        payload = json.dumps({"body": {"model": MODEL, "prompt": f"{job_id}: count {JOB}"}}).encode()
        js = self.nats.jetstream(timeout=2)
        while job_id not in self.acked:
            try:
                await js.publish(f"sollol.v1.jobs.submit.5.{job_id}", payload, headers={"Nats-Msg-Id": job_id})
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(_RETRY_S)  # the id makes a second publish harmless
            else:
                self.acked.add(job_id)

    async def find_lost(self) -> None:
        """Ends the plain calls without a sign whose request nobody in the system has, or ever had.

        It is as though their callers had the deadline for a first message that the documents advise.
        """
        for sample in self.samples:
            is_silent = sample.ended_s is None and not sample.heard and sample.way.startswith("nats")
            if is_silent and await self._is_nobodys(sample.request_id):
                sample.end(sample.began_s + HANG_S, LOST)

    async def _is_nobodys(self, request_id: str) -> bool:
        """Whether no dispatcher holds a request, and no decision about it nor outcome of it was ever recorded."""
        cancel = json.dumps({"request_id": request_id, "secret": SECRET}).encode()
        try:
            held = await self.nats.request("sollol.v1.cancel", cancel, timeout=_ASKED_S)
            known = await self.nats.request(f"sollol.v1.why.{request_id}", timeout=_ASKED_S)
        except (nats.errors.Error, TimeoutError):
            return False
        is_unknown = json.loads(known.data).get("code") == "unknown_request"
        return json.loads(held.data).get("is_cancelled") is False and is_unknown

    async def _on_disconnect(self) -> None:
        for sample in self.samples:
            if sample.ended_s is None and sample.way.startswith("nats"):
                sample.is_cut_off = True

    async def _on_reconnect(self) -> None:
        for sample in self.samples:
            if sample.is_cut_off and sample.ended_s is None:
                asyncio.get_running_loop().call_later(_SIGN_WITHIN_S, self._give_up, sample, len(sample.heard))

    def _give_up(self, sample: Sample, heard: int) -> None:
        if sample.ended_s is None and len(sample.heard) == heard:
            sample.end(time.monotonic(), CUT_OFF)
            self._open[sample.prompt].set()

    async def _by_http(self, sample: Sample, body: dict[str, Any]) -> None:
        try:
            async with self._http.stream("POST", "/api/generate", json=body) as answer:
                if answer.status_code != 200:
                    told = json.loads(await answer.aread() or b"{}")
                    sample.end(time.monotonic(), str(told.get("code") or answer.status_code))
                    return
                is_done = False
                async for line in answer.aiter_lines():
                    piece = json.loads(line)
                    if "error" in piece:
                        sample.end(time.monotonic(), str(piece.get("code") or piece["error"]))
                        return
                    sample.hear(time.monotonic(), piece["response"])
                    is_done = piece["done"]
            sample.end(time.monotonic(), "" if is_done else "broke off")
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            sample.end(time.monotonic(), type(error).__name__)

    async def _by_nats(self, sample: Sample, body: dict[str, Any]) -> None:
        ended = self._open[sample.prompt] = asyncio.Event()

        async def hear(msg: Msg) -> None:
            headers = msg.headers or {}
            if headers.get("Status") == "503":
                sample.end(time.monotonic(), "no_responders")
            elif "Nats-Service-Error" in headers:
                sample.end(time.monotonic(), json.loads(msg.data).get("code", "error"))
            elif msg.data:
                sample.hear(time.monotonic(), json.loads(msg.data)["response"])
                return
            is_whole = headers.get("Sollol-Chunks", "0") == str(len(sample.heard))
            sample.end(time.monotonic(), "" if is_whole else "pieces missing")
            ended.set()

        inbox = self.nats.new_inbox()
        try:
            subscription = await self.nats.subscribe(inbox, cb=hear)
            known = {"Sollol-Request-Id": sample.request_id, "Sollol-Cancel-Secret": SECRET}
            await self.nats.publish("sollol.v1.generate", json.dumps(body).encode(), reply=inbox, headers=known)
            try:
                await ended.wait()
            finally:
                with contextlib.suppress(nats.errors.Error):
                    await subscription.unsubscribe()
        except nats.errors.Error as error:
            sample.end(time.monotonic(), type(error).__name__)


class Load:
    """The callers of all places during a case.

    Args:
        places: A gateway's address and the servers' addresses, by place.
        case: Its name, one token.
        streams: How many streams go at a time.
        jobs: How many jobs are stored in all.
        spread_s: Over how long they are spread.
    """

    def __init__(
        self, places: Mapping[str, tuple[str, str]], case: str, *, streams: int, jobs: int, spread_s: float
    ) -> None:
        numbers = itertools.count()
        self.callers = [Caller(place, *urls, case, numbers) for place, urls in places.items()]
        self._case = case
        self._streams = streams
        self._jobs = jobs
        self._spread_s = spread_s
        self._is_over = False
        self._running: list[asyncio.Task[None]] = []

    @property
    def samples(self) -> list[Sample]:
        """Every call so far."""
        return [sample for caller in self.callers for sample in caller.samples]

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Begins to call."""
        for caller in self.callers:
            await caller.connect()
        turns = itertools.cycle(itertools.product(("http", "nats"), self.callers))
        for way, caller in itertools.islice(turns, self._streams):
            self._running.append(group.create_task(self._again(caller, way, LONG)))
        for way, caller in itertools.product(("http", "nats"), self.callers):
            self._running += [group.create_task(self._again(caller, way, SHORT)) for _ in range(2)]
        for number, caller in zip(range(len(self.callers)), self.callers, strict=True):
            mine = [f"{self._case}-{job}" for job in range(number, self._jobs, len(self.callers))]
            self._running.append(group.create_task(self._submit(caller, mine)))

    async def finish(self, within_s: float) -> None:
        """Begins no more calls, and gives those that are open, and the storing of jobs, so long."""
        self._is_over = True
        _, late = await asyncio.wait(self._running, timeout=within_s)
        for task in late:
            task.cancel()
        for sample in self.samples:
            if sample.ended_s is None and sample.is_cut_off:
                sample.end(time.monotonic(), CUT_OFF)
        for caller in self.callers:
            await caller.find_lost()

    async def results(self, before: int, within_s: float) -> Jobs:
        """What became of the jobs, once all have a result or the time is over.

        Args:
            before: How many results had been written before the case.
            within_s: How long to wait for those that are missing.
        """
        began = time.monotonic()
        acked = set().union(*(caller.acked for caller in self.callers))
        found: dict[str, bool] = {}
        written = 0
        js = self.callers[0].nats.jetstream(timeout=2)
        while True:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                last = (await js.stream_info(_RESULTS)).state.last_seq
                for seq in range(before + written + 1, last + 1):
                    with contextlib.suppress(nats.js.errors.NotFoundError):
                        result = json.loads((await js.get_msg(_RESULTS, seq)).data or b"{}")
                        found[result["job_id"]] = _is_right(result)
                    written = seq - before
            settled_s = time.monotonic() - began
            if acked <= found.keys() or settled_s > within_s:
                break
            await asyncio.sleep(_RETRY_S)
        wrong = tuple(sorted(job for job, is_right in found.items() if not is_right))
        lost = tuple(sorted(acked - found.keys()))
        return Jobs(acked=len(acked), lost=lost, wrong=wrong, answered=len(found), written=written, settled_s=settled_s)

    async def close(self) -> None:
        """Leaves."""
        for caller in self.callers:
            await caller.close()

    async def _again(self, caller: Caller, way: str, wanted: int) -> None:
        """Calls one after another."""
        while not self._is_over:
            await caller.call(way, wanted)
            await asyncio.sleep(PAUSE_S)

    async def _submit(self, caller: Caller, jobs: Sequence[str]) -> None:
        for job_id in jobs:
            await caller.submit(job_id)
            await asyncio.sleep(self._spread_s / len(jobs))


async def results_written(nats_url: str) -> int:
    """How many results were ever stored, as soon as there is a place for them."""
    nc = await nats.connect(nats_url.split(","))
    last = -1

    async def is_known() -> bool:
        nonlocal last
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
            last = (await nc.jetstream(timeout=2).stream_info(_RESULTS)).state.last_seq
        return last >= 0

    try:
        await eventually(is_known, within_s=60.0, complaint="the stream of results")
    finally:
        await nc.close()
    return last


def _is_right(result: dict[str, Any]) -> bool:
    words = (result.get("body") or {}).get("response", "").split()
    return bool(words == [str(n) for n in range(JOB - 1, -1, -1)])


async def _ignore(_error: Exception) -> None:
    """Outages are what is measured."""
