"""What a gateway bears: heads, bodies and connections of any kind, many streams, clients that wait, stall or leave.

One fleet for all tests: `wide` is a node with room for hundreds of slow streams, `narrow` one with a single slot. A
second gateway has tight limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

STREAMS = 512
CONNECTIONS = 10_000
MAX_BODY_BYTES = 100_000
COUNT = 30
Start = Callable[..., dict[str, str]]


class Limits(NamedTuple):
    """The gateways, and the engines behind them."""

    url: str
    pid: int
    tight: str
    engine: str
    """The engine of `wide`."""
    narrow: str
    """The engine of `narrow`."""


@pytest.fixture(scope="module")
def limits(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limits]:
    folder = tmp_path_factory.mktemp("limits")
    with ExitStack() as stack:
        up = start(
            stack,
            *("sollol_agents.cli", "up", "--nats-port", "0", "--http-port", "0", "--no-dashboard", "--no-local-node"),
            *("--store-dir", str(folder), "--log-level", "warning", "--no-log-requests"),
        )
        tps = {"wide": "6", "narrow": "40"}
        engines = {}
        for name, slots in (("wide", str(STREAMS)), ("narrow", "1")):
            flags = ("--preset", "steady", "--decode-tps", tps[name], "--parallel", slots)
            engine = start(
                stack, "sollol_agents.lab.emulator", *flags, "--model", f"{name}=1+vision", "--preload", name
            )
            engines[name] = engine["engine"]
            start(
                stack,
                *("sollol_agents.cli", "node", "--nats", up["nats"], "--log-level", "warning", "--slots", slots),
                *("--id", name, "--engine", "ollama", "--url", engines[name]),
            )
        open_gateway, tight = (
            start(stack, "sollol_agents.lab.testing.gateway", up["nats"], json.dumps(config), json.dumps(limits))
            for config, limits in (
                ({"port": 0, "keep_alive_s": 0.2}, {"head_timeout_s": 60}),
                (
                    {"port": 0, "max_body_bytes": MAX_BODY_BYTES},
                    {"head_timeout_s": 1, "body_timeout_s": 1, "idle_timeout_s": 1},
                ),
            )
        )
        with httpx.Client(transport=httpx.HTTPTransport(retries=3), timeout=20) as http:
            for _ in range(200):
                rows = http.get(f"{open_gateway['http']}/api/tags").json().get("models", [])
                if {"wide:latest", "narrow:latest"} <= {row["name"] for row in rows}:
                    break
        yield Limits(open_gateway["http"], int(open_gateway["pid"]), tight["http"], engines["wide"], engines["narrow"])


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=50, trust_env=False) as client:
        yield client


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    where = httpx.URL(url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def post(path: str, body: dict[str, Any] | bytes, *headers: bytes) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [b"POST %b HTTP/1.1" % path.encode(), b"Host: localhost", b"Content-Length: %d" % len(content), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + content


def generate(model: str, count: int, **fields: Any) -> dict[str, Any]:
    return {"model": model, "prompt": f"count {count}", **fields}


async def gateway_figures(client: httpx.AsyncClient, url: str) -> dict[str, float]:
    lines = (await client.get(f"{url}/metrics")).text.splitlines()
    return {line.split()[0]: float(line.rsplit(None, 1)[1]) for line in lines if line.startswith("sollol_gateway_")}


async def settles(client: httpx.AsyncClient, url: str, *, connections: int = 50) -> None:
    """Returns once a gateway has no request open and hardly a connection."""
    async with asyncio.timeout(20):
        while True:
            figures = await gateway_figures(client, url)
            if not figures["sollol_gateway_active_requests"] and (
                figures["sollol_gateway_open_connections"] <= connections
            ):
                return
            await asyncio.sleep(0.02)  # the state of another process sends no signal


async def engine_runs(client: httpx.AsyncClient, url: str, count: int) -> None:
    """Returns once an engine is busy with so many requests; the state of another process sends no signal."""
    async with asyncio.timeout(10):
        while (await client.get(f"{url}/emulator/state")).json()["in_flight"] != count:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


# -- heads and bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bytes_in_head", "status"), [(60_000, 200), (70_000, 431), (1_000_000, 431)], ids=["fits", "over", "far over"]
)
@pytest.mark.parametrize("shape", ["one header", "many headers", "the path"])
async def test_a_head_has_a_limit_whatever_it_is_made_of(
    limits: Limits, shape: str, bytes_in_head: int, status: int
) -> None:
    if shape == "one header":
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: %b\r\n\r\n" % (b"x" * bytes_in_head)
    elif shape == "many headers":
        many = b"".join(b"X-%05d: %b\r\n" % (n, b"y" * 80) for n in range(bytes_in_head // 91))
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % many
    else:
        head = b"GET /?%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"z" * bytes_in_head)
    async with connection(limits.url) as (reader, writer), asyncio.timeout(10):
        writer.write(head)
        answer = await first_line(reader)
    assert answer in (str(status), "reset" if status == 431 else ""), answer


async def first_line(reader: asyncio.StreamReader) -> str:
    """The status of an answer, or `reset` when the gateway closed before it had read everything."""
    try:
        return (await reader.readline()).decode().split()[1]
    except ConnectionError:
        return "reset"


async def test_a_body_has_a_limit_that_is_told(limits: Limits, http: httpx.AsyncClient) -> None:
    pad = MAX_BODY_BYTES - len(json.dumps(generate("nope", 1, pad="")))
    fits = json.dumps(generate("nope", 1, pad="x" * pad)).encode()
    assert len(fits) == MAX_BODY_BYTES
    assert (await http.post(f"{limits.tight}/api/generate", content=fits)).status_code == 404
    for path in ("/api/generate", "/v1/chat/completions", "/v1/messages"):
        answer = await http.post(f"{limits.tight}{path}", content=fits + b" ")
        error = answer.json()["error"]
        text = error if isinstance(error, str) else error["message"]
        assert answer.status_code == 413
        assert text == f"the body's {MAX_BODY_BYTES + 1} bytes exceed the limit of {MAX_BODY_BYTES} bytes"
        assert answer.headers["x-should-retry"] == "false"
    assert (await http.get(f"{limits.tight}/healthz")).status_code == 200  # the connection is still in order


async def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(limits: Limits) -> None:
    async with connection(limits.url) as (reader, writer), asyncio.timeout(60):
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert await first_line(reader) == "413"


async def test_a_body_may_be_as_large_as_the_bus_carries(limits: Limits, http: httpx.AsyncClient) -> None:
    image = "A" * 4_000_000
    answer = await http.post(f"{limits.url}/api/generate", json=generate("wide", 2, images=[image], stream=False))
    assert answer.json()["response"].split() == ["1", "0"]
    refused = await http.post(f"{limits.url}/api/generate", json=generate("wide", 2, images=[image * 5]))
    assert refused.status_code == 413


# -- slow and idle clients ----------------------------------------------------------------------------------


async def test_clients_that_dribble_are_given_up_while_others_are_served(
    limits: Limits, http: httpx.AsyncClient, figure: Callable[[str], None]
) -> None:
    async def dribble(start_with: bytes) -> str:
        async with connection(limits.tight) as (reader, writer), asyncio.timeout(60):
            writer.write(start_with)
            answer = asyncio.get_running_loop().create_task(first_line(reader))
            while not answer.done():
                writer.write(b"a")
                await asyncio.wait([answer], timeout=0.3)
            return answer.result()

    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    body = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n"
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(dribble(one)) for one in [head] * 100 + [body] * 100]
        waits_s = []
        while not all(task.done() for task in slow):
            asked = time.perf_counter()
            assert (await http.get(f"{limits.tight}/healthz")).status_code == 200
            waits_s.append(time.perf_counter() - asked)
            await asyncio.sleep(0.05)  # others ask now and then
    assert {task.result() for task in slow} <= {"408", "reset"}
    assert "408" in {task.result() for task in slow}
    figure(
        f"200 dribbling clients gone after {time.perf_counter() - began:.1f} s; "
        f"others waited {max(waits_s) * 1000:.0f} ms at most"
    )
    await settles(http, limits.tight)


async def test_an_idle_connection_is_closed_in_time(limits: Limits) -> None:
    async with connection(limits.tight) as (reader, writer), asyncio.timeout(10):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await reader.readline()
        await reader.read()  # to the end: the gateway closes


IDLERS = """
import asyncio, resource, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

async def main():
    gate = asyncio.Semaphore(100)
    async def one():
        async with gate:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
            await reader.readuntil(b"}")
            return reader, writer
    held = await asyncio.gather(*(one() for _ in range(count)))
    print("open", len(held), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for _, writer in held:
        writer.transport.abort()

asyncio.run(main())
"""


async def test_ten_thousand_idle_connections_are_borne(
    limits: Limits, http: httpx.AsyncClient, figure: Callable[[str], None]
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < CONNECTIONS + 500:
        pytest.skip(f"this machine allows {hard} open files")
    gateway, where = psutil.Process(limits.pid), httpx.URL(limits.url)
    before = gateway.memory_info().rss
    began = time.perf_counter()
    idlers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", IDLERS, str(where.host), str(where.port), str(CONNECTIONS)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert idlers.stdout is not None
        assert idlers.stdin is not None
        async with asyncio.timeout(120):
            assert await idlers.stdout.readline() == b"open %d\n" % CONNECTIONS
        opened_s = time.perf_counter() - began
        text = (await http.get(f"{limits.url}/metrics")).text
        counted = next(line for line in text.splitlines() if line.startswith("sollol_gateway_open_connections"))
        assert float(counted.split()[1]) >= CONNECTIONS
        answer = await http.post(f"{limits.url}/api/generate", json=generate("wide", 2, stream=False))
        assert answer.json()["response"].split() == ["1", "0"]
        per_connection = (gateway.memory_info().rss - before) / CONNECTIONS
        figure(f"{CONNECTIONS} connections in {opened_s:.1f} s, {per_connection / 1024:.1f} KiB of memory for each")
        idlers.stdin.close()
        async with asyncio.timeout(60):
            assert await idlers.wait() == 0
    finally:
        if idlers.returncode is None:
            idlers.kill()
            await idlers.wait()
    await settles(http, limits.url)


# -- many streams -------------------------------------------------------------------------------------------


async def stream_of(url: str, body: bytes) -> tuple[list[str], list[float]]:
    """The words of a native stream, and when each line came."""
    async with connection(url) as (reader, writer):
        writer.write(post("/api/generate", body))
        texts, at_s = [], []
        assert b" 200 " in await reader.readline()
        while True:
            line = await reader.readline()
            if line.startswith(b"{"):
                at_s.append(time.perf_counter())
                said = json.loads(line)
                texts.append(said["response"])
                if said["done"]:
                    return "".join(texts).split(), at_s


async def test_hundreds_of_streams_run_side_by_side_without_a_stall(
    limits: Limits, http: httpx.AsyncClient, figure: Callable[[str], None]
) -> None:
    body = json.dumps(generate("wide", COUNT)).encode()
    open_at_once = 0.0
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        running = [group.create_task(stream_of(limits.url, body)) for _ in range(STREAMS)]
        while not any(task.done() for task in running):
            figures = await gateway_figures(http, limits.url)
            open_at_once = max(open_at_once, figures["sollol_gateway_active_requests"])
            await asyncio.sleep(0.05)  # leaves the gateway its time
    assert open_at_once == STREAMS
    answers = [task.result() for task in running]
    expected = [str(n) for n in range(COUNT - 1, -1, -1)]
    assert all(words == expected for words, _ in answers)
    gaps_s = [later - sooner for _, at_s in answers for sooner, later in itertools.pairwise(at_s)]
    figure(
        f"{STREAMS} streams at once, 6 tokens/s each: between tokens p50 {statistics.median(gaps_s) * 1000:.0f} ms, "
        f"p99 {statistics.quantiles(gaps_s, n=100)[98] * 1000:.0f} ms, at most {max(gaps_s) * 1000:.0f} ms"
    )
    await settles(http, limits.url)
    await engine_runs(http, limits.engine, 0)


async def test_clients_that_leave_stop_the_engine(
    limits: Limits, http: httpx.AsyncClient, figure: Callable[[str], None]
) -> None:
    delays_s = []
    shapes = [("/api/generate", generate("wide", 900))] * 3
    shapes += [("/v1/completions", generate("wide", 900, stream=True))] * 2
    shapes += [("/api/generate", generate("wide", 900, stream=False))] * 2
    for path, body in shapes:
        async with connection(limits.url) as (reader, writer):
            writer.write(post(path, body))
            if body.get("stream") is not False:
                await reader.readuntil(b"\r\n\r\n")
            await engine_runs(http, limits.engine, 1)
            left = time.perf_counter()
        await engine_runs(http, limits.engine, 0)
        delays_s.append(time.perf_counter() - left)
    figure(
        f"client gone to engine idle: median {statistics.median(delays_s) * 1000:.0f} ms, "
        f"at most {max(delays_s) * 1000:.0f} ms of {len(delays_s)}"
    )
    await settles(http, limits.url)


async def test_what_waits_in_the_queue_is_kept_alive_in_its_dialects_way(
    limits: Limits, http: httpx.AsyncClient
) -> None:
    chat = {"model": "narrow", "messages": [{"role": "user", "content": "count 2"}], "stream": True, "max_tokens": 9}
    asked = {
        "/v1/chat/completions": chat,
        "/v1/completions": generate("narrow", 2, stream=True),
        "/v1/responses": {"model": "narrow", "input": "count 2", "stream": True},
        "/v1/messages": chat,
    }
    async with asyncio.TaskGroup() as group:
        first = group.create_task(http.post(f"{limits.url}/api/generate", json=generate("narrow", 60, stream=False)))
        await engine_runs(http, limits.narrow, 1)
        waiting = {path: group.create_task(http.post(f"{limits.url}{path}", json=body)) for path, body in asked.items()}
        whole = group.create_task(http.post(f"{limits.url}/api/chat", json=chat | {"stream": False}))
    assert first.result().status_code == whole.result().status_code == 200
    assert whole.result().json()["message"]["content"].split() == ["1", "0"]  # and nothing else before it
    for path, task in waiting.items():
        text = task.result().text
        keep_alive = 'event: ping\ndata: {"type":"ping"}\n\n' if path == "/v1/messages" else ": waiting\n\n"
        assert text.startswith(keep_alive), (path, text[:200])
        while text.startswith(keep_alive):
            text = text.removeprefix(keep_alive)
        rest = text
        assert rest.startswith(("data: ", "event: ")), rest[:200]
        assert keep_alive not in rest
        end = '"message_stop"' if path == "/v1/messages" else "response.completed"
        assert (end if "completions" not in path else "data: [DONE]") in rest
        assert task.result().headers["content-type"] == "text/event-stream"


def test_the_processes_left_nothing_open(limits: Limits) -> None:
    gateway = psutil.Process(limits.pid)
    assert gateway.num_fds() < 100
    assert gateway.is_running()
