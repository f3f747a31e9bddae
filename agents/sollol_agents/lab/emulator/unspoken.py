"""What a node without account and cloud says to those who ask for them."""

from __future__ import annotations

from typing import Final

import msgspec

_NO_FORM: Final = "failed to parse multipart form: request Content-Type isn't multipart/form-data"

FIXED_ANSWERS: Final = {
    "/api/me": (503, "account unavailable"),
    "/api/signout": (500, "there was an error signing out"),
    "/api/experimental/web_search": (403, "ollama cloud is disabled: web search is unavailable"),
    "/api/experimental/web_fetch": (403, "ollama cloud is disabled: web fetch is unavailable"),
    "/v1/audio/transcriptions": (400, _NO_FORM),
}
"""Status and text by path."""


def _of_cloud(model: str, description: str, context_length: int, max_output_tokens: int) -> dict[str, object]:
    return {
        "model": f"{model}:cloud",
        "description": description,
        "context_length": context_length,
        "max_output_tokens": max_output_tokens,
    }


RECOMMENDATIONS: Final = msgspec.json.encode(
    {
        "recommendations": [
            _of_cloud(
                "kimi-k2.6",
                "State-of-the-art coding, long-horizon execution, and multimodal agent swarm capability",
                262144,
                262144,
            ),
            _of_cloud("glm-5.1", "Reasoning and code generation", 202752, 131072),
            _of_cloud("qwen3.5", "Reasoning, coding, and agentic tool use with vision", 262144, 32768),
            _of_cloud("minimax-m2.7", "Fast, efficient coding and real-world productivity", 204800, 128000),
            {"model": "gemma4", "description": "Reasoning and code generation locally", "vram_bytes": 12_000_000_000},
            {
                "model": "qwen3.5",
                "description": "Reasoning, coding, and visual understanding locally",
                "vram_bytes": 14_000_000_000,
            },
        ]
    }
)
"""The body of /api/experimental/model-recommendations."""
