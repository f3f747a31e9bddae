"""`sollol service`: the units it writes for systemd and launchd, and what it says and does of them later."""

from __future__ import annotations

import plistlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sollol_agents.cli.__main__ import run
from sollol_agents.cli.commands.service import checked
from sollol_agents.cli.commands.service_manager import Said, State, launchd_state, systemd_state
from sollol_agents.cli.commands.service_units import launchd, systemd
from sollol_bus.errors import ConfigError

ARGV = ["/opt/my env/python", "-m", "sollol_agents.cli", "node", "--label", 'a="50%" $HOME\\']


def test_a_unit_for_systemd_escapes_what_systemd_would_read_otherwise() -> None:
    unit = systemd("sollol-node", ARGV, is_system=True)
    line = next(line for line in unit.text.splitlines() if line.startswith("ExecStart="))
    assert line.startswith('ExecStart="/opt/my env/python" "-m" "sollol_agents.cli" "node" "--label" ')
    assert line.endswith('"a=\\"50%%\\" $$HOME\\\\"')
    assert unit.path == Path("/etc/systemd/system/sollol-node.service")
    assert "WantedBy=multi-user.target" in unit.text
    assert unit.start == "sudo systemctl daemon-reload && sudo systemctl enable --now sollol-node"


def test_a_list_for_launchd_has_the_words_as_they_are() -> None:
    unit = launchd("sollol-up", ARGV, is_system=False)
    values = plistlib.loads(unit.text.encode())
    assert (values["Label"], values["ProgramArguments"], values["RunAtLoad"]) == ("sollol-up", ARGV, True)
    assert unit.path == Path.home() / "Library" / "LaunchAgents" / "sollol-up.plist"
    assert shlex.split(unit.undo)[-1] == str(unit.path)


def test_files_are_named_in_full_and_secrets_are_refused() -> None:
    assert checked(("--config", "a b.toml", "--store-dir=x")) == [
        "--config",
        str(Path("a b.toml").absolute()),
        f"--store-dir={Path('x').absolute()}",
    ]
    for flags in (("--nats-password", "geheim"), ("--nats", "nats://me:geheim@h"), ("--engine-api-key=geheim",)):
        with pytest.raises(ConfigError, match="settings file") as caught:
            checked(flags)
        assert "geheim" not in caught.value.message


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has launchd")
def test_installing_writes_once_renews_what_changed_and_shows_without_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "my config"))
    path = tmp_path / "my config" / "systemd" / "user" / "sollol-node-gpu2.service"
    install = ["service", "install", "node", "--name", "gpu2"]
    assert run([*install, "--print", "--", "--slots", "2"]) == 0
    assert not path.exists()
    shown = capsys.readouterr().out
    told = []
    for flags in (["--", "--slots", "2"], ["--", "--slots", "2"], ["--", "--slots", "3"]):
        assert run([*install, *flags]) == 0
        told.append(capsys.readouterr().out.splitlines())
    assert [lines[0] for lines in told] == [f"wrote {path}", f"already there: {path}", f"renewed {path}"]
    assert told[0][1] == "start it: systemctl --user daemon-reload && systemctl --user enable --now sollol-node-gpu2"
    assert told[0][2].startswith("undo it: systemctl --user disable --now sollol-node-gpu2 && rm ")
    assert '"--slots" "3"' in path.read_text()
    assert '"--slots" "2"' in shown


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("is_system", [False, True], ids=["user", "machine"])
def test_systemd_itself_finds_nothing_wrong_with_a_unit(tmp_path: Path, is_system: bool) -> None:
    argv = [sys.executable, "-m", "sollol_agents.cli", "node", "--label", 'a="50%" $HOME\\']
    path = tmp_path / "sollol-node.service"
    path.write_text(systemd("sollol-node", argv, is_system=is_system).text)
    command = ["systemd-analyze", "--man=no", "--recursive-errors=no", "verify", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, [line for line in told.stderr.splitlines() if path.name in line]) == (0, [])


@pytest.mark.parametrize(
    ("said", "has", "state"),
    [
        pytest.param(Said(0, "ActiveState=active\nSubState=running\n", ""), True, State.RUNS, id="active"),
        pytest.param(Said(0, "ActiveState=activating\nSubState=auto-restart\n", ""), True, State.STARTING, id="again"),
        pytest.param(Said(0, "ActiveState=failed\nSubState=failed\n", ""), True, State.FAILED, id="failed"),
        pytest.param(Said(0, "ActiveState=inactive\nSubState=dead\n", ""), True, State.STOPPED, id="inactive"),
        pytest.param(Said(0, "ActiveState=maintenance\n", ""), True, State.UNKNOWN, id="a-new-word"),
        pytest.param(Said(1, "", "Failed to connect to bus"), True, State.UNKNOWN, id="no-bus"),
        pytest.param(Said(1, "", "Failed to connect to bus"), False, State.NO_MANAGER, id="no-systemd"),
        pytest.param(Said(None, "", "not found"), False, State.NO_MANAGER, id="no-command"),
    ],
)
def test_the_state_is_what_systemd_says(said: Said, has: bool, state: State) -> None:
    assert systemd_state(said, has=has) is state


def test_the_state_is_what_launchd_says() -> None:
    said = [Said(0, "\tstate = running\n", ""), Said(0, "\tstate = waiting\n", ""), Said(113, "", "no such service")]
    assert [launchd_state(each) for each in said] == [State.RUNS, State.STARTING, State.STOPPED]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose `systemctl` writes down what it is told; services run while the file `up` is there."""
    command = tmp_path / "bin" / "systemctl"
    command.parent.mkdir()
    command.write_text(
        f"""#!/bin/sh
        echo "$*" >> {tmp_path}/told
        case "$*" in
            *show*) test -e {tmp_path}/up && echo ActiveState=active || echo ActiveState=inactive ;;
            *stop*) test -e {tmp_path}/stuck && {{ echo 'Access denied' >&2; exit 4; }}; rm {tmp_path}/up ;;
        esac
        """
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has launchd")
def test_a_service_is_shown_and_removed_again(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = machine / "config" / "systemd" / "user" / "sollol-node.service"
    assert run(["service", "status", "node"]) == 1
    assert "no         stopped" in capsys.readouterr().out
    assert run(["service", "uninstall", "node"]) == 0
    assert capsys.readouterr().out == f"not installed: {path}\n"
    assert run(["service", "install", "node"]) == 0
    assert run(["service", "status"]) == 1
    (machine / "up").touch()
    assert run(["service", "status"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["sollol-node", "user", "yes", "runs", str(path)]
    (machine / "told").unlink()
    assert run(["service", "uninstall", "node"]) == 0
    assert capsys.readouterr().out == f"stopped and removed: {path}\n"
    assert not path.exists()
    told = [line.split()[1] for line in (machine / "told").read_text().splitlines()]
    assert told == ["show", "stop", "disable", "daemon-reload"]
    assert run(["service", "status"]) == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has launchd")
def test_a_service_that_does_not_stop_keeps_its_unit(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["service", "install", "up"]) == 0
    for name in ("up", "stuck"):
        (machine / name).touch()
    assert run(["service", "uninstall", "up"]) == 2
    assert "Access denied" in capsys.readouterr().err
    assert (machine / "config" / "systemd" / "user" / "sollol-up.service").exists()
