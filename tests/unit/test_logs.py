"""Log lines say what happened, and what nobody asked for is not in them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from sollol_agents.cli import log_lines
from sollol_agents.lab.testing.messages import decision, outcome
from sollol_bus.observe import request_log
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.execution import Figures

CANARY = "the crown jewels are under the stairs"


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    request_log.set_up(requests=True, prompts=False)


DECISION = DecisionEvent(decision=decision("r-1", "attic", reason="least cost", model="llama3.2", predicted_s=1.5))


def ended(code: ErrorCode | None = None, **more: Any) -> Outcome:
    return outcome("r-1", "attic", code=code, message=CANARY if code else "", **more)


def test_a_decision_is_one_line_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    request_log.log_decision(DECISION)
    (record,) = caplog.records
    assert record.getMessage() == "request r goes to attic: least cost; predicted 1.50 s"
    assert (record.__dict__["action"], record.__dict__["request_id"]) == ("decision", "r")


@pytest.mark.parametrize(
    ("told", "level", "said"),
    [
        (
            ended(figures=Figures(actual_s=2.0)),
            logging.INFO,
            "request r success on attic after 2.00 s",
        ),
        (
            ended(ErrorCode.BAD_REQUEST, status=OutcomeStatus.CLIENT_ERROR),
            logging.INFO,
            "request r client_error on attic: bad_request",
        ),
        (
            ended(ErrorCode.STALLED),
            logging.WARNING,
            "request r failed on attic: stalled",
        ),
    ],
    ids=["success", "client error", "failed"],
)
def test_an_outcome_is_one_line_without_the_engines_words(
    told: Outcome, level: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    request_log.log_outcome(told)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, said)
    assert CANARY not in log_lines.JsonLines().format(record)


def test_lines_about_requests_can_be_silenced_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.set_up(log_lines.LogConfig(requests=False))
    request_log.log_decision(DECISION)
    request_log.log_outcome(ended(ErrorCode.STALLED))
    logging.getLogger("sollol_agents.x").info("still here", extra={"action": "x"})
    shown = capsys.readouterr().err
    assert "still here" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(("is_on", "times"), [(False, 0), (True, 1)], ids=["off", "on"])
def test_the_text_of_a_request_is_logged_when_asked_for_and_only_then(
    is_on: bool, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log_lines.set_up(log_lines.LogConfig(level="debug", prompts=is_on, format="json"))
    request_log.log_prompt("r", "llama3.2", CANARY.encode() + b"." * 5000)
    shown = capsys.readouterr().err
    assert shown.count(CANARY) == times
    assert len(shown) < 2500
