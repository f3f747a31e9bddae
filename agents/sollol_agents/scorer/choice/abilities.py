"""What a request needs a model to be able to do, and which models say that they cannot.

Nothing is refused for what is not known: a model without a list of abilities may have any. Of engines that speak
OpenAI's dialect only sight and hearing are known for sure: they make calls of tools out of any template, and do not
tell whether they embed.
"""

from __future__ import annotations

from typing import Final

from sollol_agents.requests.names import in_full
from sollol_schemas.context import Ability, RequestKind, TaskContext
from sollol_schemas.telemetry import EngineKind, InstalledModel

_SENSES: Final = (Ability.VISION, Ability.AUDIO)
_TALKS: Final = (RequestKind.GENERATE, RequestKind.CHAT)
_DEAF: Final = "Multimodal data provided, but model does not support multimodal requests."
_BLIND: Final = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"


def lacking(model: InstalledModel, kind: EngineKind, context: TaskContext) -> Ability | None:
    """The first thing that a request needs and the model says that it cannot do, or None."""
    known = set(model.capabilities)
    if not known:
        return None
    needed = _needed(context)
    if kind is EngineKind.OPENAI:
        needed = tuple(ability for ability in needed if ability in _SENSES)
    elif Ability.EMBEDDING.value not in known:  # what makes pictures, say, may talk as well
        known.add(Ability.COMPLETION.value)
    return next((ability for ability in needed if ability.value not in known), None)


def _needed(context: TaskContext) -> tuple[Ability, ...]:
    """Everything that the request needs: one that talks always needs a model that does."""
    always = Ability.COMPLETION if context.kind in _TALKS else None
    return (always, *context.needs) if always is not None and always not in context.needs else context.needs


def words_of(ability: Ability, context: TaskContext) -> tuple[int, str]:
    """Status and text with which Ollama refuses what a model cannot do."""
    is_generate = context.kind is RequestKind.GENERATE
    match ability:
        case Ability.EMBEDDING:
            return 501, "This server does not support embeddings. Start it with `--embeddings`"
        case Ability.COMPLETION:
            return 400, f'"{context.model}" does not support {"generate" if is_generate else "chat"}'
        case Ability.THINKING:
            return 400, f'"{context.model}" does not support thinking'
        case Ability.TOOLS | Ability.INSERT:
            return 400, f"{in_full(context.model)} does not support {ability.value}"
        case Ability.VISION | Ability.AUDIO:
            return 400, _DEAF if is_generate else _BLIND
