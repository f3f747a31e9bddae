"""What the client makes of the words that a program gives it, and what it shows of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sollol_bus import (
    PRIORITY_NAMES,
    Answer,
    BadRequest,
    Client,
    ConfigError,
    Embeddings,
    NotConnected,
    priority_of,
)
from sollol_bus.sdk.engine_options import with_options
from sollol_bus.sdk.surroundings import bus_config_here
from sollol_bus.transport.connection import NoServer
from sollol_schemas.context import ComplexityClass
from sollol_schemas.decision import Decision, Forecast
from sollol_schemas.execution import Figures
from sollol_schemas.jobs import EnqueueRequest
from sollol_schemas.routing import parse_routing


@pytest.mark.parametrize(
    ("given", "body"),
    [
        ({"temperature": 0.2}, {"options": {"temperature": 0.2}}),
        ({"max_tokens": 9, "system": "s"}, {"system": "s", "options": {"num_predict": 9}}),
        ({"options": {"seed": 1, "top_k": 2}, "seed": 3}, {"options": {"seed": 3, "top_k": 2}}),
        ({"temperature": None}, {"options": {}}),
        ({"format": "json", "keep_alive": -1}, {"format": "json", "keep_alive": -1}),
        ({"options": {"seed": 1}}, {"options": {"seed": 1}}),
    ],
    ids=["one", "another word", "both", "none", "no option", "as they are"],
)
def test_options_go_where_the_engine_reads_them(given: dict[str, Any], body: dict[str, Any]) -> None:
    assert with_options(given) == body


def test_options_that_are_none_are_refused_in_words() -> None:
    with pytest.raises(BadRequest, match="options must be a mapping of names to values, not list"):
        with_options({"options": [1], "seed": 1})


def test_a_client_without_an_address_takes_what_this_machine_says(tmp_path: Path) -> None:
    file = tmp_path / "sollol.toml"
    file.write_text('[nats]\nurl = "nats://den:4222"\nuser = "app"\npassword = "x"\n[node]\nslots = 4\n')
    found = bus_config_here("n", {"SOLLOL_CONFIG": str(file)})
    assert (found.url, found.user, found.password, found.name) == ("nats://den:4222", "app", "x", "n")
    both = bus_config_here("n", {"SOLLOL_CONFIG": str(file), "SOLLOL_NATS": "nats://hub:1", "SOLLOL_NATS_USER": "me"})
    assert (both.url, both.user) == ("nats://hub:1", "me")
    assert bus_config_here("n", {"HOME": str(tmp_path)}).url == "nats://127.0.0.1:4222"
    joined = tmp_path / ".config" / "sollol"
    joined.mkdir(parents=True)
    file.rename(joined / "sollol.toml")
    assert bus_config_here("n", {"HOME": str(tmp_path)}).url == "nats://den:4222"


def test_a_client_reads_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("SOLLOL_NATS", "nats://somewhere:4222")
    assert repr(Client()) == "Client('nats://somewhere:4222', not connected)"
    assert repr(Client("nats://den:4222")) == "Client('nats://den:4222', not connected)"


@pytest.mark.parametrize(
    ("text", "said"),
    [("[nats", "cannot be read"), ("nats = 1", "must be a table"), ("[nats]\nstream_replicas = 9", "stream_replicas")],
    ids=["no toml", "no table", "out of range"],
)
def test_a_settings_file_that_cannot_be_used_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "sollol.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        bus_config_here("n", {"SOLLOL_CONFIG": str(file)})
    assert "sollol.toml" in caught.value.message


def test_a_server_that_is_not_there_is_no_connection_and_may_come() -> None:
    error = NoServer("nobody")
    assert isinstance(error, NotConnected)
    assert isinstance(error, ConfigError)
    assert error.is_retryable


def test_results_show_themselves_on_one_short_line() -> None:
    made = Decision(request_id="r", attempt_id="r-1", node_id="den")
    answer = Answer(text="x" * 500, model="m", request_id="r", decision=made, final={"context": list(range(999))})
    assert repr(answer) == f"Answer('{'x' * 57}...', model='m', node='den', request_id='r')"
    vectors = Embeddings(embeddings=[[0.5] * 768] * 2, model="m", request_id="r")
    assert repr(vectors) == "Embeddings(2 x 768, model='m', node='?')"


def test_where_and_why_an_answer_was_made_is_told_in_one_mapping() -> None:
    decision = Decision(
        request_id="r",
        attempt_id="r-12",
        node_id="attic",
        node_url="http://127.0.0.1:11434",
        host="attic.lan:11434",
        task_type="analysis",
        complexity=ComplexityClass.MEDIUM,
        attempt=12,
        forecast=Forecast(total_s=3.0),
    )
    answer = Answer(text="", model="m", request_id="r", decision=decision, figures=Figures(actual_s=1.25, ttft_s=0.5))
    told = answer.routing
    assert told["host"] == "attic.lan:11434"
    assert (told["task_type"], told["complexity"], told["decision_score"]) == ("analysis", "medium", 25.0)
    assert (told["actual_duration_ms"], told["attempts"]) == (1250.0, 3)
    hidden = msgspec.structs.replace(answer, decision=decision.without_address())
    assert (hidden.routing["host"], "node_url" in hidden.routing) == ("attic", False)
    assert Embeddings(embeddings=[], model="m", request_id="r").routing == {"request_id": "r"}


@pytest.mark.parametrize(("name", "number"), [*PRIORITY_NAMES.items(), ("URGENT", 10), ("7", 7), (0, 0)])
def test_a_priority_may_be_said_by_its_name_wherever_one_is_asked_for(name: int | str, number: int) -> None:
    assert priority_of(name) == number
    assert parse_routing({"priority": name}).priority == number
    assert parse_routing({}, {"X-Sollol-Priority": str(name)}).priority == number
    asked = msgspec.json.decode(msgspec.json.encode({"job": {"body": {}}, "priority": name}), type=EnqueueRequest)
    assert priority_of(asked.priority or 0) == number
