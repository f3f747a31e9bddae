"""The example programs, language by language, in every situation that a caller of the bus may get into.

Each cell of the table in `docs/guides/other-languages.md` is a test. The programs run side by side as soon as the
first cell is looked at, each language one after another; one whose tools are absent is skipped by its name.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import pytest_asyncio

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.processes import Emulator, ProcessFleet, clean_environ
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import QueueFull
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.trust.callers import named
from sollol_bus.trust.standings import StandingStore
from sollol_schemas.inboxes import node_inbox_prefix
from sollol_schemas.subjects import Role

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GUIDE = ROOT / "docs" / "guides" / "other-languages.md"
MODEL, SLOW = "llama3.2:3b", "slow"
PROMPT, ENDLESS = "count down from 5", "count down from 300"
PASSWORD = "let me in"
BUILD_S, RUN_S = 240, 60
JOBS = 50
LANGUAGES = ("sdk", "python", "javascript", "go", "rust", "java", "shell")
TOOLS = {"javascript": "node", "go": "go", "rust": "cargo", "java": "javac", "shell": "nats"}

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are in the checkout only"),
]


class Places(NamedTuple):
    """Where programs are run."""

    fleet: str
    nothing: str
    """A server with nobody behind it."""
    listed: str
    """A fleet whose server has a list of users."""
    members: str
    """A fleet that knows its members, over TLS."""
    ca_file: str
    creds_file: str
    narrow_creds_file: str
    """Of a member that has made all the requests that it may make."""


class Case(NamedTuple):
    """A run of one program, and what it must say."""

    program: str
    arguments: tuple[str, ...]
    says: str
    """A pattern; of the shell only that it is there."""
    is_failure: bool = False
    times: int = 1
    at: Callable[[Places], dict[str, str]] = lambda places: {"SOLLOL_NATS": places.fleet}


def nowhere(places: Places) -> dict[str, str]:
    return {"SOLLOL_NATS": places.nothing}


def without_a_server(_: Places) -> dict[str, str]:
    return {"SOLLOL_NATS": "nats://127.0.0.1:1"}


def as_user(places: Places) -> dict[str, str]:
    return {"SOLLOL_NATS": places.listed, "SOLLOL_NATS_USER": "alice", "SOLLOL_NATS_PASSWORD": PASSWORD}


def as_member(places: Places) -> dict[str, str]:
    credentials = {"SOLLOL_NATS_CREDS_FILE": places.creds_file, "SOLLOL_NATS_TLS_CA_FILE": places.ca_file}
    return {"SOLLOL_NATS": places.members, **credentials}


def as_narrow_member(places: Places) -> dict[str, str]:
    return as_member(places) | {"SOLLOL_NATS_CREDS_FILE": places.narrow_creds_file}


_ANSWER = r'(?:^answer  : 4 3 2 1 0$|^answer  : \{.*"response":" 4 3 2 1 0")'
_WHOLE = r'(?:^whole   : 4 3 2 1 0$|^whole   :\n\{.*"response":" 4 3 2 1 0")'
_STREAM = r'(?:^stream  :.*\n?.* 4 3 2 1 0$|^stream  :\n(?:\{.*"response":" \d".*\n){5})'
CASES = {
    "stream": Case("ask", (MODEL, PROMPT), f"{_WHOLE}(?s:.*){_STREAM}"),
    "decisions": Case("ask", (MODEL, PROMPT), r"decision: .*attic", times=2),
    "404": Case("ask", ("no-such-model", PROMPT), "^404: model 'no-such-model' not found", is_failure=True),
    "400": Case("ask", ("", PROMPT), "^400: model is required", is_failure=True),
    "429": Case(
        # behind the first answer where a scorer took office meanwhile: the minute begins anew with it
        "ask",
        (MODEL, PROMPT),
        r"429: narrow may make .* again in \d+ s",
        is_failure=True,
        at=as_narrow_member,
    ),
    "no fleet": Case("ask", (MODEL, PROMPT), "^503: ", is_failure=True, at=nowhere),
    "deadline": Case("ask", (SLOW, ENDLESS, "1"), "^504: ", is_failure=True),
    "leave": Case("leave", (MODEL, ENDLESS), "^left    : after "),
    "cancel": Case("leave", (MODEL, ENDLESS), "^cancel  : 499$"),
    "50 jobs": Case("jobs", (MODEL, PROMPT, str(JOBS)), _ANSWER, times=JOBS),
    "a job that fails": Case("jobs", ("no-such-model", PROMPT, "1"), "404|unknown_model", is_failure=True),
    "jobs without a fleet": Case("jobs", (MODEL, PROMPT, "1"), "503|no_nodes", is_failure=True, at=nowhere),
    "jobs without a server": Case(
        "jobs", (MODEL, PROMPT, "1"), "(?i)connect|no servers", is_failure=True, at=without_a_server
    ),
    "credentials": Case("ask", (MODEL, PROMPT), f"{_WHOLE}(?s:.*)decision: .*attic.*\n.*decision: ", at=as_member),
    "user and password": Case("ask", (MODEL, PROMPT), f"{_WHOLE}(?s:.*){_STREAM}", at=as_user),
    "TLS": Case("ask", (MODEL, PROMPT), _WHOLE, at=as_member),
    "jobs with credentials": Case("jobs", (MODEL, PROMPT, "2"), _ANSWER, times=2, at=as_member),
    "slow model": Case("ask", (SLOW, PROMPT), f"{_WHOLE}(?s:.*){_STREAM}"),
}
HEADINGS = [name for name in CASES if "job" not in name or name == "50 jobs"]
"""The columns of the table."""


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    said: str


class Runs:
    """Every program of every language, in each of its cases; started together, awaited one by one."""

    def __init__(self, places: Places, folder: Path) -> None:
        self._places = places
        self._folder = folder
        self._turns = asyncio.Semaphore(3)
        self._ready: dict[str, asyncio.Task[Callable[[str], list[str]]]] = {}
        self._runs: dict[tuple[str, str], asyncio.Task[Ended]] = {}

    def begin(self, language: str) -> None:
        """Builds a language's programs and then runs them all."""
        loop = asyncio.get_running_loop()
        self._ready[language] = loop.create_task(BUILDERS[language](self._folder))
        made: dict[tuple[object, ...], asyncio.Task[Ended]] = {}
        for name, case in CASES.items():
            same = (case.program, case.arguments, case.at)
            if same not in made:
                made[same] = loop.create_task(self._run(language, case))
            self._runs[language, name] = made[same]

    async def of(self, language: str, name: str) -> Ended:
        return await self._runs[language, name]

    async def _run(self, language: str, case: Case) -> Ended:
        argv = (await asyncio.shield(self._ready[language]))(case.program)
        async with self._turns:
            return await run([*argv, *case.arguments], environ=case.at(self._places))

    async def aclose(self) -> None:
        tasks = [*self._ready.values(), *self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def places(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Places]:
    folder = tmp_path_factory.mktemp("fleets")
    roles = {"control": Role.CONTROL, "attic": Role.NODE, "laptop": Role.CLIENT, "narrow": Role.CLIENT}
    members = Members(folder, roles)
    config = EmbeddedServerConfig(
        port=0, store_dir=str(folder / "members"), extra_config=members.encrypted_server_config
    )
    users = f'authorization {{ users: [{{ user: alice, password: "{PASSWORD}" }}] }}'
    async with (
        EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nothing"))) as nothing,
        EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "listed"), extra_config=users)) as listed,
        EmbeddedServer(config) as known,
        ProcessFleet(folder) as fleet,
    ):
        await fleet.up()
        for name, model, tps in (("attic", MODEL, "50"), ("cellar", SLOW, "1.5")):
            engine = await emulated(fleet, name, model, tps)
            await fleet.node(name, engine.url, "--slots", "8")
        attic = NodeConfig(
            node_id="attic", engine="ollama", url=(await emulated(fleet, "known", MODEL, "50")).url, slots=8
        )
        tls = known.url.replace("nats:", "tls:")
        alice = BusConfig(url=listed.url, user="alice", password=PASSWORD)
        async with (
            in_process(attic, members.bus_config("control", tls), members.bus_config("attic", tls)),
            in_process(attic, alice, msgspec.structs.replace(alice, inbox_prefix=node_inbox_prefix("attic"))),
        ):
            await narrowed(members.bus_config("control", tls), members.bus_config("narrow", tls))
            yield Places(
                fleet.nats_url,
                nothing.url,
                listed.url,
                tls,
                members.ca_file or "",
                members.creds_file("laptop"),
                members.creds_file("narrow"),
            )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runs(
    places: Places, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Runs]:
    made = Runs(places, tmp_path_factory.mktemp("programs"))
    for language in LANGUAGES:
        if any(f"[{language}-" in item.name for item in request.session.items) and missing(language) is None:
            made.begin(language)
    yield made
    await made.aclose()


@pytest.mark.parametrize("name", CASES, ids=[name.replace(" ", "_") for name in CASES])
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_program(runs: Runs, language: str, name: str) -> None:
    absent = missing(language)
    if absent is not None:
        pytest.skip(f"{absent} is not installed")
    case, ended = CASES[name], await runs.of(language, name)
    assert (ended.code != 0) == case.is_failure, ended.said
    assert len(re.findall(case.says, ended.said, re.MULTILINE)) >= case.times, ended.said
    assert re.search("Traceback|(?i:permissions violation)", ended.said) is None, ended.said


async def test_the_table_of_the_guide_has_these_cells() -> None:
    rows = [
        line.strip("|").split("|") for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    table = [[cell.strip() for cell in row] for row in rows if len(row) == len(HEADINGS) + 1]
    assert table[0][1:] == HEADINGS
    assert [row[1:] for row in table[2:]] == [["✓"] * len(HEADINGS)] * len(LANGUAGES)


@asynccontextmanager
async def in_process(node: NodeConfig, control: BusConfig, own: BusConfig) -> AsyncIterator[None]:
    async with (
        Scorer(ScorerConfig(), control),
        Dispatcher(DispatcherConfig(), control),
        NodeMonitor(node, own),
    ):
        yield


async def narrowed(control: BusConfig, narrow: BusConfig) -> None:
    """Gives a member one request in hours, which it makes."""
    bus = await Bus.connect(control)
    await StandingStore(bus).change(named("narrow", requests_per_minute=0.01))
    await bus.close()
    async with Client(narrow) as client:

        async def is_refused() -> bool:
            try:
                await client.generate(MODEL, PROMPT)
            except QueueFull:
                return True
            return False

        await eventually(is_refused)


async def emulated(fleet: ProcessFleet, name: str, model: str, tps: str) -> Emulator:
    flags = ("--preset", "steady", "--model", f"{model}=3.2", "--preload", model, "--decode-tps", tps)
    return await fleet.emulator(name, *flags, "--parallel", "8")


# -- building -----------------------------------------------------------------------------------------------------


def missing(language: str) -> str | None:
    """The tool without which a language's programs cannot run; None when it is there."""
    tool = TOOLS.get(language)
    return tool if tool is not None and shutil.which(tool) is None else None


Argv = Callable[[str], list[str]]


async def python_of(kind: str) -> Argv:
    return lambda program: [sys.executable, str(EXAMPLES / "python" / f"{program}_{kind}.py")]


async def javascript(_: Path) -> Argv:
    folder = EXAMPLES / "javascript"
    if not (folder / "node_modules").is_dir():
        await build(["npm", "ci", "--silent", "--no-audit", "--no-fund"], folder)
    return lambda program: ["node", str(folder / f"{program}.mjs")]


async def go(folder: Path) -> Argv:
    (folder / "go").mkdir()
    await build(["go", "build", "-o", f"{folder / 'go'}/", "./..."], EXAMPLES / "go")
    return lambda program: [str(folder / "go" / program)]


async def rust(_: Path) -> Argv:
    # the first build takes minutes of two cores; cargo keeps it in examples/rust/target
    if "CI" in os.environ and not (EXAMPLES / "rust" / "target").is_dir():
        pytest.skip("cargo: nothing is built here; `cargo build --manifest-path examples/rust/Cargo.toml` does it")
    await build(["cargo", "build", "--quiet", "--config", "profile.dev.debug=false"], EXAMPLES / "rust")
    target = EXAMPLES / "rust" / "target" / "debug"
    return lambda program: [str(target / ("sollol-example" if program == "ask" else program))]


async def java(_: Path) -> Argv:
    folder = EXAMPLES / "java"
    if not any((folder / "target").glob("*.jar")):
        if shutil.which("mvn") is None:
            pytest.skip("mvn is not installed")
        await build(["mvn", "-q", "dependency:copy-dependencies", "-DoutputDirectory=target"], folder)
    sources = [str(path) for path in folder.glob("*.java")]
    await build(["javac", "-cp", "target/*", "-d", "target/classes", *sources], folder)
    return lambda program: ["java", "-cp", f"{folder}/target/classes:{folder}/target/*", program.capitalize()]


async def shell(_: Path) -> Argv:
    return lambda program: ["sh", str(EXAMPLES / "shell" / f"{program}.sh")]


BUILDERS = {
    "sdk": lambda _: python_of("sdk"),
    "python": lambda _: python_of("plain"),
    "javascript": javascript,
    "go": go,
    "rust": rust,
    "java": java,
    "shell": shell,
}


async def build(argv: list[str], folder: Path) -> None:
    """Builds in a time limit; what cannot be fetched or takes too long is skipped by name."""
    name = argv[0]
    ended = await run(argv, folder, limit_s=BUILD_S)
    if ended is TOO_LATE:
        pytest.skip(f"{name}: not built within {BUILD_S} s")
    if ended.code != 0 and re.search(r"network|ENOTFOUND|ECONNREFUSED|dial tcp|resolve|download|transfer", ended.said):
        pytest.skip(f"{name}: the dependencies cannot be fetched here")
    assert ended.code == 0, ended.said


async def run(
    argv: list[str], folder: Path | None = None, *, limit_s: float = RUN_S, environ: Mapping[str, str] | None = None
) -> Ended:
    """How a program ended, or `TOO_LATE`; whatever it started ends with it."""
    with tempfile.TemporaryFile() as told:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env=clean_environ() | dict(environ or {}),
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
        try:
            await asyncio.wait_for(process.wait(), limit_s)
        except TimeoutError:
            return TOO_LATE
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        told.seek(0)
        assert process.returncode is not None
        return Ended(process.returncode, told.read().decode())


TOO_LATE = Ended(-1, "it did not end in time")
