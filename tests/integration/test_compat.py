"""The porting layer on a real system: with engines that it is given, and as a client of a fleet that runs."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.compat import SOLLOL, ModelOrchestrator, ReasoningEngine, Result, SOLLOLConfig, SOLLOLIntegration
from sollol_bus.errors import (
    BackendError,
    BadRequest,
    ConfigError,
    NoEligibleNode,
    NotConnected,
    SollolError,
    UnknownModel,
)
from sollol_bus.loop_thread import LoopThread

ENDLESS = "count down from 9999"


@pytest.fixture(scope="module")
def engines() -> Iterator[list[EmulatedNode]]:
    """Two emulated engines in a thread of their own, since programs without coroutines hold up the tests' loop."""
    thread = LoopThread("engines", "stopped")
    thread.start()
    models = ("m=1", "other=1", "nomic-embed-text=0.1")
    config = EmulatorConfig(model=models, preload=("m", "nomic-embed-text"), decode_tps=100.0, parallel=4)
    started = [EmulatedNode(config) for _ in range(2)]
    for engine in started:
        thread.run(engine.__aenter__())
    yield started
    for engine in started:
        thread.run(engine.__aexit__(None, None, None))
    thread.stop()


@pytest.fixture(scope="module")
def sollol(engines: list[EmulatedNode]) -> Iterator[SOLLOL]:
    config = SOLLOLConfig(hosts=[engine.url for engine in engines], gateway_port=0, ray_workers=4)
    with SOLLOL(config) as running:
        yield running


@pytest.fixture(scope="module")
def integration(sollol: SOLLOL) -> Iterator[SOLLOLIntegration]:
    """A client of the fleet that `sollol` is."""
    own = sollol._house.fleet.own
    assert own is not None
    client = SOLLOLIntegration(config={"nats": own.stack.nats_url, "discovery_enabled": True})
    asyncio.run(client.initialize())
    yield client
    asyncio.run(client.close())


def test_a_program_without_coroutines_asks_and_reads_in_every_way(sollol: SOLLOL) -> None:
    answer = sollol.generate("m", "count down from 3", temperature=0.7, priority="urgent")
    assert answer["response"] == answer.response == answer.get("response") == " 2 1 0"
    assert answer["node_url"] in sollol.hosts
    assert answer["routing_decision"]["reason"]
    assert answer.routing_decision.priority == 10
    assert "".join(chunk["response"] for chunk in sollol.generate_stream("m", "count down from 3")) == " 2 1 0"
    assert sollol.chat("m", "count down from 3")["message"]["content"] == "2 1 0"
    assert len(sollol.embed("nomic-embed-text", ["a", "b"])["embeddings"]) == 2
    with pytest.raises(UnknownModel):
        sollol.generate("nobody-has-it", "hello")


def test_options_of_the_engine_reach_it_where_it_reads_them(sollol: SOLLOL, engines: list[EmulatedNode]) -> None:
    answer = sollol.generate("m", "count down from 50", max_tokens=3, temperature=0.7)
    assert (answer["eval_count"], answer["done_reason"]) == (3, "length")


def test_the_gateway_serves_those_who_speak_http(sollol: SOLLOL) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "count down from 3"}], "priority": 8}
    gateway = sollol.get_status()["endpoints"]["gateway"]
    said = httpx.post(f"{gateway}/api/chat", json={**body, "stream": False}, trust_env=False).json()
    assert said["message"]["content"] == "2 1 0"
    assert said["_sollol_routing"]["priority"] == 8


def test_status_health_and_statistics_are_flat(sollol: SOLLOL, engines: list[EmulatedNode]) -> None:
    sollol.generate("m", "count down from 1")
    status, health, stats = sollol.get_status(), sollol.get_health(), sollol.get_stats()
    assert (status["running"], status["ray_workers"], len(status["hosts"])) == (True, 4, 2)
    assert (health["status"], health["available_hosts"], health["total_hosts"]) == ("healthy", 2, 2)
    assert [host["available"] for host in stats["hosts"]] == [True, True]
    assert all(host["latency_ms"] >= 0 for host in stats["hosts"])
    rows = sollol.get_node_resources()
    assert {row["url"] for row in rows} == {engine.url for engine in engines}
    assert sollol.get_cluster_stats()["healthy_nodes"] == 2


def test_a_strategy_changes_while_it_runs(sollol: SOLLOL, caplog: pytest.LogCaptureFixture) -> None:
    sollol.update_config(routing_strategy="round_robin", ray_workers=6)
    assert sollol.get_cluster_stats()["strategy"] == "round_robin"
    assert {sollol.generate("m", "count down from 1")["node_id"] for _ in range(2)} == {
        row["id"] for row in sollol.get_node_resources()
    }
    sollol.update_config(routing_strategy="", gateway_port=8123)
    assert "stop() and start() again for: gateway_port" in caplog.text
    with pytest.raises(ConfigError):
        sollol.update_config(gateway_port="somewhere")


async def test_requests_on_a_running_loop_are_awaited(sollol: SOLLOL) -> None:
    both = await asyncio.gather(*(sollol.generate("m", "count down from 2") for _ in range(2)))
    assert [one["response"] for one in both] == [" 1 0", " 1 0"]
    assert [chunk["response"] async for chunk in sollol.generate_stream("m", "count down from 2")][:2] == [" 1", " 0"]
    assert len(sollol.get_node_resources()) == 2


async def test_a_fleet_that_runs_is_used_by_address(integration: SOLLOLIntegration, sollol: SOLLOL) -> None:
    answer = await integration.generate(
        model="m", prompt="count down from 3", routing_mode="RELIABLE", prefer_local=True
    )
    assert (answer["response"], answer["routing_decision"]["mode"]) == (" 2 1 0", "reliable")
    assert integration.gateway_url == ""
    assert sorted(integration.hosts) == sorted(sollol.hosts)
    assert len(await integration.get_node_resources()) == integration.get_cluster_stats()["total_nodes"] == 2
    assert integration.request_counts[answer["node_id"]] >= 1
    assert integration.reliability_tracker.get_success_rate(answer["node_id"]) == 1.0


async def test_a_node_is_chosen_by_its_id(integration: SOLLOLIntegration) -> None:
    for node in integration.get_node_resources():
        answer = await integration.generate(model="m", prompt="count down from 1", node_id=node["id"])
        decision = answer["routing_decision"]
        assert decision["requested_node"] == decision["selected_node"] == answer["node_id"] == node["id"]


async def test_a_stream_needs_no_with_and_its_last_chunk_says_where(integration: SOLLOLIntegration) -> None:
    texts = []
    async for chunk in integration.generate_stream(model="m", prompt="count down from 3"):
        texts.append(chunk.get("response", ""))
    assert "".join(texts) == " 2 1 0"
    assert chunk["done"]
    assert chunk["node_url"] in integration.hosts
    assert integration.request_counts[chunk["node_id"]] >= 1


@pytest.mark.parametrize("way", ["break", "cancel", "aclose", "drop"])
async def test_a_stream_that_is_left_is_cancelled(
    integration: SOLLOLIntegration, engines: list[EmulatedNode], way: str
) -> None:
    stream = integration.generate_stream(model="m", prompt=ENDLESS)
    if way == "break":
        async for _ in stream:
            break
        del stream
    elif way == "cancel":
        read = asyncio.Event()

        async def reading() -> None:
            async for _ in stream:
                read.set()

        task = asyncio.get_running_loop().create_task(reading())
        await read.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif way == "aclose":
        await anext(stream)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    else:
        await anext(stream)
        del stream
    await eventually(is_idle, integration, complaint="its slot is free")


async def test_a_request_whose_task_is_cancelled_leaves_its_slot(integration: SOLLOLIntegration) -> None:
    task = asyncio.get_running_loop().create_task(integration.generate(model="m", prompt=ENDLESS))
    await eventually(active, integration, complaint="it runs")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(is_idle, integration, complaint="its slot is free")


async def test_a_job_tells_whoever_gave_a_callback_on_their_own_loop(integration: SOLLOLIntegration) -> None:
    told: asyncio.Queue[tuple[str, Result]] = asyncio.Queue()

    async def later(result: Result) -> None:
        await told.put((threading.current_thread().name, result))

    def now(result: Result) -> None:
        told.put_nowait((threading.current_thread().name, result))

    task_id = await integration.generate_async(
        model="m", prompt="count down from 3", priority=2, prefer_cpu=True, callback=now, async_callback=later
    )
    result = await integration.wait_for_task(task_id)
    assert (result["response"], result["status"], result["task_id"]) == (" 2 1 0", "done", task_id)
    for _ in range(2):
        thread, heard = await told.get()
        assert thread == threading.current_thread().name
        assert heard == result


async def test_a_job_that_fails_tells_so(integration: SOLLOLIntegration) -> None:
    told: asyncio.Queue[Result] = asyncio.Queue()
    task_id = await integration.generate_async(model="nomic-embed-text", prompt="x", callback=told.put_nowait)
    with pytest.raises(SollolError, match="does not support generate"):
        await integration.wait_for_task(task_id)
    heard = await told.get()
    assert (heard["success"], heard["task_id"]) == (False, task_id)
    assert "does not support generate" in heard["error"]


def test_a_program_without_coroutines_hears_of_its_job_in_a_thread_and_may_ask_there(sollol: SOLLOL) -> None:
    told = threading.Event()
    texts: list[str] = []

    def on_done(result: Result) -> None:
        texts.extend([result["response"], sollol.generate("m", "count down from 1")["response"]])
        told.set()

    sollol.generate_async("m", "count down from 2", callback=on_done)
    assert told.wait(20)
    assert texts == [" 1 0", " 0"]


async def test_a_task_is_distributed_and_each_result_says_its_model_and_node(integration: SOLLOLIntegration) -> None:
    results = await integration.distribute_task(
        task={"prompts": ["count down from 2", "count down from 3", "x"], "temperature": 0.0},
        models=["m", "other", "nobody-has-it"],
    )
    assert [one["model"] for one in results] == ["m", "other", "nobody-has-it"]
    assert [one["response"] for one in results] == [" 1 0", " 2 1 0", ""]
    assert [one["success"] for one in results] == [True, True, False]
    assert all(one["node_url"] in integration.hosts for one in results[:2])
    assert "nobody-has-it" in results[2]["error"]


async def test_an_orchestrator_and_a_reasoning_engine_ask_in_their_modes(integration: SOLLOLIntegration) -> None:
    orchestrator = ModelOrchestrator(integration)
    answer = await orchestrator.orchestrate("count down from 1", model="m", task_type="production_code", complexity=5.0)
    assert answer["routing_decision"]["mode"] == "reliable"
    thought = await ReasoningEngine(integration, "m").reason("count down from 1", "deep_thinking")
    assert (thought["routing_decision"]["mode"], thought["routing_decision"]["priority"]) == ("reliable", 8)


async def test_constraints_that_no_node_meets_are_said(integration: SOLLOLIntegration) -> None:
    with pytest.raises(NoEligibleNode, match="too little video memory free on 2"):
        await integration.generate(model="m", prompt="x", min_vram_gb=100_000.0)
    with pytest.raises(BadRequest, match="generate_stream"):
        await integration.generate(model="m", prompt="x", stream=True)


async def test_health_is_looked_at_until_the_looking_is_cancelled(integration: SOLLOLIntegration) -> None:
    task = asyncio.get_running_loop().create_task(integration.periodic_health_check())
    await integration.get_cluster_stats()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_node_that_fails_is_so_in_the_program_s_book(engines: list[EmulatedNode]) -> None:
    async with SOLLOLIntegration(hosts=[engines[0].url]) as sollol:
        engines[0].inject(Fault(kind=FaultKind.END_EARLY, after_tokens=1))
        with pytest.raises(BackendError):
            await sollol.generate("m", "count down from 9", format="json")  # a form cannot be entered in its middle
        (seen,) = sollol.reliability_tracker.node_stats.values()
        assert (seen["failed"], seen["successful"]) == (1, 0)


def test_before_its_start_and_after_its_stop_it_says_so(engines: list[EmulatedNode]) -> None:
    sollol = SOLLOL(hosts=[engines[0].url], gateway_enabled=False)
    assert sollol.get_health() == {"error": "SOLLOL is not running"}
    with pytest.raises(RuntimeError, match="call start"):
        sollol.generate("m", "x")
    sollol.start().start()
    assert sollol.get_status()["endpoints"]["gateway"] == ""
    sollol.stop()
    sollol.stop()
    assert sollol.get_stats() == {"error": "SOLLOL is not running"}
    assert [t.name for t in threading.enumerate() if t.name == "sollol"] == ["sollol"] * len(running_houses())


def test_blocking_ends_when_somebody_stops_it(engines: list[EmulatedNode]) -> None:
    sollol = SOLLOL(hosts=[engines[0].url], gateway_enabled=False)
    blocked = threading.Thread(target=sollol.start, kwargs={"blocking": True})
    blocked.start()
    while not sollol.get_status()["running"]:
        blocked.join(0.02)
    sollol.stop()
    blocked.join(20)
    assert not blocked.is_alive()


async def test_a_host_that_is_away_is_a_node_that_is_not_well(engines: list[EmulatedNode]) -> None:
    # port 9 of the loopback is the discard service, which nobody runs
    async with SOLLOLIntegration(config={"hosts": ["127.0.0.1:9", engines[0].url]}) as sollol:
        assert [row["healthy"] for row in sollol.get_node_resources()].count(False) == 1
        assert sollol.health_status[engines[0].url] is True
        assert (await sollol.generate(model="m", prompt="count down from 1"))["node_url"] == engines[0].url


async def test_without_a_word_it_finds_the_engines_of_this_machine(
    engines: list[EmulatedNode], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", 4222)
        writer.close()
        pytest.skip("somebody serves at 4222, whose fleet would be taken")
    monkeypatch.setenv("OLLAMA_HOST", engines[0].url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("SOLLOL_NATS", "SOLLOL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    async with SOLLOLIntegration() as sollol:
        assert engines[0].url.replace("127.0.0.1", "localhost") in sollol.hosts
        assert engines[1].url not in sollol.hosts


async def test_a_fleet_that_is_not_there_or_is_named_twice_is_said() -> None:
    away = SOLLOLIntegration(config={"nats": "nats://127.0.0.1:9", "discovery_timeout": 0.1})
    with pytest.raises(NotConnected):
        await away.initialize()
    with pytest.raises(BadRequest, match="nats and hosts"):
        await SOLLOLIntegration(nats="nats://127.0.0.1:4222", hosts=["a:1"]).initialize()
    assert "not running" in repr(away)


def test_a_dashboard_and_metrics_listen_where_they_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with SOLLOL(
        {"hosts": ["127.0.0.1:9"], "enable_dashboard": True, "dashboard_port": 0},
        gateway_enabled=False,
        metrics_enabled=True,
        metrics_port=0,
    ) as sollol:
        metrics = sollol.get_status()["endpoints"]["metrics"]
        assert httpx.get(metrics, follow_redirects=True, trust_env=False).status_code == 200
        assert sollol.dashboard_url.startswith("http://127.0.0.1:") or "no dashboard at port" in caplog.text
    assert sollol.dashboard_url == ""


def test_a_gateway_for_others_wants_keys() -> None:
    with pytest.raises(ConfigError, match="auth_enabled"):
        SOLLOL(hosts=["127.0.0.1:9"], gateway_host="0.0.0.0").start()


PROGRAM = """
from sollol_bus.compat import SOLLOL
sollol = SOLLOL(hosts=["{url}"], gateway_enabled=False).start(blocking=False)
print(sollol.generate("m", "count down from 3")["response"], sollol._house.fleet.own.stack.server.pid)
"""


def test_a_program_that_ends_without_a_word_leaves_nothing_behind(engines: list[EmulatedNode]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(url=engines[0].url)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    text, _, pid = ended.stdout.strip().rpartition(" ")
    assert text == "2 1 0"
    assert not is_alive(int(pid))


def is_alive(pid: int) -> bool:
    return subprocess.run(["kill", "-0", str(pid)], capture_output=True, check=False).returncode == 0


def running_houses() -> list[object]:
    from sollol_bus.compat import house

    return list(house._open)


async def active(sollol: SOLLOLIntegration) -> bool:
    return bool((await sollol.get_cluster_stats())["active_tasks"])


async def is_idle(sollol: SOLLOLIntegration) -> bool:
    return not await active(sollol)
