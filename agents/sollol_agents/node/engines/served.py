"""What servers of OpenAI's dialect say of their models, each in its own words: llama.cpp, vLLM, LM Studio. Pure.

Only what is told is taken. That a model makes text, with no other word, says nothing of what it sees and hears: servers
that know no more than that say it of every model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.decoding import whole
from sollol_agents.node.engines.fingerprints import fingerprint_of
from sollol_agents.node.engines.props import Props
from sollol_schemas.telemetry import InstalledModel, LoadedModel

_LLAMA_CPP: Final = "llama.cpp"
_VLLM: Final = "vllm"
_ABILITIES: Final = {
    "completion": ("completion", "chat", "completion_chat", "text", "llm", "vlm"),
    "tools": ("tools", "tool_use", "function_calling"),
    "thinking": ("thinking", "reasoning"),
    "vision": ("vision", "image", "vlm", "multimodal"),
    "audio": ("audio",),
    "embedding": ("embedding", "embeddings", "embed"),
}
"""The words for what Ollama calls so, in the order in which it tells them."""


class _Meta(msgspec.Struct):
    n_ctx: Any = None
    n_ctx_train: Any = None
    n_params: Any = None
    size: Any = None
    ftype: Any = None
    n_vocab: Any = None
    n_embd: Any = None
    vocab_type: Any = None
    architecture: Any = msgspec.field(default=None, name="general.architecture")


class _Status(msgspec.Struct):
    value: str = ""


class _Details(msgspec.Struct):
    family: Any = None
    quantization_level: Any = None


class _Row(msgspec.Struct):
    """A row of the list that llama.cpp gives beside OpenAI's, in Ollama's form."""

    name: Any = None
    capabilities: Any = None
    details: _Details = msgspec.field(default_factory=_Details)


class Served(msgspec.Struct):
    """A row of `/v1/models`."""

    id: str
    owned_by: Any = None
    meta: _Meta | None = None
    root: Any = None
    """What vLLM serves under this name."""
    max_model_len: Any = None
    max_context_length: Any = None
    status: _Status | None = None
    type: Any = None
    architecture: Any = None
    arch: Any = None
    quantization: Any = None
    capabilities: Any = None
    group: Any = None
    """Of a row that stands for several models, as a gateway lists it: an object."""
    row: _Row | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether it is in memory: always, but for a server that loads on demand and says otherwise."""
        return self.status is None or self.status.value in ("loaded", "sleeping")

    def installed(self, name: str, props: Props | None, engine: str = "") -> InstalledModel:
        """As telemetry tells it under a name.

        Args:
            name: The name.
            props: What its server says of this model alone.
            engine: Whose server it is, where that is known.
        """
        meta, row = self.meta or _Meta(), self.row or _Row()
        families = (self.architecture, self.arch, meta.architecture, row.details.family)
        weights = (self.quantization, meta.ftype, props.model_ftype if props else None, row.details.quantization_level)
        return InstalledModel(
            name=name,
            size_bytes=whole(meta.size),
            parameter_count=whole(meta.n_params),
            family=_first_text(families),
            quantization=_first_text(weights),
            context_length=whole(self.max_model_len) or whole(self.max_context_length) or whole(meta.n_ctx_train),
            capabilities=(props.capabilities() if props else ()) or self._capabilities(),
            fingerprint=self._fingerprint(props, engine),
        )

    def loaded(self, name: str, props: Props | None) -> LoadedModel:
        """As telemetry tells it while it is in memory; the context is a slot's."""
        meta = self.meta or _Meta()
        slot_tokens = whole(props.default_generation_settings.n_ctx) if props else 0
        return LoadedModel(
            name=name,
            size_bytes=whole(meta.size),
            context_length=whole(meta.n_ctx) or slot_tokens or whole(self.max_model_len),
        )

    def _fingerprint(self, props: Props | None, engine: str) -> str:
        """Of what decides an answer: names and places of files do not."""
        if engine == _VLLM:
            return fingerprint_of(engine, self.root or self.id, self.max_model_len)
        meta = self.meta
        if engine != _LLAMA_CPP or meta is None or props is None or not isinstance(props.chat_template, str):
            return ""
        weights = (meta.size, meta.n_params, meta.ftype or props.model_ftype)
        words = (meta.n_vocab, meta.vocab_type, meta.n_embd, meta.n_ctx_train)
        return fingerprint_of(engine, weights, words, props.chat_template)

    def _capabilities(self) -> tuple[str, ...]:
        told = {word.lower() for word in self._words()}
        found = tuple(ability for ability, words in _ABILITIES.items() if not told.isdisjoint(words))
        is_in_full = isinstance(self.architecture, dict) or isinstance(self.capabilities, dict)
        return () if found == ("completion",) and not is_in_full else found

    def _words(self) -> Iterator[str]:
        if isinstance(self.architecture, dict):
            yield from _texts(self.architecture.get("input_modalities"), but="text")
            yield from _texts(self.architecture.get("output_modalities"))
        yield from _texts(self.capabilities)
        yield from _texts(self.row.capabilities if self.row else None)
        yield from _texts([self.type])


class Models(msgspec.Struct):
    """The answer of `/v1/models`."""

    data: list[Served]
    models: Any = None

    def rows(self) -> list[Served]:
        """The models, each with its row of the other list."""
        others = {}
        for one in self.models if isinstance(self.models, list) else ():
            try:
                row = msgspec.convert(one, _Row)
            except msgspec.ValidationError:
                continue
            others[str(row.name)] = row
        return [
            msgspec.structs.replace(one, row=others.get(one.id)) for one in self.data if not isinstance(one.group, dict)
        ]


def _texts(value: Any, but: str = "") -> Iterator[str]:  # noqa: ANN401 whatever an engine put there
    """The words of a list, or those that an object says yes to."""
    if isinstance(value, dict):
        value = [name for name, is_able in value.items() if is_able is True]
    if isinstance(value, list):
        yield from (word for word in value if isinstance(word, str) and word != but)


def _first_text(values: Iterable[Any]) -> str:
    return next((value for value in values if isinstance(value, str) and value), "")
