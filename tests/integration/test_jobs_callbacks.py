"""Results delivered to subjects, to functions of the submitter, and to hosts that the operator permitted."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import Cancelled, Unauthorized
from sollol_bus.sdk.jobs import JobAnswer, make_job
from sollol_bus.transport.messages import Msg, decode
from sollol_schemas.jobs import JobNews, JobResult, JobState


class Hook:
    """A receiver of posted results that answers as told, and well from then on."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        """What was taken."""
        self.signatures: list[str] = []
        self.hosts: list[str] = []
        self.posts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        fields = {name.lower(): value for name, value in fields.items()}
        body = await reader.readexactly(int(fields["content-length"]))
        self.posts += 1
        answer = self.answers.pop(0) if self.answers else "200 OK"
        if answer.startswith("200"):
            self.bodies.append(body)
            self.signatures.append(fields.get("sollol-signature", ""))
            self.hosts.append(fields["host"])
        writer.write(f"HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening(hook: Hook) -> AsyncIterator[int]:
    """The port on which the hook answers."""
    server = await asyncio.start_server(hook.serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def test_results_are_called_back_by_subject_and_in_this_program(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        heard: list[Msg] = []
        answers: list[JobAnswer] = []
        s.client.bus.subscribe("callbacks.mine", heard.append)
        job = make_job({"model": MODEL, "prompt": "count down from 2"}, callback_subject="callbacks.mine")
        job_id = await s.client.jobs.submit(job, on_done=answers.append)
        await eventually(lambda: bool(heard and answers))
        result = decode(heard[0].data, JobResult)
        assert (result.job_id, result.state, answers[0].job_id) == (job_id, JobState.DONE, job_id)
        assert json.loads(bytes(result.body))["response"].split() == ["1", "0"]


async def test_a_subject_on_which_nobody_listens_gets_its_result_once_somebody_does(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path) as s:
        job = make_job({"model": MODEL, "prompt": "count down from 2"}, callback_subject="callbacks.later")
        job_id = await s.client.jobs.submit(job)
        await s.client.wait_for_task(job_id, timeout_s=20)
        heard: list[Msg] = []
        s.client.bus.subscribe("callbacks.later", heard.append)
        await eventually(lambda: bool(heard))
        assert decode(heard[0].data, JobResult).job_id == job_id


async def test_a_cancelled_and_a_failed_job_are_called_back_too(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=1, decode_tps=20) as s:
        heard: list[JobResult] = []
        s.client.bus.subscribe("callbacks.all", lambda m: heard.append(decode(m.data, JobResult)))

        async def submit(body: dict[str, object]) -> str:
            return await s.client.jobs.submit(make_job(body, callback_subject="callbacks.all"))

        running = await submit({"model": MODEL, "prompt": "count down from 500"})
        await eventually(lambda: JobNews.RUNNING in s.news_of(running))
        waiting = await submit({"model": MODEL, "prompt": "count down from 2"})
        for job_id in (running, waiting):
            await s.client.jobs.cancel(job_id)
            with pytest.raises(Cancelled):
                await s.client.wait_for_task(job_id, timeout_s=20)
        failed = await s.client.jobs.submit(
            make_job({"model": MODEL, "prompt": "x"}, path="/v1/no-such-path", callback_subject="callbacks.all")
        )
        await eventually(lambda: len(heard) >= 3)
        ends = {result.job_id: result.state for result in heard}
        assert (ends[running], ends[waiting]) == (JobState.CANCELLED, JobState.CANCELLED)
        assert ends[failed] in (JobState.FAILED, JobState.DEAD)


async def test_an_answer_from_the_object_store_travels_with_its_callback(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, job_inline_bytes=1024) as s:
        heard: list[JobResult] = []
        s.client.bus.subscribe("callbacks.large", lambda m: heard.append(decode(m.data, JobResult)))
        job = make_job({"model": MODEL, "prompt": "count down from 500"}, callback_subject="callbacks.large")
        await s.client.jobs.submit(job)
        await eventually(lambda: bool(heard))
        assert json.loads(bytes(heard[0].body))["response"].split() == [str(n) for n in range(499, -1, -1)]


async def test_a_result_is_posted_signed_to_a_permitted_host_until_it_is_taken(tmp_path: Path) -> None:
    hook = Hook("500 no")
    async with (
        listening(hook) as port,
        EmulatedSystem(tmp_path, job_callback_hosts=(f"127.0.0.1:{port}",), job_callback_secret="key") as s,
    ):
        job = make_job({"model": MODEL, "prompt": "count down from 2"}, callback_url=f"http://127.0.0.1:{port}/done")
        job_id = await s.client.jobs.submit(job)
        await eventually(lambda: bool(hook.bodies))
        assert json.loads(hook.bodies[0])["job_id"] == job_id
        at, _, mac = hook.signatures[0].partition(",")
        signed = at.removeprefix("t=").encode() + b"." + hook.bodies[0]
        assert mac == "v1=" + hmac.new(b"key", signed, hashlib.sha256).hexdigest()
        assert hook.posts == 2
        with pytest.raises(Unauthorized, match="job_callback_hosts"):
            await s.client.jobs.submit(make_job({"model": MODEL, "prompt": "x"}, callback_url="http://127.0.0.1:1/x"))


async def test_a_redirect_is_not_followed_and_counts_as_a_failure(tmp_path: Path) -> None:
    elsewhere, hook = Hook(), Hook()
    async with listening(elsewhere) as other_port, listening(hook) as port:
        hook.answers.append(f"307 there\r\nlocation: http://127.0.0.1:{other_port}/secret")
        async with EmulatedSystem(tmp_path, job_callback_hosts=(f"127.0.0.1:{port}",)) as s:
            job = make_job({"model": MODEL, "prompt": "count down from 2"}, callback_url=f"http://127.0.0.1:{port}/x")
            await s.client.jobs.submit(job)
            await eventually(lambda: bool(hook.bodies))
    assert (hook.posts, elsewhere.posts) == (2, 0)


@pytest.mark.parametrize("is_private_permitted", [False, True], ids=["refused", "permitted"])
async def test_a_listed_name_leads_to_a_private_address_only_when_the_operator_says_so(
    tmp_path: Path, *, is_private_permitted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Hook()
    caplog.set_level("INFO", logger="sollol_agents.dispatcher.jobs.callbacks")
    async with listening(hook) as port:
        hosts = (f"localhost:{port}",)
        async with EmulatedSystem(tmp_path, job_callback_hosts=hosts, job_callback_private=is_private_permitted) as s:
            job = make_job({"model": MODEL, "prompt": "count down from 2"}, callback_url=f"http://localhost:{port}/x")
            await s.client.jobs.submit(job)
            await eventually(lambda: bool(hook.bodies) or "localhost leads to" in caplog.text)
    assert hook.hosts == ([f"localhost:{port}"] if is_private_permitted else [])
