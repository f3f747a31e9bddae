"""Log lines say what happened, and what nobody asked for is not in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.cli import log_lines, repeats
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
            "request r was answered on attic after 2.00 s",
        ),
        (
            ended(ErrorCode.BAD_REQUEST, status=OutcomeStatus.CLIENT_ERROR),
            logging.INFO,
            "request r was refused on attic: bad request",
        ),
        (
            ended(ErrorCode.CANCELLED, status=OutcomeStatus.CANCELLED),
            logging.INFO,
            "request r was cancelled on attic",
        ),
        (
            ended(ErrorCode.STALLED),
            logging.WARNING,
            "request r failed on attic: stalled",
        ),
    ],
    ids=["success", "client error", "cancelled", "failed"],
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


class Virtual:
    """A handler in virtual time, and what it wrote."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        self.handler = log_lines.SparingHandler(self.stream, lambda: self.now)
        self.handler.setFormatter(log_lines.JsonLines())

    def log(self, text: str, *words: object, name: str = "sollol_bus.x", level: int = logging.INFO) -> None:
        self.handler.handle(logging.makeLogRecord({"name": name, "msg": text, "args": words, "levelno": level}))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def told(self) -> int:
        """Lines that were written, with those that they stand for."""
        return sum(line.get("repeated", 1) for line in self.lines)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.007, 0.5, 30.0, 90.0]), st.integers(0, 2)), max_size=300))
def test_no_line_is_lost_without_being_counted(steps: list[tuple[float, int]]) -> None:
    out = Virtual()
    for pause_s, which in steps:
        out.now += pause_s
        out.log(f"event {which}: %s", out.now)
    out.handler.close()
    assert out.told == len(steps)
    events = len({which for _, which in steps})
    assert len(out.lines) <= events * (repeats.FIRST + 1) * (1 + out.now // repeats.EVERY_S)


def test_an_outage_of_a_day_costs_a_line_a_minute() -> None:
    out = Virtual()
    while out.now < 86_400:
        out.now += 1.0
        out.log("consumer %s: the server is away", int(out.now) % 12)
    out.handler.close()
    assert out.told == 86_400
    assert len(out.lines) <= repeats.FIRST + 86_400 / repeats.EVERY_S + 1
    assert out.lines[repeats.FIRST]["message"].endswith("the server is away")


def test_what_stopped_coming_is_shown_at_once_when_it_comes_again() -> None:
    out = Virtual()
    for _ in range(100):
        out.log("again")
    out.now += 61
    out.log("something else")
    out.now += 61
    out.log("again")
    assert [line.get("repeated", 1) for line in out.lines][-3:] == [80, 1, 1]
    assert out.lines[-1]["message"] == "again"


def test_lines_of_requests_and_those_for_debugging_are_all_written() -> None:
    out = Virtual()
    for n in range(100):
        out.log("request %s", n, name=request_log.REQUESTS)
        out.log("seen", level=logging.DEBUG)
    assert len(out.lines) == 200


@pytest.mark.parametrize(("is_on", "times"), [(False, 0), (True, 1)], ids=["off", "on"])
def test_the_text_of_a_request_is_logged_when_asked_for_and_only_then(
    is_on: bool, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log_lines.set_up(log_lines.LogConfig(level="debug", prompts=is_on, format="json"))
    request_log.log_prompt("r", "llama3.2", CANARY.encode() + b"." * 5000)
    shown = capsys.readouterr().err
    assert shown.count(CANARY) == times
    assert len(shown) < 2500
