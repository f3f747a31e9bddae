"""`sollol jobs` and `sollol batch` as a user runs them, and a batch that is killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sollol_agents.lab.testing import processes
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL, "--parallel", "8")


async def test_a_job_is_submitted_listed_shown_waited_for_and_forgotten(fleet: ProcessFleet) -> None:
    await _with_a_node(fleet, "400")
    assert await sollol(fleet, "jobs", "submit", MODEL, "count down from 3", "--id", "mine") == (0, "mine\n", "")
    code, said, _ = await sollol(fleet, "jobs", "wait", "mine")
    assert (code, said.split()) == (0, ["2", "1", "0"])
    code, said, _ = await sollol(fleet, "jobs", "status", "mine", "--json")
    assert (code, json.loads(said)["state"]) == (0, "done")
    code, said, noted = await sollol(fleet, "jobs", "list")
    assert code == 0
    cells = said.splitlines()[1].split()
    assert (cells[:2], MODEL in cells, cells[-3:-1]) == (["mine", "done"], True, ["5", "1"])
    assert "dead letters: 0" in noted
    code, said, _ = await sollol(fleet, "jobs", "submit", MODEL, "count down from 2", "--wait", "--json")
    assert (code, json.loads(said)["result"]["body"]["response"].split()) == (0, ["1", "0"])
    code, _, noted = await sollol(fleet, "jobs", "cancel", "mine")
    assert (code, "done already" in noted) == (1, True)
    code, _, noted = await sollol(fleet, "jobs", "submit", MODEL, "count down from 9", "--id", "mine")
    assert (code, "another body" in noted) == (1, True)
    code, _, noted = await sollol(fleet, "jobs", "status", "nope")
    assert (code, "jobs list" in noted) == (1, True)
    assert (await sollol(fleet, "jobs", "submit", MODEL, "x", "--priority", "11"))[0] == 2
    code, said, _ = await sollol(fleet, "jobs", "result", "mine", "--json")
    assert (code, json.loads(said)["result"]["body"]["response"].split()) == (0, ["2", "1", "0"])
    code, _, noted = await sollol(fleet, "jobs", "purge", "nope")
    assert (code, "nope" in noted) == (1, True)
    code, said, _ = await sollol(fleet, "jobs", "purge")
    assert (code, said) == (0, "2 jobs forgotten\n")


async def test_a_job_that_is_not_due_yet_is_waited_for_in_vain_then_cancelled_and_kept_as_such(
    fleet: ProcessFleet,
) -> None:
    await _with_a_node(fleet, "400")
    code, said, _ = await sollol(fleet, "jobs", "submit", MODEL, "x", "--delay-s", "600", "--id", "later", "--json")
    assert (code, json.loads(said)) == (0, {"job_id": "later"})
    code, _, noted = await sollol(fleet, "jobs", "result", "later")
    assert (code, "is queued" in noted) == (1, True)
    code, _, noted = await sollol(fleet, "jobs", "wait", "later", "--timeout-s", "0.2")
    assert (code, "it goes on" in noted, "doctor" in noted) == (1, True, False)
    code, said, _ = await sollol(fleet, "jobs", "list", "--json")
    assert (code, json.loads(said)["delayed"]) == (0, 1)
    code, said, _ = await sollol(fleet, "jobs", "cancel", "later", "--json")
    assert (code, json.loads(said)["state"]) == (0, "cancelled")
    code, _, noted = await sollol(fleet, "jobs", "wait", "later")
    assert (code, "cancelled" in noted) == (1, True)
    code, said, _ = await sollol(fleet, "jobs", "dead", "--json")
    assert (code, json.loads(said).get("jobs", [])) == (0, [])
    code, said, _ = await sollol(fleet, "jobs", "purge", "--state", "cancelled", "--json")
    assert (code, json.loads(said)) == (0, {"purged": 1})


async def test_a_dead_job_is_listed_with_its_reason_and_run_again(fleet: ProcessFleet) -> None:
    await _with_a_node(fleet, "400")
    assert (await sollol(fleet, "jobs", "submit", "nonesuch", "hello", "--id", "bad"))[0] == 0
    code, _, noted = await sollol(fleet, "jobs", "wait", "bad")
    assert (code, "nonesuch" in noted) == (1, True)
    code, said, _ = await sollol(fleet, "jobs", "dead")
    assert code == 0
    assert "unknown_model" in said
    assert (await sollol(fleet, "jobs", "retry"))[0] == 2, "nothing was named"
    code, said, _ = await sollol(fleet, "jobs", "retry", "--all", "--json")
    assert (code, json.loads(said)) == (0, ["bad"])
    assert (await sollol(fleet, "jobs", "wait", "bad"))[0] == 1
    code, said, _ = await sollol(fleet, "jobs", "status", "bad", "--json")
    assert (json.loads(said)["state"], json.loads(said)["run"]) == ("failed", 2)


async def test_a_batch_that_is_killed_goes_on_where_it_was_and_is_found_from_anywhere(
    fleet: ProcessFleet, tmp_path: Path
) -> None:
    await _with_a_node(fleet, "60")
    asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines: list[dict[str, Any]] = [{"model": MODEL, "prompt": f"count down from {10 + n % 5}"} for n in range(120)]
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "count down from 2"}]}
    lines.append({"custom_id": "last", "method": "POST", "url": "/v1/chat/completions", "body": chat})
    lines.append({"custom_id": "unknown", "model": "nonesuch", "prompt": "x"})
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = await start(fleet, "batch", "run", str(asked), str(answered))

    async def has_begun() -> bool:
        return await asyncio.to_thread(answers_in, answered) >= 20

    try:
        await eventually(has_begun)
    finally:
        first.kill()
        await first.communicate()
    assert answers_in(answered) < len(lines)
    code, said, _ = await sollol(fleet, "batch", "list")
    name = said.splitlines()[1].split()[0]
    assert (code, len(name)) == (0, 8)
    code, said, noted = await sollol(fleet, "batch", "resume", name, "--json")
    assert code == 1, "one request has no answer"
    assert "are there already" in noted
    told = json.loads(said)
    assert (told["done"], told["failed"], told["by_node"]) == (121, 1, {"attic": 121})
    assert told["in_file_before"] + told["earlier"] >= 20
    assert [one["code"] for one in told["reasons"]] == ["unknown_model"]
    code, said, _ = await sollol(fleet, "batch", "status", name, "-o", "json")
    assert (json.loads(said)["stage"], json.loads(said)["done"]) == ("done", 121)
    code, _, noted = await sollol(fleet, "batch", "cancel", name)
    assert (code, "has ended already" in noted) == (1, True)
    found = [json.loads(line) for line in answered.read_text().splitlines()]
    assert [one["custom_id"] for one in found] == [*(str(n) for n in range(1, 121)), "last", "unknown"]
    for number, one in enumerate(found[:120]):
        expected = [str(n) for n in range(9 + number % 5, -1, -1)]
        assert one["response"]["body"]["response"].split() == expected
    assert found[120]["response"]["body"]["choices"][0]["message"]["content"].split() == ["1", "0"]
    assert found[121]["error"]["code"] == "unknown_model"
    async with fleet.client() as client:
        done = (await client.jobs.latest("done", limit=1000)).jobs
    assert len(done) == 121
    assert all(job.tries == 1 for job in done), "nothing was done twice"


async def test_answers_of_an_earlier_run_are_named_as_such_and_a_cancelled_batch_stays_so(
    fleet: ProcessFleet, tmp_path: Path
) -> None:
    await _with_a_node(fleet, "400")
    asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text("".join(f'{{"model": "{MODEL}", "prompt": "count down from {n}"}}\n' for n in (1, 2, 3)))
    code, said, noted = await sollol(fleet, "batch", "run", str(asked), str(answered))
    assert (code, "done      3 of 3" in said, "earlier results" in said) == (0, True, False)
    assert noted.splitlines()[-1].startswith("3 of 3 ended"), "no terminal, and so a line of a log"
    code, said, _ = await sollol(fleet, "batch", "run", str(asked), str(tmp_path / "second.jsonl"))
    assert (code, "3 answers taken from earlier results" in said) == (0, True)
    nowhere = {"model": MODEL, "prompt": "x", "node_id": "absent", "strict": True}
    asked.write_text(f"{json.dumps(nowhere)}\n" * 3)
    name = await _a_person_leaves_it(fleet, asked, tmp_path / "third.jsonl")
    running = await start(fleet, "batch", "resume", name)
    assert running.stderr is not None
    assert name in (await running.stderr.readline()).decode(), "it has begun"
    code, said, _ = await sollol(fleet, "batch", "cancel", name)
    assert (code, said) == (0, f"batch {name} is cancelled: 0 done, 0 failed, 3 cancelled\n")
    said_there, _ = await asyncio.wait_for(running.communicate(), 60)
    assert (running.returncode, b"cancelled 3" in said_there) == (1, True), "who follows it is told, and ends"
    code, _, noted = await sollol(fleet, "batch", "resume", name)
    assert (code, "was cancelled" in noted, "--again" in noted) == (2, True, True)


async def _a_person_leaves_it(fleet: ProcessFleet, asked: Path, answered: Path) -> str:
    """Starts a batch of three on a terminal, presses Ctrl-C while they wait; its id, as the last words have it."""
    controller, terminal = os.openpty()
    running = await start(fleet, "batch", "run", str(asked), str(answered), stderr=terminal)
    os.close(terminal)
    seen = b""
    try:
        while b"3 waiting" not in seen:
            seen += await asyncio.to_thread(os.read, controller, 4096)
        running.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(running.wait(), 30) == 130
        while b"cancel  sollol" not in seen:
            seen += await asyncio.to_thread(os.read, controller, 4096)
    finally:
        os.close(controller)
        if running.returncode is None:
            running.kill()
        await running.communicate()
    told = seen.decode()
    assert "─  0/3" in told, "a bar, for it was a terminal"
    assert "3 go on without you" in told
    return told.partition("resume  sollol batch resume ")[2].split()[0]


def answers_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


async def _with_a_node(fleet: ProcessFleet, decode_tps: str) -> None:
    await fleet.up("--no-gateway", SOLLOL_SCORER_WARM_UP_S="0.5")  # soon no more nodes are expected
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", decode_tps)
    await fleet.node("attic", engine.url, "--slots", "8")


async def start(fleet: ProcessFleet, *argv: str, stderr: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sollol_agents.cli",
        *argv,
        env=os.environ | {"SOLLOL_NATS": fleet.nats_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def sollol(fleet: ProcessFleet, *argv: str) -> tuple[int, str, str]:
    return await processes.sollol(fleet.nats_url, *argv)
