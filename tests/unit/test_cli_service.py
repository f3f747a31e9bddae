"""`sollol service install`: the units it writes for systemd and launchd."""

from __future__ import annotations

import plistlib
import shlex
import sys
from pathlib import Path

import pytest

from sollol_agents.cli.__main__ import run
from sollol_agents.cli.commands.service import checked, launchd, systemd
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
