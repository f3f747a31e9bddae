"""The form of a recording: cases of requests and answers, and scenarios of requests that depend on each other."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, Final

import msgspec

Json = Any

_REPEAT: Final = re.compile(r"\{\{repeat:(\d+):(.*?)\}\}", re.DOTALL)
# The recorded server and ours count as the same host where a request names it as its Origin.
_HOST: Final = "127.0.0.1:11434"


class Ask(msgspec.Struct, frozen=True):
    """One request; at most one kind of body."""

    method: str
    path: str
    body: msgspec.Raw = msgspec.Raw()
    body_text: str | None = None
    body_base64: str | None = None
    body_file: str | None = None
    chunked: bool = False
    headers: dict[str, str | None] = {}

    def content(self) -> bytes | None:
        """The bytes of the body; None when the request has none."""
        if self.body_base64 is not None:
            return base64.b64decode(self.body_base64)
        if self.body_text is not None:
            return self.body_text.encode("utf-8", "surrogatepass")
        if self.body_file is not None:
            return b"the file itself is not kept"
        return msgspec.json.encode(spelled_out(msgspec.json.decode(self.body))) if self.body else None

    def raw(self) -> bytes:
        """The request as it goes over the wire."""
        content = self.content()
        fields: dict[str, str | None] = {"host": _HOST}
        if content is not None:
            fields["content-type"] = "application/json"
            fields |= {"transfer-encoding": "chunked"} if self.chunked else {"content-length": str(len(content))}
        fields |= {name.lower(): value for name, value in self.headers.items()}
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name.title()}: {value}" for name, value in fields.items() if value is not None]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        if content is None:
            return head
        return head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if self.chunked else content)

    def models(self) -> set[str]:
        """The canonical names of the models that the request names."""
        body = msgspec.json.decode(self.body) if self.body else None
        if not isinstance(body, dict):
            return set()
        names = (body.get(key) for key in ("model", "source", "destination"))
        return {canonical(name) for name in names if isinstance(name, str)}


class CaseStep(msgspec.Struct, frozen=True):
    """A request and what was answered; `derived` holds what was read out of an answer that is cut."""

    request: Ask
    response: dict[str, Json]
    derived: dict[str, Json] = {}


class Case(msgspec.Struct, frozen=True):
    """Requests that follow each other on one connection's worth of state.

    Attributes:
        volatile: values that differ from run to run: `**/key` anywhere, else a JSON pointer into the case.
        server: settings of the server where they are not the default: environment or flags.
    """

    name: str
    group: str
    steps: tuple[CaseStep, ...]
    volatile: tuple[str, ...] = ()
    server: dict[str, str] | str | None = None


class Sent(msgspec.Struct, frozen=True):
    """One of several requests that run beside each other."""

    label: str
    sent_s: float
    request: Ask
    answer: dict[str, Json] | None = None
    client_closed_s: float | None = None
    first_byte_s: float | None = None
    end_s: float | None = None


class ScenarioStep(msgspec.Struct, frozen=True):
    """A request, a wait, or requests beside each other; `loads` counts the runners started since the step before."""

    request: Ask | None = None
    answer: dict[str, Json] | None = None
    wait_s: float | None = None
    concurrent: tuple[Sent, ...] = ()
    loads: int | None = None
    runner_started_with: tuple[dict[str, Json], ...] = ()
    ps: list[dict[str, Json]] | None = None
    ps_after: list[dict[str, Json]] | None = None
    seen: tuple[dict[str, Json], ...] = ()


class Scenario(msgspec.Struct, frozen=True):
    """Steps on a server of their own, started with the environment `env`."""

    name: str
    group: str
    steps: tuple[ScenarioStep, ...]
    env: dict[str, str] = {}


def load_cases(path: Path) -> tuple[Case, ...]:
    """Returns the cases of a file, in the order in which they were recorded; without those of concurrent requests."""
    lines = [line for line in path.read_bytes().splitlines() if b'"concurrent":' not in line]
    return tuple(msgspec.json.decode(line, type=Case) for line in lines)


def load_scenarios(path: Path) -> tuple[Scenario, ...]:
    """Returns the scenarios of a file."""
    return tuple(msgspec.json.decode(line, type=Scenario) for line in path.read_bytes().splitlines())


def spelled_out(value: Json) -> Json:
    """Returns a body in which `{{repeat:N:text}}` is that text N times."""
    if isinstance(value, str):
        return _REPEAT.sub(lambda found: found[2] * int(found[1]), value)
    if isinstance(value, list):
        return [spelled_out(one) for one in value]
    if isinstance(value, dict):
        return {key: spelled_out(one) for key, one in value.items()}
    return value


def canonical(name: str) -> str:
    """Returns a model's name as `/api/ps` shows it."""
    last = name.strip().lower().rpartition("/")[2]
    return last if ":" in last else f"{last}:latest"
