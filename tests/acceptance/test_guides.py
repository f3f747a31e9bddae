"""The guides are walked as a newcomer would: every marked command, in order, in a shell of its own and an empty home.

A comment in front of a `console` block says what to do with its `$ ` lines, and which words must appear:

- `<!-- run: word | word -->` runs them; each must succeed.
- `<!-- run until: word -->` repeats them until the words appear, as somebody would who knows that it takes a moment.
- `<!-- run exit 1: word -->` expects that exit code of the last one.
- `<!-- run terminal NAME: word -->` leaves the command running, as in a terminal of its own;
  `<!-- end terminal NAME -->` is Ctrl-C there.

Ports are replaced by free ones, by the settings that the first guide names and where a command spells one out.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.servers import deployed

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
PRACTICE = "practice-fleet.md"
ON_THE_PRACTICE_FLEET = (
    "modes.md",
    "model-groups.md",
    "jobs-and-batches.md",
    "migrating.md",
    "troubleshooting.md",
    "other-languages.md",
)
WITH_THEIR_OWN = ("first-node.md", "many-nodes.md", "keeping-it-running.md")
TOOLS = {"keeping-it-running.md": ("sqlite3", "tar")}
ADDRESS_IN_FILES = ("many-nodes.md",)
"""Guides whose commands take the server's address from the files that they make."""
OF_TWO_SITES = "sites.md"
ON_WINDOWS = "windows.md"
OF_SLEEPERS = "sleeping-machines.md"
"""Takes a machine that can be switched off; what it says is tested by `integration/test_sleepers.py`."""
DEPLOY = GUIDES.parents[1] / "deploy"

PATIENCE_S = 30.0
COMMAND_S = 60.0
ASKED = """curl -sS http://127.0.0.1:%s/api/generate -d '{"model": "countdown", "prompt": "count 2"}'"""
MARK = "newcomer-has-seen-it"

_STEP = re.compile(
    r"^<!-- (?P<verb>run|end)(?P<how>[^:\n]*?)(?:: (?P<words>[^\n]*?))? -->\n+(?:```console\n(?P<block>.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)
_PORT = re.compile(r"\b(4222|8000|11501|11502)\b")

pytestmark = [
    pytest.mark.skipif(not GUIDES.is_dir(), reason="the documents are in the checkout only"),
]


class Step(NamedTuple):
    """One marked place of a guide."""

    verb: str
    how: list[str]
    words: list[str]
    commands: list[str]

    @property
    def exit_code(self) -> int:
        return int(self.how[self.how.index("exit") + 1]) if "exit" in self.how else 0


def steps_of(guide: Path) -> list[Step]:
    """What a guide tells to do, in order."""
    found = []
    for match in _STEP.finditer(guide.read_text(encoding="utf-8")):
        words = [word.strip() for word in (match["words"] or "").split(" | ") if word.strip()]
        found.append(Step(match["verb"], match["how"].split(), words, commands_of(match["block"] or "")))
    return found


def commands_of(block: str) -> list[str]:
    """The commands of a block, each with its here-document; the other lines are what it prints."""
    commands: list[str] = []
    closing = ""
    for line in block.splitlines():
        if closing:
            commands[-1] += f"\n{line}"
            if line == closing:
                closing = ""
        elif line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
            here = re.search(r"<<'(\w+)'", line)
            closing = here[1] if here else ""
    return commands


class Terminal(NamedTuple):
    """A command that stays, and who reads what it says."""

    process: subprocess.Popen[bytes]
    reader: threading.Thread


class Newcomer:
    """Somebody with a shell, some terminals, an empty home and free ports."""

    def __init__(self, home: Path, ports: dict[str, str], *, names_address: bool = True) -> None:
        self.home = home
        self.ports = ports
        self.terminals: dict[str, Terminal] = {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SOLLOL_", "XDG_"))}
        self.for_terminals = kept | {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "SOLLOL_UP_NATS_PORT": ports["4222"],
            "SOLLOL_UP_HTTP_PORT": ports["8000"],
            "SOLLOL_UP_DASHBOARD_PORT": "0",
        }
        address = {"SOLLOL_NATS": f"nats://127.0.0.1:{ports['4222']}"} if names_address else {}
        self.for_commands = self.for_terminals | address
        self.shell = self._start(["bash"], self.for_commands)

    def walk(self, guide: Path) -> int:
        """Does everything that a guide says; how many commands that were."""
        count = 0
        for step in steps_of(guide):
            commands = [_PORT.sub(lambda match: self.ports[match[0]], command) for command in step.commands]
            if step.verb == "end":
                self.end_terminal(step.how[-1])
            elif "terminal" in step.how:
                self.open_terminal(step.how[-1], commands[0], step.words)
            else:
                self.run(step, commands)
            count += len(commands)
        return count

    def run(self, step: Step, commands: list[str]) -> None:
        """Runs commands in the shell until the words of the step appear."""
        give_up = time.monotonic() + (PATIENCE_S if "until" in step.how else 0)
        while True:
            said = ""
            for number, command in enumerate(commands):
                text, code = self.ask(command)
                said += text
                expected = step.exit_code if number == len(commands) - 1 else 0
                if "until" not in step.how:
                    assert code == expected, f"$ {command}\n{text}\nexit code {code}, the guide says {expected}"
            missing = [word for word in step.words if word not in said]
            if not missing:
                return
            assert time.monotonic() < give_up, f"$ {commands[-1]}\n{said}\ndoes not say {missing}"

    def ask(self, command: str) -> tuple[str, int]:
        """What a command says, and its exit code."""
        assert self.shell.stdin is not None
        script = f"{{ {command}\n}} < /dev/null\nprintf '\\n{MARK} %s\\n' $?\n"
        self.shell.stdin.write(script.encode())
        self.shell.stdin.flush()
        said = read_until(self.shell, [f"{MARK} "], COMMAND_S, command)
        text, _, code = said.rpartition(f"\n{MARK} ")
        return text, int(code)

    def open_terminal(self, name: str, command: str, words: list[str]) -> None:
        """Starts a command that stays, and waits for its words."""
        environ = self.for_terminals if command.startswith("sollol up") else self.for_commands
        process = self._start(["bash", "-c", f"exec env {command}"], environ)
        try:
            read_until(process, words, COMMAND_S, command)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert process.stdout is not None
        # nobody reads on, and a full pipe would stop what runs there
        reader = threading.Thread(target=process.stdout.read, name=f"terminal {name}")
        reader.start()
        self.terminals[name] = Terminal(process, reader)

    def end_terminal(self, name: str) -> None:
        """Presses Ctrl-C in a terminal and waits for the prompt."""
        process, reader = self.terminals.pop(name)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=COMMAND_S)
        reader.join(COMMAND_S)
        process.communicate()
        assert code == 0, f"terminal {name} ended with {code}"

    def leave(self) -> None:
        """Closes the shell, and the terminals from the last to the first."""
        self.shell.communicate(timeout=COMMAND_S)
        failed = []
        for name in reversed(list(self.terminals)):
            try:
                self.end_terminal(name)
            except AssertionError as error:
                failed.append(str(error))
        assert not failed

    def _start(self, argv: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv, cwd=self.home, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


def read_until(process: subprocess.Popen[bytes], words: list[str], limit_s: float, command: str) -> str:
    """What a process says until all words are in it and the line is whole."""
    assert process.stdout is not None
    give_up = time.monotonic() + limit_s
    said = ""
    while not (said.endswith("\n") and all(word in said for word in words)):
        left_s = give_up - time.monotonic()
        assert left_s > 0, f"$ {command}\n{said}\ndoes not say {words} within {limit_s:g} s"
        if select.select([process.stdout], [], [], left_s)[0]:
            data = os.read(process.stdout.fileno(), 1 << 16)
            assert data, f"$ {command}\n{said}\nended before it said {words}"
            said += data.decode(errors="replace")
    return said


class Site(Newcomer):
    """Somebody at one of two sites: what listens there does so on ports of its own."""

    def __init__(self, home: Path, door: int, engine_url: str) -> None:
        (home / "deploy").mkdir(parents=True)
        super().__init__(home, free_ports())
        self.for_commands |= {
            "SOLLOL_GATEWAY_PORT": self.ports["8000"],
            "SOLLOL_UP_LOCAL_NODE": "false",
            "SOLLOL_NODE_URL": engine_url,
            "SOLLOL_NODE_ID": home.name,
        }
        self.for_terminals = self.for_commands
        listens = {"port: 4222": int(self.ports["4222"]), "port: 7422": door}
        text = asyncio.run(deployed(DEPLOY, f"{home.name}.conf", listens))
        text = text.replace("nats-leaf://hub:7422", f"nats-leaf://127.0.0.1:{door}")
        (home / "deploy" / f"{home.name}.conf").write_text(text, encoding="utf-8")

    def set_up(self, section: str) -> None:
        """Gives each command of a section a terminal of its own."""
        for number, command in enumerate(commands_of(section)):
            with_ports = _PORT.sub(lambda match: self.ports[match[0]], command).replace("/var/lib/nats", "nats")
            words = ["Server is ready"] if "nats-server" in command else ["ready"]
            self.open_terminal(f"{self.home.name}-{number}", f"env {with_ports}", words)


def free_ports() -> dict[str, str]:
    """A free port for each that the guides name."""
    return {named: str(free_port()) for named in ("4222", "8000", "11501", "11502")}


@pytest.fixture(scope="module")
def on_the_practice_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path_factory.mktemp("practice"), free_ports())
    try:
        assert newcomer.walk(GUIDES / PRACTICE) >= 6
        yield newcomer
    finally:
        newcomer.leave()


@pytest.mark.parametrize("name", ON_THE_PRACTICE_FLEET)
def test_every_command_works_on_the_practice_fleet(on_the_practice_fleet: Newcomer, name: str) -> None:
    assert on_the_practice_fleet.walk(GUIDES / name) >= 2


@pytest.mark.parametrize("name", WITH_THEIR_OWN)
def test_every_command_works_from_nothing(tmp_path: Path, name: str) -> None:
    missing = [tool for tool in TOOLS.get(name, ()) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    newcomer = Newcomer(tmp_path, free_ports(), names_address=name not in ADDRESS_IN_FILES)
    try:
        assert newcomer.walk(GUIDES / name) >= 5
    finally:
        newcomer.leave()


def test_every_guide_is_walked() -> None:
    walked = {PRACTICE, *ON_THE_PRACTICE_FLEET, *WITH_THEIR_OWN}
    read_as_programs = {path.name for path in GUIDES.glob("migrating-from-*.md")}  # by test_porting_guides
    read = {OF_TWO_SITES, ON_WINDOWS, OF_SLEEPERS}
    assert {path.name for path in GUIDES.glob("*.md")} == walked | read_as_programs | read


def test_two_sites_are_joined_as_the_guide_says(tmp_path: Path) -> None:
    text = (GUIDES / OF_TWO_SITES).read_text(encoding="utf-8")
    door = int(free_ports()["4222"])
    with ExitStack() as open_sites:
        engine = Newcomer(tmp_path, free_ports())
        open_sites.callback(engine.leave)
        engine.open_terminal("engine", f"sollol emulate --preset instant --port {engine.ports['11501']}", ["ready"])
        for name in ("hub", "leaf"):
            site = Site(tmp_path / name, door, f"http://127.0.0.1:{engine.ports['11501']}")
            open_sites.callback(site.leave)
            site.set_up(text.partition(f"## The {name}\n")[2].partition("\n## ")[0])
        both = Step("run", ["until"], ["hub", "leaf", "up"], [])
        site.run(both, ["sollol nodes"])
        site.run(Step("run", [], ["response"], []), [ASKED % site.ports["8000"]])
