"""The models that the recordings of a real Ollama were made with.

All but one are the generated countdown model, in files that differ by their template, or with a Modelfile's lines
beside them; `smollm2` stands for a language model. Digests are those of the real files where the recordings tell them.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from sollol_agents.lab.emulator.models import COUNTDOWN_PARAMETERS, ModelSpec, build_model

COUNTDOWN_BLOB: Final = "3565bf67443417c3341036cd7a72838b24687f9a4487c3d3a2f177819392ca1c"
COUNTDOWN_FILE: Final = "sha256:79e782ee2211b10fa3c88cc9c8db5b28d65bedc8b724d7f536628089791cd821"
"""The file that the countdown model is made of; it becomes `COUNTDOWN_BLOB`."""

_SLOW_PARAMETERS: Final = 25_000_000
_TALKER_PARAMETERS: Final = 134_520_000
_CHATML: Final = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
)
_WITH_TOOLS: Final = (
    "{{- if .Tools }}{{ .Tools }}{{ end }}{{ range .Messages }}"
    "{{ if .ToolCalls }}<tool_call>{{ .ToolCalls }}</tool_call>{{ end }}{{ .Content }}{{ end }}"
)
_WITH_SUFFIX: Final = "{{ if .Suffix }}<|user|>{{ .Prompt }}<|tool|>{{ .Suffix }}{{ else }}{{ .Prompt }}{{ end }}"


_TEXT: Final = ("completion",)
_VECTORS: Final = ("embedding",)
_JINJA: Final = ("tools", "thinking")


def _file(
    name: str,
    parameters: int = COUNTDOWN_PARAMETERS,
    *,
    abilities: tuple[str, ...] = _TEXT,
    template: str = "countdown",
    blob: str = "",
) -> ModelSpec:
    """Returns a model made of a file alone; /api/tags does not know what its template can do."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return msgspec.structs.replace(
        build_model(name, parameters),
        ctx_tokens=8192,
        capabilities=(_JINJA if template == "countdown" else ()) + abilities,
        tagged=abilities,
        template=template,
        blob=digest[: len(digest) - len(blob)] + blob,
    )


def _with_modelfile(model: ModelSpec, name: str, **lines: object) -> ModelSpec:
    """Returns a model of the same file with lines of a Modelfile."""
    digest = hashlib.sha256(f"{name} from {model.name}".encode()).hexdigest()
    return msgspec.structs.replace(model, name=f"{name}:latest", digest=digest, **lines)


def _with_template(model: ModelSpec, name: str, template: str, *more: str) -> ModelSpec:
    """Returns a model of the same file with a template in Go's form, which tells what it can do."""
    abilities = (*_TEXT, *more)
    return _with_modelfile(model, name, go_template=template, capabilities=abilities, tagged=abilities)


_COUNTDOWN: Final = _file("countdown", blob=COUNTDOWN_BLOB)
# the order of the blobs' names decides which of two idle models goes; this one comes after the countdown's
_BARE: Final = _file("bare", template="chatml", blob="9" * 64)

RECORDED: Final[tuple[ModelSpec, ...]] = (
    _with_modelfile(
        _COUNTDOWN,
        "params",
        options={"num_ctx": 2048, "temperature": 0.5, "stop": ["<|never|>", "<|ever|>"]},
        system="you count",
        turns=({"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}),
        license="none",
    ),
    _file("bareembed", abilities=_VECTORS, template="chatml", blob="9fbb4b"),
    _with_template(_BARE, "infill", _WITH_SUFFIX, "insert"),
    _with_template(_BARE, "gotools", _WITH_TOOLS, "tools"),
    _BARE,
    _file("plain", template="plain"),
    msgspec.structs.replace(
        _with_template(_file("smollm2", _TALKER_PARAMETERS), "smollm2", _CHATML),
        options={"stop": ["<|im_start|>", "<|im_end|>"]},
        is_talker=True,
    ),
    _file("slow", _SLOW_PARAMETERS),
    _file("embed", abilities=_VECTORS, blob="87b923"),
    _COUNTDOWN,
)
"""The oldest first, as on the recorded server."""
