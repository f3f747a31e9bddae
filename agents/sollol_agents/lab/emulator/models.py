"""Models of the emulated node: how big they are and what they can do."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.requests.names import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sollol_agents.lab.emulator.presets import Preset

_BYTES_PER_PARAMETER: Final = 0.61  # seen for Q4_K_M files from 3B to 70B
_BILLION: Final = 1_000_000_000
_MIB: Final = 1024 * 1024
COUNTDOWN_PARAMETERS: Final = 1_918_208
_SEES: Final = "+vision"
_SIZE_IN_TAG: Final = re.compile(r"^(\d+(?:\.\d+)?)b?(?:-.*)?$")

# largest parameter count in billions: layers, key/value heads, width of a head, width of the model
_SHAPES: Final = (
    (0.01, (2, 2, 64, 256)),
    (0.3, (12, 12, 64, 768)),
    (1.5, (16, 8, 64, 2048)),
    (4.5, (28, 8, 128, 3072)),
    (9.5, (32, 8, 128, 4096)),
    (20.0, (48, 8, 128, 5120)),
    (40.0, (64, 8, 128, 5120)),
    (float("inf"), (80, 8, 128, 8192)),
)


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a node has on disk: weights, which several may share, and what a Modelfile says besides.

    Attributes:
        name: with its tag, as given when it was created.
        parameters: number of weights.
        layers: number of blocks.
        kv_heads: key/value heads.
        head_width: width of one head.
        width: width of the model and of its embeddings.
        ctx_tokens: training context.
        capabilities: as /api/show lists them.
        tagged: as /api/tags lists them, which does not read a template in the file; None: the same.
        digest: of the manifest, 64 hexadecimal digits; equal digests mean equal models.
        blob: of the weights; one runner serves all models of one blob. Empty: those of `digest`.
        template: the Jinja template in the file: `countdown`, `plain`, or `chatml` for none.
        go_template: a template in Go's form, which Ollama renders itself; empty for none.
        options: options of the Modelfile.
        system: system message of the Modelfile.
        turns: first messages of the Modelfile.
        license: license of the Modelfile.
        parent: the model it was made from.
        is_talker: a language model, not the countdown.
    """

    name: str
    parameters: int
    layers: int
    kv_heads: int
    head_width: int
    width: int
    ctx_tokens: int = 131072
    capabilities: tuple[str, ...] = ("completion", "tools", "thinking")
    tagged: tuple[str, ...] | None = None
    digest: str = ""
    blob: str = ""
    template: str = "countdown"
    go_template: str = ""
    options: dict[str, Any] = {}
    system: str = ""
    turns: tuple[dict[str, Any], ...] = ()
    license: str = ""
    parent: str = ""
    is_talker: bool = False

    @property
    def weights(self) -> str:
        """Digest of the weights."""
        return self.blob or self.digest

    @property
    def is_parsed(self) -> bool:
        """True when the engine knows the model's reasoning and calls apart from its text."""
        return self.template == "countdown" and not self.go_template

    @property
    def file_bytes(self) -> int:
        """Size of the file; tiny models are stored in 16 bits, all others in four."""
        if self.parameters < _BILLION // 100:
            return self.parameters * 2
        return int(self.parameters * _BYTES_PER_PARAMETER)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of 16-bit keys and values for one token of context."""
        return 4 * self.layers * self.kv_heads * self.head_width

    @property
    def sees(self) -> bool:
        """True for a model that takes images."""
        return "vision" in self.capabilities

    @property
    def is_embedding(self) -> bool:
        """True for a model that only embeds."""
        return "embedding" in self.capabilities

    @property
    def family(self) -> str:
        """The architecture that Ollama would report."""
        return "nomic-bert" if self.is_embedding and self.parameters != COUNTDOWN_PARAMETERS else "llama"

    @property
    def parameter_size(self) -> str:
        """The parameter count as Ollama writes it, such as "8.0B"."""
        if self.parameters >= _BILLION:
            return f"{self.parameters / _BILLION:.1f}B"
        return f"{self.parameters / 1e6:.2f}M"

    @property
    def quantization(self) -> str:
        """The number format as Ollama writes it."""
        if self.is_talker:
            return "Q4_1"
        return "F16" if self.parameters < _BILLION // 100 else "Q4_K_M"


def build_model(name: str, parameters: int) -> ModelSpec:
    """Returns a model of that many weights; a name with "embed" in it gives an embedding model."""
    billions = parameters / _BILLION
    layers, kv_heads, head_width, width = next(shape for limit, shape in _SHAPES if billions <= limit)
    is_embedding = "embed" in name.lower()
    return ModelSpec(
        name=name if ":" in name.rpartition("/")[2] else f"{name}:latest",
        parameters=parameters,
        layers=layers,
        kv_heads=kv_heads,
        head_width=head_width,
        width=width,
        ctx_tokens=8192 if is_embedding or billions < 0.01 else 131072,
        capabilities=("embedding",) if is_embedding else ("completion", "tools", "thinking"),
        digest=hashlib.sha256(f"{canonical(name)}={parameters}".encode()).hexdigest(),
    )


def parse_model(text: str) -> ModelSpec:
    """Returns the model that a flag describes.

    Args:
        text: `NAME[:TAG]=BILLIONS`, or `NAME:SIZE` with a size such as `8b` or `3.8`
            in the tag; a name without any size is the tiny countdown model. One that ends
            in `+vision` takes images, and says what it would say without them.

    Raises:
        ValueError: the size is not a positive number.
    """
    if text.endswith(_SEES):
        model = parse_model(text.removesuffix(_SEES))
        return msgspec.structs.replace(model, capabilities=(*model.capabilities, "vision"))
    name, has_size, size = text.partition("=")
    if not has_size:
        found = _SIZE_IN_TAG.match(name.rpartition(":")[2].lower()) if ":" in name else None
        return build_model(name, int(float(found[1]) * _BILLION) if found else COUNTDOWN_PARAMETERS)
    try:
        parameters = int(float(size) * _BILLION)
    except ValueError:
        parameters = 0
    if not name or parameters <= 0:
        raise ValueError(f"model: {text!r} is not NAME[:TAG]=BILLIONS with a positive number")
    return build_model(name, parameters)


CATALOGUE: Final = tuple(
    parse_model(text)
    for text in (
        "countdown",
        "nomic-embed-text=0.137",
        "llama3.2:3b=3.2",
        "llama3.1:8b=8.03",
        "qwen2.5:14b=14.8",
        "qwen2.5:32b=32.8",
        "llama3.1:70b=70.6",
    )
)
"""Models that any emulated node can pull, and has by default as far as they fit."""


def default_models(preset: Preset) -> tuple[ModelSpec, ...]:
    """Returns the models of the catalogue whose weights fit the machine."""
    room = preset.memory_mib * _MIB * 9 // 10
    return tuple(model for model in CATALOGUE if model.file_bytes <= room)


def _short(name: str) -> str:
    """Returns a name without what Ollama adds to it by itself."""
    for prefix in ("registry.ollama.ai/", "library/"):
        if name.lower().startswith(prefix):
            name = name[len(prefix) :]
    return name


class ModelStore:
    """The model files on the emulated disk, found by any spelling of their name."""

    def __init__(self, models: Iterable[ModelSpec]) -> None:
        self._models = {canonical(model.name): model for model in models}

    def find(self, name: str) -> ModelSpec | None:
        """Returns the model of that name, or None."""
        return self._models.get(canonical(name))

    def all(self) -> tuple[ModelSpec, ...]:
        """Returns all models, the newest first."""
        return tuple(reversed(self._models.values()))

    def put(self, model: ModelSpec) -> None:
        """Adds a model, in place of one of the same name, whose spelling stays."""
        key = canonical(model.name)
        before = self._models.pop(key, None)
        self._models[key] = msgspec.structs.replace(model, name=before.name if before else _short(model.name))

    def remove(self, name: str) -> bool:
        """Removes a model; False when there was none."""
        return self._models.pop(canonical(name), None) is not None
