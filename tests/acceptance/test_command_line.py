"""The command line as a user and as a script meet it, on a running system."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from sollol_agents.lab.testing import processes
from sollol_agents.lab.testing.processes import Done, ProcessFleet
from sollol_agents.lab.testing.waiting import eventually

MODEL = "llama3.2:3b"
EMBEDDER = "nomic-embed-text"
FLAGS = (
    "--preset",
    "rtx3060-12",
    "--model",
    f"{MODEL}=3.2",
    "--model",
    f"{EMBEDDER}=0.137",
    "--preload",
    MODEL,
    "--download-gbps",
    "100",
)

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessFleet]:
    async with ProcessFleet(tmp_path_factory.mktemp("fleet")) as fleet:
        await fleet.up()
        engine = await fleet.emulator("attic", *FLAGS)
        await fleet.node("attic", engine.url, "--label", "site=attic", "--slots", "2")
        yield fleet


async def sollol(system: ProcessFleet | None, *argv: str, stdin: bytes = b"", **environ: str) -> Done:
    return await processes.sollol(system.nats_url if system else "", *argv, stdin=stdin, **environ)


async def test_an_answer_is_the_whole_output_so_that_it_can_be_piped(system: ProcessFleet) -> None:
    done = await sollol(system, "generate", MODEL, "count down from 5")
    assert (done.code, done.out.split(), done.err) == (0, ["4", "3", "2", "1", "0"], "")


async def test_verbose_says_where_and_why_on_stderr(system: ProcessFleet) -> None:
    done = await sollol(system, "generate", MODEL, "count down from 2", "--verbose")
    assert done.out.split() == ["1", "0"]
    assert "attic" in done.err
    assert "predicted" in done.err


async def test_a_prompt_is_read_from_a_pipe(system: ProcessFleet) -> None:
    assert (await sollol(system, "generate", MODEL, stdin=b"count down from 3")).out.split() == ["2", "1", "0"]
    assert (await sollol(system, "chat", MODEL, stdin=b"count down from 3")).out.split() == ["2", "1", "0"]


async def test_an_answer_as_json_carries_decision_and_figures(system: ProcessFleet) -> None:
    answer = (await sollol(system, "chat", MODEL, "count down from 2", "--json", "--priority", "high")).json
    assert answer["text"].split() == ["1", "0"]
    assert answer["decision"]["node_id"] == "attic"
    assert answer["decision"]["priority"] == 8
    assert answer["figures"]["output_tokens"] >= 2


async def test_engine_options_reach_the_engine(system: ProcessFleet) -> None:
    done = await sollol(system, "generate", MODEL, "count down from 9", "--option", "num_predict=3")
    assert done.out.split() == ["8", "7", "6"]


async def test_vectors_are_shown_and_complete_as_json(system: ProcessFleet) -> None:
    done = await sollol(system, "embed", EMBEDDER, "one", "two", "--json")
    assert len(done.json["embeddings"]) == 2
    plain = await sollol(system, "embed", EMBEDDER, stdin=b"one\ntwo\n")
    assert plain.out.splitlines()[0].split() == ["TEXT", "SIZE", "VECTOR"]


async def test_a_dry_run_decides_without_running(system: ProcessFleet) -> None:
    decision = (await sollol(system, "generate", MODEL, "hello", "--dry-run")).json
    assert decision["decision"]["node_id"] == "attic"
    assert decision["is_dry_run"] is True


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["nodes"], "attic"),
        (["models"], MODEL),
        (["stats"], "node attic"),
        (["reliability"], "attic"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_every_listing_is_a_table_and_with_json_a_document(
    system: ProcessFleet, argv: list[str], part: str
) -> None:
    await sollol(system, "generate", MODEL, "count down from 2")
    await eventually(lambda: _shows(system, argv, part))
    assert isinstance((await sollol(system, *argv, "--json")).json, dict)


async def test_why_explains_a_request_by_its_id(system: ProcessFleet) -> None:
    request_id = (await sollol(system, "generate", MODEL, "count down from 2", "--json")).json["request_id"]
    await eventually(lambda: _shows(system, ["why", request_id], "success"))
    done = await sollol(system, "why", request_id)
    assert "SECONDS ON" in done.out
    unknown = await sollol(system, "why", "no-such-request")
    assert unknown.code == 1
    assert "no-such-request" in unknown.err


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["generate", "no-such-model", "hi"], 1, "sollol models"),
        (["generate", MODEL, "hi", "--node", "cellar", "--strict"], 1, "cellar"),
        (["generate", MODEL, "hi", "--min-vram-gb", "500"], 1, "video memory"),
        (["drain", "cellar"], 1, "cellar"),
        (["load", "attic", "no-such-model"], 1, "no-such-model"),
    ],
)
async def test_a_failed_request_ends_with_1_and_one_line_that_helps(
    system: ProcessFleet, argv: list[str], code: int, said: str
) -> None:
    done = await sollol(system, *argv)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


async def test_operators_drain_load_and_change_nodes(system: ProcessFleet) -> None:
    assert "takes no new work" in (await sollol(system, "drain", "attic")).out
    await eventually(lambda: _shows(system, ["nodes"], "draining"))
    assert "takes work again" in (await sollol(system, "undrain", "attic")).out
    await eventually(lambda: _shows(system, ["nodes"], " up "))
    assert (await sollol(system, "unload", "attic", MODEL)).code == 0
    assert (await sollol(system, "load", "attic", MODEL)).code == 0
    changed = (await sollol(system, "set", "attic", "--weight", "2", "--label", "rack=7", "--json")).json
    assert "error" not in changed

    async def is_told() -> bool:
        told = (await sollol(system, "nodes", "--json")).json["nodes"][0]["telemetry"]
        return bool(told["labels"] == {"site": "attic", "rack": "7"} and told["weight"] == 2)

    await eventually(is_told, complaint="weight and labels are in the telemetry")


async def test_a_model_is_pulled_with_progress(system: ProcessFleet) -> None:
    done = await sollol(system, "pull", "attic", "countdown")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "success"
    steps = [
        msgspec.json.decode(line)
        for line in (await sollol(system, "pull", "attic", "countdown", "--json")).out.splitlines()
    ]
    assert steps[-1]["status"] == "success"


async def test_watch_prints_decisions_as_they_happen(system: ProcessFleet) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sollol_agents.cli",
        "watch",
        "--json",
        "--nats",
        system.nats_url,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = b""
            while not line:  # it may not be listening yet
                await sollol(system, "generate", MODEL, "count down from 2")
                try:
                    line = await asyncio.wait_for(process.stdout.readline(), 0.2)
                except TimeoutError:
                    continue
        assert msgspec.json.decode(line)["decision"]["node_id"] == "attic"
    finally:
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 130


async def test_the_doctor_finds_a_working_system_in_order(system: ProcessFleet) -> None:
    done = await sollol(system, "doctor", "--json")
    findings = {(f["check"], f["level"]) for f in done.json}
    assert done.code == 0, done.out
    assert {("nats", "ok"), ("stream", "ok"), ("actor", "ok"), ("node", "ok"), ("clock", "ok")} <= findings


async def test_the_doctor_says_what_to_do_without_a_server() -> None:
    done = await sollol(None, "doctor", "--nats", "nats://127.0.0.1:9")
    assert done.code == 1
    assert "does `sollol up` run there" in done.out.lower()


async def test_settings_come_from_flag_environment_and_file(system: ProcessFleet, tmp_path: Path) -> None:
    path = tmp_path / "sollol.toml"
    path.write_text(f"[nats]\nurl = '{system.nats_url}'\n[routing]\npriority = 7\n")
    by_file = await sollol(None, "generate", MODEL, "count down from 2", "--json", "--config", str(path))
    by_env = await sollol(
        None, "generate", MODEL, "count down from 2", "--json", SOLLOL_CONFIG=str(path), SOLLOL_ROUTING_PRIORITY="9"
    )
    assert (by_file.json["decision"]["priority"], by_env.json["decision"]["priority"]) == (7, 9)


async def test_up_says_which_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = await sollol(None, "up", "--nats-port", str(port), "--http-port", "0", "--store-dir", str(tmp_path))
    assert done.code == 2
    assert str(port) in done.err
    assert "another port" in done.err


async def test_up_joins_a_running_server_and_stands_by(system: ProcessFleet, tmp_path: Path) -> None:
    async with ProcessFleet(tmp_path) as second:
        child = await second.sollol("up", "--nats", system.nats_url, "--http-port", "0", "--no-local-node")
        assert child.served["nats"] == system.nats_url
        assert (await sollol(system, "generate", MODEL, "count down from 2")).out.split() == ["1", "0"]
    assert (await sollol(system, "generate", MODEL, "count down from 2")).out.split() == ["1", "0"]


async def test_the_demo_kills_a_node_and_answers_everything(tmp_path: Path, figure: Callable[[str], None]) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `engine` is not installed")
    began = time.monotonic()
    done = await sollol(None, "demo", XDG_STATE_HOME=str(tmp_path))
    assert done.code == 0, done.out + done.err
    assert "20 of 20 answered" in done.out
    assert done.err == ""
    figure(f"`sollol demo` took {time.monotonic() - began:.1f} s")


async def _shows(system: ProcessFleet, argv: list[str], part: str) -> bool:
    return part in (await sollol(system, *argv)).out
