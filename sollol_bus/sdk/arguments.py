"""What a program may pass to the client, checked before anything is sent: Python's words for Python's mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def check_texts(fields: Mapping[str, object]) -> None:
    """Raises `TypeError` for a model or a prompt that is no text."""
    for name in ("model", "prompt"):
        if not isinstance(fields.get(name, ""), str):
            raise TypeError(f"{name} must be a str, not {type(fields[name]).__name__}")


def check_messages(messages: object) -> None:
    """Raises `TypeError` for what is no conversation."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise TypeError(
            "messages must be a list of dicts such as {'role': 'user', 'content': 'hello'}, "
            f"not {type(messages).__name__}"
        )


def check_streamed(fields: Mapping[str, object]) -> None:
    """Raises `TypeError` for a check of what is shown before it is whole."""
    if "check" in fields:
        raise TypeError("check is for generate and chat: a stream is read before it could be checked")
