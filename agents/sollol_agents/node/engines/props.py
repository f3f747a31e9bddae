"""What llama.cpp's server says of itself and of a model. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

_CALLS: Final = re.compile(r"\btools\b")
_NO_BUILD: Final = "b0-unknown"
_THINKS: Final = re.compile(r"enable_thinking|reasoning_content|<think>")


class _Settings(msgspec.Struct):
    n_ctx: Any = None


class Props(msgspec.Struct):
    """What `/props` answers."""

    total_slots: Any = None
    default_generation_settings: _Settings = msgspec.field(default_factory=_Settings)
    build_info: str = ""
    role: Any = None
    model_ftype: Any = None
    modalities: dict[str, Any] = {}
    chat_template: Any = None
    chat_template_caps: dict[str, Any] = {}

    @property
    def version(self) -> str:
        """Which llama.cpp it is; without a number where it was built without one, which it tells as `b0-unknown`."""
        return f"llama.cpp {'' if self.build_info == _NO_BUILD else self.build_info}".strip()

    @property
    def is_router(self) -> bool:
        """Whether the server runs others, one for each model, which tell of themselves."""
        return bool(self.role == "router")

    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, in Ollama's words; nothing when the server is too old to tell what it sees."""
        if "vision" not in self.modalities:
            return ()
        template, caps = self.chat_template if isinstance(self.chat_template, str) else "", self.chat_template_caps
        able = {
            "completion": True,
            "tools": caps.get("supports_tools", _CALLS.search(template) is not None),
            "thinking": _THINKS.search(template) is not None or caps.get("supports_preserve_reasoning"),
            "vision": self.modalities.get("vision"),
            "audio": self.modalities.get("audio"),
        }
        return tuple(name for name, is_able in able.items() if is_able is True)
