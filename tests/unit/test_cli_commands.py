from __future__ import annotations

import io
import logging
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from sollol_agents.cli import __main__ as program
from sollol_agents.cli import catalogue, exit_codes, log_lines
from sollol_agents.cli.commands.explaining import show_decision, show_why
from sollol_agents.cli.commands.listings import show_stats
from sollol_agents.cli.commands.requesting import body_fields, provenance, read_prompt
from sollol_agents.cli.output import seconds, show_table
from sollol_agents.cli.settings.section import ConfigFile
from sollol_agents.cli.settings.sections import SECTIONS, all_sections
from sollol_agents.fleet_view.terms import TERMS
from sollol_agents.lab.testing.messages import outcome
from sollol_bus.errors import BadRequest, ConfigError, NoEligibleNode, NoResponders, NotConnected, SollolError
from sollol_bus.sdk.results import Answer
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent, Forecast, Rejection, RejectionReason
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.queries import GroupStats, StatsReply, WhyReply
from sollol_schemas.routing import RoutingMode

COMMANDS = list(catalogue.COMMANDS)
SUMMARY = Decision(
    request_id="req-1",
    attempt_id="req-1-1",
    node_id="attic",
    model="llama3.2",
    queue_s=0.25,
    reason="the least cost",
    forecast=Forecast(total_s=1.5),
)
DECISION = DecisionEvent(
    decision=SUMMARY,
    candidates=(CandidateCost(node_id="attic", total_s=1.5),),
    rejections=(Rejection(node_id="cellar", reason=RejectionReason.DRAINING, detail="since 3 s"),),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run([name, "--help"]) == exit_codes.OK
    assert f"Usage: sollol {name}" in capsys.readouterr().out


def test_the_help_lists_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["--help"]) == exit_codes.OK
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert "Exit codes" in shown


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["genrate"], "did you mean `sollol generate`?"),
        (["zzz"], "`sollol --help` lists"),
        (["nodes", "--jsn"], "there is no flag --jsn; did you mean --json?"),
        (["generate", "m", "hi", "--mode", "fast"], "there is no flag --mode; did you mean --routing-mode?"),
        (["nodes", "--zzzzzz"], "there is no flag --zzzzzz (`sollol nodes --help` shows what there is)"),
        (["jobs", "lst"], "did you mean 'list'?"),
        (["generate", "m", "hi", "--priority", "11"], "an integer from 0 to 10"),
        (["generate", "m", "hi", "--option", "nonsense"], "KEY=VALUE"),
        (["up", "--nats-port", "70000"], "from 0 to 65535"),
        (["set", "attic"], "--weight, --label or a price"),
        (["set", "attic", "--weight", "0"], "above 0"),
        (["nodes", "--config", "/does/not/exist.toml"], "No such file"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(argv) == exit_codes.USAGE
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_a_command_that_has_not_begun_is_interrupted_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, *_: object) -> None:
        raise KeyboardInterrupt(name)

    monkeypatch.setattr(sys, "argv", ["sollol", "nodes"])
    monkeypatch.setattr("builtins.__import__", interrupted)
    with pytest.raises(SystemExit) as ended:
        program.main()
    monkeypatch.undo()
    assert ended.value.code == exit_codes.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_is_told_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "sollol_agents.cli", "version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stderr.count("\n")) == (exit_codes.FAILED, 1)
    assert "no room" in ended.stderr


def test_without_a_server_a_question_ends_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    # port 9 of the loopback is the discard service, which nobody runs
    assert program.run(["nodes", "--nats", "nats://127.0.0.1:9"]) == exit_codes.NO_ANSWER
    assert "sollol up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), exit_codes.USAGE),
        (NotConnected("x"), exit_codes.NO_ANSWER),
        (NoResponders("x"), exit_codes.NO_ANSWER),
        (NoEligibleNode(body=ErrorBody(code=ErrorCode.NO_NODES, message="x")), exit_codes.NO_ANSWER),
        (NoEligibleNode("x"), exit_codes.FAILED),
        (BadRequest("x"), exit_codes.FAILED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_error_has_its_exit_code(error: SollolError, code: int) -> None:
    assert exit_codes.code_of(error) == code


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("too_little_vram: 10.7 GiB free", " (--soft takes the best node there is)"),
        ("draining", " (see `sollol nodes`)"),
    ],
    ids=["a wish of the caller", "a fact"],
)
def test_a_refusal_offers_soft_where_that_helps(reason: str, advice: str) -> None:
    body = ErrorBody(code=ErrorCode.NO_ELIGIBLE_NODE, message="no node fits", details={"nodes": {"a": reason}})
    assert exit_codes.line_of(NoEligibleNode(body=body)) == f"sollol: no node fits{advice}"


def test_an_error_is_one_line_that_says_what_to_do() -> None:
    line = exit_codes.line_of(NoEligibleNode("no node\nfits"))
    assert line == "sollol: no node fits (see `sollol nodes`)"


def test_init_writes_a_file_that_is_valid_once_uncommented(tmp_path: Path) -> None:
    path = tmp_path / "sollol.toml"
    assert program.run(["init", str(path)]) == exit_codes.OK
    lines = path.read_text().splitlines()
    settings = [line.removeprefix("#") for line in lines if not line.startswith("# ")]
    given = [line for line in settings if not line.endswith((' = ""', " = null"))]
    path.write_text("\n".join(given))
    assert set(tomllib.loads(path.read_text())) == set(SECTIONS)
    file = ConfigFile(path)
    for section in all_sections():
        assert section.load(file=file) == section.load()


def test_init_prints_what_it_would_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert program.run(["init", "-"]) == program.run(["init", "--stdout"]) == exit_codes.OK
    assert capsys.readouterr().out.count("sollol up --config sollol.toml") == 2
    assert list(tmp_path.iterdir()) == []


def test_init_never_overwrites_a_file_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sollol.toml"
    path.write_text("mine")
    assert program.run(["init", str(path)]) == exit_codes.USAGE
    assert path.read_text() == "mine"
    assert "--force" in capsys.readouterr().err


def test_version_is_machine_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["version", "--json"]) == exit_codes.OK
    assert msgspec.json.decode(capsys.readouterr().out)["sollol-bus"]


def test_the_flags_of_a_request_become_fields_of_the_body() -> None:
    fields = body_fields(system="be brief", format_="json", option=["temperature=0", "stop=a"], keep_alive="-1")
    assert fields == {
        "system": "be brief",
        "format": "json",
        "options": {"temperature": 0, "stop": "a"},
        "keep_alive": -1,
    }


def test_a_format_may_be_a_schema_but_no_other_word() -> None:
    assert body_fields(system=None, format_='{"type": "object"}', option=None, keep_alive="10m") == {
        "format": {"type": "object"},
        "keep_alive": "10m",
    }
    with pytest.raises(ConfigError, match="--format"):
        body_fields(system=None, format_="yaml", option=None, keep_alive=None)


def test_a_piped_prompt_is_read_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("why?"))
    assert read_prompt(None) == read_prompt("why?") == "why?"


def test_an_answer_says_where_it_was_made_and_why() -> None:
    answer = Answer(
        text="42",
        model="m",
        request_id="req-1",
        decision=SUMMARY,
        figures=Figures(actual_s=2.0, output_tokens=40, decode_s=1.0),
    )
    said = provenance(answer)
    for part in ("attic", "fast", "2.00 s", "predicted 1.50 s", "40 tokens at 40/s", "waited 250 ms", "least cost"):
        assert part in said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (0.25, "250 ms"),
        (3.14159, "3.14 s"),
        (59.96, "60.0 s"),
        (185, "3 min 5 s"),
        (7300, "2 h 1 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_are_readable_at_any_size(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_a_table_outside_a_terminal_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("NODE", "N"), [("attic", "7"), ("b", "12")], numbers=("N",))
    assert capsys.readouterr().out == "NODE    N\nattic   7\nb      12\n"


def test_statistics_show_modes_and_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    group = GroupStats(requests=3, successes=2, failures=1)
    show_stats(StatsReply(total=group, by_mode={"fast": group}, by_node={"attic": group}))
    shown = capsys.readouterr().out
    assert "mode fast" in shown
    assert "node attic" in shown


def test_why_shows_candidates_refusals_and_outcomes(capsys: pytest.CaptureFixture[str]) -> None:
    ended = outcome("req-1-1", "attic", code=ErrorCode.STALLED)
    show_why(WhyReply(request_id="req-1", decisions=(DECISION,), outcomes=(ended,)))
    shown = capsys.readouterr().out
    for part in ("because: the least cost", "attic (chosen)", "stalled"):
        assert part in shown
    assert ["cellar", "draining", "since", "3", "s"] in [line.split() for line in shown.splitlines()]


def test_a_decision_shows_the_terms_that_matter_and_what_each_alternative_costs_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    candidates = (
        CandidateCost(node_id="cellar", total_s=9.25, load_s=8.0, decode_s=1.25, completion_s=9.25, is_busy=True),
        CandidateCost(node_id="attic", total_s=1.5, decode_s=1.5, completion_s=1.5),
    )
    show_decision(msgspec.structs.replace(DECISION, candidates=candidates, rejections=(), is_dry_run=True))
    shown = capsys.readouterr().out
    assert "would run on attic" in shown
    table = [line.split() for line in shown.splitlines() if line.startswith(("SECONDS", "attic", "cellar"))]
    assert table == [
        ["SECONDS", "ON", "COST", "MORE", "LOAD", "DECODE", "DONE", "IN", "CACHED", "FREE"],
        ["attic", "(chosen)", "1.500", "-", "0.000", "1.500", "1.500", "0", "yes"],
        ["cellar", "9.250", "+7.750", "8.000", "1.250", "9.250", "0", "no"],
    ]


def test_every_term_of_a_cost_has_a_column() -> None:
    others = {"node_id", "total_s", "completion_s", "prefix_hit_tokens", "is_busy", "expense", "currency"}
    assert set(TERMS) == set(CandidateCost.__struct_fields__) - others


@pytest.mark.parametrize("text", ["hold", "hold=", "=0.5", "hold=much"])
def test_a_setting_that_is_no_number_is_refused_by_name(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["strategy", "set", "--setting", text]) == exit_codes.USAGE
    assert "must be NAME=NUMBER" in capsys.readouterr().err


def test_a_log_line_outside_a_terminal_is_json_with_its_extras() -> None:
    record = logging.makeLogRecord(
        {"name": "sollol_bus.x", "msg": "took %s", "args": ("it",), "levelno": 20, "levelname": "INFO", "action": "a"}
    )
    line = msgspec.json.decode(log_lines.JsonLines().format(record))
    assert (line["message"], line["action"], line["level"]) == ("took it", "a", "info")


def test_a_log_line_on_a_terminal_is_readable() -> None:
    record = logging.makeLogRecord(
        {"name": "sollol_agents.node.actor", "msg": "hm", "levelno": 30, "levelname": "WARNING"}
    )
    assert "node.actor" in log_lines.PlainLines().format(record)
    assert "warning: hm" in log_lines.PlainLines().format(record)


def test_every_section_that_a_file_may_have_is_loadable() -> None:
    assert [section.name for section in all_sections()] == list(SECTIONS)
    assert RoutingMode.FAST.value in next(s.allowed for s in all_sections()[2].settings if s.path == ("routing_mode",))
