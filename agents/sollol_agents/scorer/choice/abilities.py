"""What a request needs a model to be able to do, and which models say that they cannot.

Nothing is refused for what is not known: a model without a list of abilities may have any. Of engines that speak
OpenAI's dialect only sight and hearing are known for sure: they make calls of tools out of any template, and do not
tell whether they embed.

When no node can do it, an engine that has the model in memory is asked all the same: nobody knows its words better.
Where the model would have to be loaded for a refusal, `words_of` has the words of Ollama.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from sollol_agents.requests.dialects import OLD_EMBED_PATH
from sollol_agents.requests.names import in_full
from sollol_agents.scorer.fleet.nodes import Node
from sollol_schemas.context import Ability, RequestKind, TaskContext
from sollol_schemas.decision import Rejection
from sollol_schemas.decision import RejectionReason as Reason
from sollol_schemas.telemetry import EngineKind, InstalledModel

_UNWANTED: Final = (Reason.NOT_CHOSEN_NODE, Reason.WRONG_LABELS)
_SENSES: Final = (Ability.VISION, Ability.AUDIO)
_TALKS: Final = (RequestKind.GENERATE, RequestKind.CHAT)
_NO_PICTURES: Final = "Multimodal data provided, but model does not support multimodal requests."
_NO_VECTORS: Final = "This server does not support embeddings. Start it with `--embeddings`"
_BLIND: Final = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"


def lacking(model: InstalledModel, kind: EngineKind, context: TaskContext) -> Ability | None:
    """The first thing that a request needs and the model says that it cannot do, or None."""
    known = set(model.capabilities)
    if not known:
        return None
    needed = _needed(context)
    if kind is not EngineKind.OLLAMA:
        needed = tuple(ability for ability in needed if ability in _SENSES)
    elif Ability.EMBEDDING.value not in known:  # what makes pictures, say, may talk as well
        known.add(Ability.COMPLETION.value)
    return next((ability for ability in needed if ability.value not in known), None)


def _needed(context: TaskContext) -> tuple[Ability, ...]:
    """Everything that the request needs: one that talks always needs a model that does."""
    if context.is_load_only:
        return context.needs
    always = Ability.COMPLETION if context.kind in _TALKS else None
    return (always, *context.needs) if always is not None and always not in context.needs else context.needs


def words_of(ability: Ability, context: TaskContext) -> tuple[int, str]:
    """Status and text with which Ollama refuses what a model cannot do."""
    is_generate = context.kind is RequestKind.GENERATE or context.path == "/v1/completions"
    match ability:
        case Ability.EMBEDDING:
            return 500 if context.path == OLD_EMBED_PATH else 501, _NO_VECTORS
        case Ability.COMPLETION:
            return 400, f'"{context.model}" does not support {"generate" if is_generate else "chat"}'
        case Ability.THINKING:
            return 400, f'"{context.model}" does not support thinking'
        case Ability.TOOLS | Ability.INSERT:
            return 400, f"{in_full(context.model)} does not support {ability.value}"
        case Ability.VISION | Ability.AUDIO:
            if is_generate:
                return 400, _of_runner(400, _NO_PICTURES, "invalid_request_error")
            return 500, _of_runner(500, _BLIND, "server_error")


def _of_runner(status: int, message: str, kind: str) -> str:
    """An error of the engine inside Ollama, which passes it on as a text."""
    return msgspec.json.encode({"error": {"code": status, "message": message, "type": kind}}).decode()


def who_would_refuse(model: str, context: TaskContext, judged: Iterable[tuple[Node, Rejection | None]]) -> list[Node]:
    """The nodes that are there and say that their model cannot do this, when nobody is known who might."""
    unable: list[Node] = []
    for node, rejection in judged:
        there = node.installed.get(model)
        if rejection is None or (there is None and node.installed) or rejection.reason in _UNWANTED:
            continue
        if rejection.reason is Reason.WRONG_CAPABILITY:
            unable.append(node)
        elif (
            rejection.reason is Reason.EXCLUDED
            or there is None
            or lacking(there, node.telemetry.engine.kind, context) is None
        ):
            return []
    return unable


def can_refuse(node: Node, model: str, context: TaskContext) -> bool:
    """Whether the node's engine can be asked for its words without a load."""
    return (
        node.is_loaded(model)
        and node.model_slots(node.installed[model]) > 0
        and (node.is_router_free or (context.num_ctx or 0) <= node.loaded_context_tokens(model))
    )
