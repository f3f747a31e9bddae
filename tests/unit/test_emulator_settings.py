"""Flags, variables and configurations of the emulated node."""

from __future__ import annotations

import datetime as dt
import math

import msgspec
import pytest

from sollol_agents.lab.emulator import EmulatorConfig, stamps
from sollol_agents.lab.emulator.__main__ import parse_config
from sollol_agents.lab.emulator.config import ollama_settings
from sollol_agents.lab.emulator.models import default_models, parse_model
from sollol_agents.lab.emulator.node import resolve_preset
from sollol_agents.lab.emulator.presets import PRESETS


def test_an_instant_is_written_with_nanoseconds() -> None:
    assert stamps.rfc3339(dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)) == "2026-01-02T03:04:05.000000000Z"


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("llama3.1:8b", "llama3.1:8b", 8_000_000_000),
        ("countdown:3.8", "countdown:3.8", 3_800_000_000),
        ("big=70.6", "big:latest", 70_600_000_000),
        ("q:14b-instruct-q4", "q:14b-instruct-q4", 14_000_000_000),
        ("countdown", "countdown:latest", 1_918_208),
    ],
)
def test_a_model_is_described_by_name_and_size(text: str, name: str, parameters: int) -> None:
    model = parse_model(text)
    assert (model.name, model.parameters) == (name, parameters)


@pytest.mark.parametrize("text", ["x=", "x=-1", "x=many", "=3"])
def test_a_model_without_a_usable_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME"):
        parse_model(text)


def test_only_models_that_fit_are_there_by_default() -> None:
    names = {preset: {model.name for model in default_models(PRESETS[preset])} for preset in ("pi5", "h100-80")}
    assert "llama3.1:70b" in names["h100-80"]
    assert "llama3.1:70b" not in names["pi5"]
    assert "countdown:latest" in names["pi5"]


def test_every_field_is_a_flag_and_defaults_stay() -> None:
    config = parse_config(
        ["--preset", "pi5", "--model", "a=1", "--model", "b=2", "--parallel", "2", "--faults", '[{"kind":"reset"}]']
    )
    assert (config.preset, config.model, config.parallel, len(config.faults)) == ("pi5", ("a=1", "b=2"), 2, 1)
    assert config.max_queue == EmulatorConfig().max_queue


def test_a_value_out_of_range_names_its_field() -> None:
    with pytest.raises(msgspec.ValidationError, match="parallel"):
        parse_config(["--parallel", "0"])


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="rtx3090-24"):
        resolve_preset(EmulatorConfig(preset="abacus"))


def test_a_rate_in_the_configuration_wins_over_the_preset() -> None:
    assert resolve_preset(EmulatorConfig(preset="steady", decode_tps=80)).decode_tps == 80


@pytest.mark.parametrize(
    ("variables", "field", "value"),
    [
        ({"OLLAMA_NUM_PARALLEL": "4"}, "parallel", 4),
        ({"OLLAMA_MAX_QUEUE": "2"}, "max_queue", 2),
        ({"OLLAMA_CONTEXT_LENGTH": "2048"}, "ctx_tokens", 2048),
        ({"OLLAMA_KEEP_ALIVE": "2s"}, "keep_alive_s", 2.0),
        ({"OLLAMA_KEEP_ALIVE": "-1"}, "keep_alive_s", -1.0),
        ({"OLLAMA_KEEP_ALIVE": "-1m"}, "keep_alive_s", math.inf),
        ({"OLLAMA_ORIGINS": "http://a.example,app://b"}, "origins", ("http://a.example", "app://b")),
        ({"OLLAMA_HOST": "http://127.0.0.1:11434"}, "host", "127.0.0.1"),
    ],
    ids=str,
)
def test_ollamas_own_variables_set_a_node_up(variables: dict[str, str], field: str, value: object) -> None:
    assert ollama_settings(variables) == {field: value}


def test_only_the_recorded_preset_reads_ollamas_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "7")
    assert parse_config(["--preset", "recorded"]).parallel == 7
    assert parse_config(["--preset", "recorded", "--parallel", "2"]).parallel == 2
    assert parse_config(["--preset", "steady"]).parallel == 1
