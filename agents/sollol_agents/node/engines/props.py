"""What llama.cpp's server says of itself and of its one model. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

_THINKS: Final = re.compile(r"enable_thinking|reasoning_content|<think>")


class _Settings(msgspec.Struct):
    n_ctx: Any = None


class Props(msgspec.Struct):
    """What `/props` answers."""

    total_slots: Any = None
    default_generation_settings: _Settings = msgspec.field(default_factory=_Settings)
    build_info: str = ""
    modalities: dict[str, Any] = {}
    chat_template: Any = None
    chat_template_caps: dict[str, Any] = {}

    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, in Ollama's words; nothing when the server is too old to tell what it sees."""
        if "vision" not in self.modalities:
            return ()
        thinks = isinstance(self.chat_template, str) and _THINKS.search(self.chat_template) is not None
        able = {
            "completion": True,
            "tools": self.chat_template_caps.get("supports_tools"),
            "thinking": thinks or self.chat_template_caps.get("supports_preserve_reasoning"),
            "vision": self.modalities.get("vision"),
            "audio": self.modalities.get("audio"),
        }
        return tuple(name for name, is_able in able.items() if is_able is True)
