"""Durations, names, flags and configurations of the emulated node."""

from __future__ import annotations

import datetime as dt
import math

import msgspec
import pytest

from sollol_agents.lab.emulator import EmulatorConfig, wire
from sollol_agents.lab.emulator.__main__ import parse_config
from sollol_agents.lab.emulator.models import default_models, parse_model
from sollol_agents.lab.emulator.node import resolve_preset
from sollol_agents.lab.emulator.presets import PRESETS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (30, 30.0),
        (-1, math.inf),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("-1m", math.inf),
        ("0", 0.0),
    ],
)
def test_a_keep_alive_is_read_as_ollama_reads_it(value: object, seconds: float | None) -> None:
    assert wire.keep_alive_s(value) == seconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("soon", 'time: invalid duration "soon"'),
        ([], "invalid type for keep_alive: []"),
    ],
)
def test_a_wrong_keep_alive_is_refused_with_its_text(value: object, message: str) -> None:
    with pytest.raises(wire.BadRequestError) as caught:
        wire.keep_alive_s(value)
    assert str(caught.value) == message


def test_an_empty_body_has_its_own_text() -> None:
    with pytest.raises(wire.BadRequestError, match="missing request body"):
        wire.parse(b"", wire.ChatRequest)


def test_an_instant_is_written_with_nanoseconds() -> None:
    assert wire.rfc3339(dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)) == "2026-01-02T03:04:05.000000000Z"


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
