"""What the dispatcher learnt about a request by looking at it: the scorer never sees the prompt itself."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from sollol_schemas.units import Tokens


class RequestKind(StrEnum):
    """Which public subject a request came in on."""

    GENERATE = "generate"
    CHAT = "chat"
    EMBED = "embed"
    PASSTHROUGH = "passthrough"


class Ability(StrEnum):
    """What a model can do, in the words of Ollama's lists."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"
    THINKING = "thinking"
    TOOLS = "tools"
    INSERT = "insert"  # text between a prompt and a suffix
    VISION = "vision"
    AUDIO = "audio"


class ComplexityClass(StrEnum):
    """How heavy a request is, by its prompt's size and turns."""

    SIMPLE = "simple"  # fewer than 500 tokens
    MEDIUM = "medium"
    COMPLEX = "complex"  # long, or a long conversation of several turns


class TaskContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The facts about one request that a decision needs; no prompt text."""

    kind: RequestKind
    model: str
    """The model's name as the caller wrote it."""
    path: str = ""
    """Of what is passed through, the path, where it is a known one."""
    task_type: str = "generation"
    coding_category: str | None = None
    complexity_class: ComplexityClass = ComplexityClass.SIMPLE
    prompt_tokens: Tokens = 0
    """Estimated, at about four characters a token."""
    max_output_tokens: Tokens | None = None
    """The caller's own limit (`num_predict`, `max_tokens`), when it gave one."""
    num_ctx: Tokens | None = None
    """The context length the caller asked for, when it gave one."""
    is_load_only: bool = False
    """An empty prompt: Ollama's idiom to load (or, with keep_alive 0, unload) a model."""
    prefix_hashes: tuple[str, ...] = ()
    """Hashes of the growing prefixes of the prompt's blocks, shortest first."""
    prefix_tokens: tuple[int, ...] = ()
    """Estimated tokens up to the end of each hashed prefix."""
    needs: tuple[Ability, ...] = ()
    """What the model must be able to do, in the order in which an engine looks."""
    has_images: bool = False
    has_tools: bool = False
    job_id: str = ""
    """The job that the request is a try of."""

    @property
    def is_embedding(self) -> bool:
        """Whether the request makes no output tokens."""
        return self.task_type == "embedding"

    @property
    def category(self) -> str:
        """What kind of work it is, by which models are told apart."""
        return self.coding_category or self.task_type
