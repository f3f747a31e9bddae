"""What somebody is told who has no fleet yet, or whose machine may not do what was asked."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from sollol_agents.cli import __main__ as program
from sollol_agents.cli import exit_codes, log_lines
from sollol_agents.cli.commands import engines
from sollol_agents.cli.commands.batch_files import read_items
from sollol_agents.cli.commands.findings import Finding
from sollol_bus.errors import ConfigError
from sollol_bus.transport import connection
from sollol_schemas.plain_words import signs_of

NOBODY = ("--nats", "nats://127.0.0.1:1")
REFUSED = 'nats: permissions violation for publish to "sollol.v1.admin.node.drain"'
DEAF = 'nats: permissions violation for subscription to "_inbox_cli.desk.1.*"'
EVENTS = 'nats: permissions violation for subscription to "sollol.v1.events.>"'


@pytest.mark.parametrize("argv", [["invite", "node", "desk"], ["fleet", "list"]])
def test_who_invites_without_a_fleet_is_told_how_to_make_one(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert program.run([*argv, *NOBODY]) == exit_codes.NO_ANSWER
    assert "`sollol fleet init` makes a fleet that can invite" in capsys.readouterr().err
    (tmp_path / "sollol").mkdir()
    (tmp_path / "sollol" / "sollol.toml").touch()
    assert program.run([*argv, *NOBODY]) == exit_codes.NO_ANSWER
    assert "fleet init" not in capsys.readouterr().err


def test_the_doctor_and_other_commands_say_the_same_of_a_server_that_is_not_there() -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "sollol_agents.cli", *argv, *NOBODY]
        return subprocess.run(command, capture_output=True, timeout=120, check=False)

    nodes, doctor = run("nodes"), run("doctor", "--json")
    assert (nodes.returncode, doctor.returncode) == (exit_codes.NO_ANSWER, exit_codes.FAILED)
    findings = msgspec.json.decode(doctor.stdout, type=list[Finding])
    (nats,) = (finding for finding in findings if finding.check == "nats")
    said = nodes.stderr.decode()
    assert said.startswith(f"sollol: {nats.found}. ")
    assert nats.remedy[1:] in said


@pytest.mark.parametrize("argv", [["engine"], ["emulate", "--preset", "instant"]])
def test_an_engine_whose_port_is_taken_says_which_and_how_to_choose_another(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert program.run([*argv, "--port", str(port)]) == exit_codes.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"sollol: cannot listen on 127.0.0.1 port {port}: Address already in use. Choose another")
    assert "--port" in said


def test_a_llama_cpp_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("Failed to init server")

    monkeypatch.setattr(engines, "run_engine", fail)
    assert program.run(["engine"]) == exit_codes.USAGE
    assert "llama.cpp does not start" in capsys.readouterr().err


def test_what_the_server_refuses_is_told_once_by_the_error(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger(connection.__name__)
    lines = (REFUSED, DEAF, EVENTS, "nats: slow consumer")
    with caplog.at_level("WARNING"), log_lines.refusals_told_by_errors():
        for line in lines:
            log.warning("bus: %s", line)
    assert caplog.messages == [f"bus: {line}" for line in lines[2:]]
    caplog.clear()
    with caplog.at_level("DEBUG"), log_lines.refusals_told_by_errors():
        log.warning("bus: %s", REFUSED)
    log.warning("bus: %s", DEAF)
    assert caplog.messages == [f"bus: {REFUSED}", f"bus: {DEAF}"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"^[A-Za-z0-9_-]{1,64}$(?!\n)", "1 to 64 letters, digits, _ or -"),
        (r"^[A-Za-z0-9]{0,8}$(?!\n)", "at most 8 letters or digits"),
        (r"^[A-Za-z0-9_-]*$(?!\n)", "letters, digits, _ or -"),
        (r"^[!-~]{1,256}$(?!\n)", "1 to 256 printable characters without blanks"),
        (r"^(a|b)$", "text matching ^(a|b)$"),
        (r"^[xyz]{1,2}$", "text matching ^[xyz]{1,2}$"),
    ],
)
def test_what_a_text_is_made_of_is_said_in_words(pattern: str, words: str) -> None:
    assert signs_of(pattern) == words


@pytest.mark.parametrize("line", ["count 3", "[1]", '{"prompt": "no model"}'])
def test_a_file_of_requests_whose_line_is_none_says_how_one_looks(line: str, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(f'{{"model": "m", "prompt": "Hi"}}\n{line}\n')
    with pytest.raises(ConfigError, match=r'line 2: .*; each line is a request like \{"model": '):
        read_items(path)
