"""Log lines: their fields and actions are documented, and what nobody asked for is not in them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sollol_agents.cli import logs
from sollol_agents.cli.log_table import LogLine, log_lines
from sollol_bus.observe import request_log
from sollol_schemas.decision import Decision, DecisionSummary
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"
TOLD = frozenset({"at", "level", "logger", "message", "exception"})
"""Fields that the formatter itself writes."""
CANARY = "the crown jewels are under the stairs"

in_the_checkout = pytest.mark.skipif(not PAGE.is_file(), reason="the documents are in the checkout only")


@pytest.fixture
def lines() -> list[LogLine]:
    return log_lines()


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    request_log.set_up(requests=True, prompts=False)


def documented(column: str) -> set[str]:
    """The names in the first cells of the table whose first heading is `column`."""
    _, _, table = PAGE.read_text(encoding="utf-8").partition(f"| {column} |")
    return set(re.findall(r"^\| `([^`]+)` \|", table.partition("\n\n")[0], re.MULTILINE))


@in_the_checkout
def test_the_fields_in_the_code_are_those_in_the_document(lines: list[LogLine]) -> None:
    used = {field for line in lines for field in line.fields} | TOLD | {"action"}
    assert documented("field") >= used, "document the field in docs/logs.md"
    assert documented("field") <= used, "docs/logs.md names fields that no line has"


@in_the_checkout
def test_every_action_in_the_code_is_in_the_document(lines: list[LogLine]) -> None:
    used = {line.action for line in lines if line.level != "debug"}
    assert documented("action") >= used, "run `make schemas`"


def test_every_line_from_info_up_has_an_action(lines: list[LogLine]) -> None:
    assert [line.where for line in lines if not line.action and line.level != "debug"] == []


def test_every_line_about_a_request_carries_its_id(lines: list[LogLine]) -> None:
    about = [line for line in lines if line.level != "debug" and re.match(r"(request|attempt) %s", line.text)]
    assert len(about) >= 6
    assert [line.where for line in about if "request_id" not in line.fields] == []


DECISION = Decision(
    summary=DecisionSummary(request_id="r", attempt_id="r-1", node_id="attic", predicted_s=1.5, reason="least cost"),
    model="llama3.2",
)


def outcome(status: OutcomeStatus, code: ErrorCode | None = None, figures: Figures | None = None) -> Outcome:
    return Outcome(
        attempt_id="r-1", request_id="r", node_id="attic", status=status, reported_by=ReportedBy.NODE,
        code=code, message=CANARY if code else "", figures=figures,
    )  # fmt: skip


def test_a_decision_is_one_line_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    request_log.log_decision(DECISION)
    (record,) = caplog.records
    assert record.getMessage() == "request r goes to attic: least cost; predicted 1.50 s"
    assert (record.__dict__["action"], record.__dict__["request_id"]) == ("decision", "r")


@pytest.mark.parametrize(
    ("ended", "level", "said"),
    [
        (
            outcome(OutcomeStatus.SUCCESS, figures=Figures(actual_s=2.0)),
            logging.INFO,
            "request r success on attic after 2.00 s",
        ),
        (
            outcome(OutcomeStatus.CLIENT_ERROR, ErrorCode.BAD_REQUEST),
            logging.INFO,
            "request r client_error on attic: bad_request",
        ),
        (
            outcome(OutcomeStatus.FAILED, ErrorCode.STALLED),
            logging.WARNING,
            "request r failed on attic: stalled",
        ),
    ],
    ids=["success", "client error", "failed"],
)
def test_an_outcome_is_one_line_without_the_engines_words(
    ended: Outcome, level: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    request_log.log_outcome(ended)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, said)
    assert CANARY not in logs.JsonLines().format(record)


def test_lines_about_requests_can_be_silenced_alone(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(logs.LogConfig(requests=False))
    request_log.log_decision(DECISION)
    request_log.log_outcome(outcome(OutcomeStatus.FAILED, ErrorCode.STALLED))
    logging.getLogger("sollol_agents.x").info("still here", extra={"action": "x"})
    shown = capsys.readouterr().err
    assert "still here" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(("is_on", "times"), [(False, 0), (True, 1)], ids=["off", "on"])
def test_the_text_of_a_request_is_logged_when_asked_for_and_only_then(
    is_on: bool, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(logs.LogConfig(level="debug", prompts=is_on, format="json"))
    request_log.log_prompt("r", "llama3.2", CANARY.encode() + b"." * 5000)
    shown = capsys.readouterr().err
    assert shown.count(CANARY) == times
    assert len(shown) < 2500
