from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from sollol_agents.cli import reading
from sollol_agents.cli.commands.discover import waits_s
from sollol_agents.cli.commands.up import UpConfig, settle_ports
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.cli.settings.section import ConfigFile, Section
from sollol_agents.cli.settings.sections import all_sections, section
from sollol_agents.dashboard.config import DashboardConfig
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import EmulatorConfig
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.machine.gpu import FixedGpus
from sollol_agents.node.machine.sampler import Machine
from sollol_bus.errors import ConfigError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    failures: Annotated[int, Meta(ge=1, description="How many.")] = 5


class Toy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    slots: Annotated[int, Meta(ge=1, le=64, description="Places.")] = 2
    pause_s: Annotated[float, Meta(gt=0, description="Rest.")] = 1.5
    name: str | None = None
    colour: Colour = Colour.RED
    is_loud: Annotated[bool, Meta(description="Noise.")] = False
    tags: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    password: str | None = None
    inner: Inner = Inner()


SECTION = Section("scorer", Toy, flags={"labels": "--label"})
OTHER = Section("other", Toy, flag_prefix="other-")


def written(tmp_path: Path, text: str) -> ConfigFile:
    path = tmp_path / "sollol.toml"
    path.write_text(text)
    return ConfigFile(path)


def test_without_sources_every_default_holds() -> None:
    assert SECTION.load() == Toy()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[scorer]\nslots = 3\npause_s = 3\nname = 'file'")
    loaded = SECTION.load({"slots": "5"}, {"SOLLOL_SCORER_SLOTS": "4", "SOLLOL_SCORER_PAUSE_S": "4"}, file)
    assert (loaded.slots, loaded.pause_s, loaded.name) == (5, 4.0, "file")


@pytest.mark.parametrize(
    ("env", "value", "field", "expected"),
    [
        ("TAGS", "a, b", "tags", ("a", "b")),
        ("TAGS", '["x,y"]', "tags", ("x,y",)),
        ("LABELS", "site=attic,rack=1", "labels", {"site": "attic", "rack": "1"}),
        ("IS_LOUD", "true", "is_loud", True),
        ("COLOUR", "blue", "colour", Colour.BLUE),
        ("INNER_FAILURES", "9", "inner", Inner(failures=9)),
    ],
)
def test_the_environment_fills_every_shape(env: str, value: str, field: str, expected: object) -> None:
    loaded = SECTION.load(environ={f"SOLLOL_SCORER_{env}": value})
    assert getattr(loaded, field) == expected


def test_nested_structs_are_nested_tables_in_the_file(tmp_path: Path) -> None:
    assert SECTION.load(file=written(tmp_path, "[scorer.inner]\nfailures = 7")).inner == Inner(failures=7)


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ({"slots": "0"}, {}, ["--slots", "'0'", "from 1 to 64"]),
        ({}, {"SOLLOL_SCORER_PAUSE_S": "-1"}, ["SOLLOL_SCORER_PAUSE_S", "'-1'", "above 0"]),
        ({"colour": "green"}, {}, ["--colour", "red, blue"]),
        ({"labels": ["nonsense"]}, {}, ["--label", "KEY=VALUE"]),
    ],
)
def test_an_error_names_source_value_and_allowed_range(
    flags: dict[str, object], environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        SECTION.load(flags, environ)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_secret_is_never_shown() -> None:
    class Needs(msgspec.Struct, frozen=True, kw_only=True):
        password: Annotated[str, Meta(min_length=8)] = "long-enough"

    with pytest.raises(ConfigError) as caught:
        Section("nats", Needs).load(environ={"SOLLOL_NATS_PASSWORD": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["[scorer]\nslotz = 3", "[scorer.inner]\nfailurez = 1"])
def test_a_typo_in_the_file_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="has no setting"):
        SECTION.load(file=written(tmp_path, text))


def test_an_unknown_table_in_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[scores\] is not a section"):
        written(tmp_path, "[scores]\nslots = 1").refuse_unknown_sections(("scorer",))


@pytest.mark.parametrize("text", ["[scorer", "scorer = 3"])
def test_a_broken_file_is_a_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"sollol\.toml"):
        SECTION.load(file=written(tmp_path, text))


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        ConfigFile(tmp_path / "absent.toml")


def test_an_unknown_environment_name_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert SECTION.load(environ={"SOLLOL_SCORER_PORT": "tcp://10.0.0.1:80"}) == Toy()
    assert "SOLLOL_SCORER_PORT" in caplog.text


def called(command: Callable[..., Any], words: Sequence[str]) -> Any:
    bound = reading.bound(command, words)
    return command(*bound.args, **bound.kwargs)


def run(*words: str) -> Any:
    @with_settings(toy=SECTION)
    def toy(word: str, *, toy: Toy, count: int = 1) -> tuple[str, int, Toy]:
        """Shows what it got."""
        return word, count, toy

    return called(toy, words)


def test_a_command_gets_the_struct_its_flags_fill() -> None:
    argv = "hello --count 2 --slots 7 --label a=b --label c=d --is-loud --tags x --inner-failures 3"
    word, count, toy = run(*argv.split())
    assert (word, count) == ("hello", 2)
    assert toy == Toy(slots=7, labels={"a": "b", "c": "d"}, is_loud=True, tags=("x",), inner=Inner(failures=3))


def test_a_command_reads_the_settings_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[scorer]\nslots = 9").path
    assert run("hello", "--config", str(path))[2].slots == 9


def test_a_bad_flag_of_a_command_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="--slots"):
        run("hello", "--slots", "many")


def test_a_flag_that_repeats_takes_all_its_objects_as_one_list_too() -> None:
    loaded = Section("emulate", EmulatorConfig).load(
        {"faults": ['[{"kind":"load_error"},{"kind":"load_error"}]']}, {}, None
    )
    assert [one.kind.value for one in loaded.faults] == ["load_error", "load_error"]


def test_options_of_a_command_come_from_its_flags_alone(tmp_path: Path) -> None:
    options = Section("scorer", Toy, is_kept=False)
    file = written(tmp_path, "[scorer]\nslots = 9")
    assert options.load({"slots": "4"}, {"SOLLOL_SCORER_PAUSE_S": "9"}, file) == Toy(slots=4)
    assert {setting.env for setting in options.settings} == {""}


def test_there_are_at_most_142_settings() -> None:
    assert sum(len(one.settings) for one in all_sections()) <= 142


def test_an_empty_text_is_refused_where_the_default_is_another(tmp_path: Path) -> None:
    for flags, environ in (({"host": ""}, {}), ({}, {"SOLLOL_GATEWAY_HOST": ""})):
        with pytest.raises(ConfigError, match="is empty: leave it out"):
            section("gateway", GatewayConfig).load(flags, environ)
    assert section("node", NodeConfig).load({}, {"SOLLOL_NODE_URL": ""}).url == ""


def test_a_flag_may_displace_another_setting_but_not_another_flag(tmp_path: Path) -> None:
    seen: list[Toy] = []

    @with_settings((), {("toy", "name"): ("other", "slots")}, toy=SECTION, other=OTHER)
    def command(*, toy: Toy, other: Toy) -> None:
        seen.append(toy)

    file = tmp_path / "sollol.toml"
    file.write_text("[scorer]\nname = 'file'")
    for flags in (["--other-pause-s", "3"], ["--other-slots", "3"]):
        called(command, ["--config", str(file), *flags])
    assert [toy.name for toy in seen] == ["file", None]
    with pytest.raises(ConfigError, match="--name and --other-slots exclude each other"):
        called(command, ["--name", "x", "--other-slots", "3"])


FORMER = [
    ("up", "dashboard", "SOLLOL_DASHBOARD_ENABLED", "false", False),
    ("up", "local_node", "SOLLOL_DISCOVERY_ENABLED", "0", False),
    ("up", "look_s", "SOLLOL_DISCOVERY_TIMEOUT", "10", 10.0),
    ("node", "read_gpus", "SOLLOL_VRAM_MONITORING", "False", False),
    ("dashboard", "port", "SOLLOL_DASHBOARD_PORT", "9090", 9090),
]


@pytest.mark.parametrize(("name", "field", "env", "text", "value"), FORMER)
def test_names_of_the_environment_that_people_have_set_mean_something(
    name: str, field: str, env: str, text: str, value: object, *, caplog: pytest.LogCaptureFixture
) -> None:
    sections = {one.name: one for one in all_sections()}
    chosen = sections[name]
    assert getattr(chosen.load({}, {env: text}), field) == value
    setting = next(one for one in chosen.settings if one.key == field)
    by_flag = chosen.load({field: str(getattr(chosen.load(), field))}, {env: text})
    assert getattr(by_flag, field) == getattr(chosen.load(), field), "a flag wins"
    if setting.env != env:
        both = chosen.load({}, {env: text, setting.env: str(getattr(chosen.load(), field))})
        assert getattr(both, field) == getattr(chosen.load(), field), "the setting's first name wins"
    with pytest.raises(ConfigError, match=env):
        chosen.load({}, {env: "perhaps"})
    caplog.clear()
    for one in sections.values():
        one.load({}, {env: text})
    assert not caplog.records, "nobody says that it is ignored"


async def test_up_listens_where_gateway_and_dashboard_are_told_to_unless_it_is_told_itself() -> None:
    gateway, dashboard = GatewayConfig(port=8123), DashboardConfig(port=9090)
    assert [one.port for one in await settle_ports(UpConfig(), gateway, dashboard)] == [8123, 9090]
    told = UpConfig(http_port=8124, dashboard_port=9091)
    assert [one.port for one in await settle_ports(told, gateway, dashboard)] == [8124, 9091]


@pytest.mark.parametrize("text", ["soon", "-1", "0", "601", "nan"])
def test_discover_waits_as_long_as_the_environment_says(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SOLLOL_DISCOVERY_TIMEOUT", "7.5")
    assert (waits_s(None), waits_s(3.0)) == (7.5, 3.0)
    monkeypatch.setenv("SOLLOL_DISCOVERY_TIMEOUT", text)
    with pytest.raises(ConfigError, match="SOLLOL_DISCOVERY_TIMEOUT must be above 0"):
        waits_s(None)


def test_a_node_reads_no_gpu_that_it_is_told_to_leave_alone() -> None:
    machine = Machine(NodeConfig(read_gpus=False))
    assert machine._find() == ()
    assert isinstance(machine._probe, FixedGpus)
