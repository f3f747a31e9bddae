"""The place where the rest joins what was said. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sollol_agents.node.engines.continuing.marks import Marks

_ENOUGH: Final = 5
LOOKS_MAX: Final = 3
"""So many tokens of blanks alone may an engine have taken off the beginning of a text."""


def lost_blanks(said: str, likely: Sequence[str]) -> str | None:
    """The blanks that an engine took off the beginning of a text.

    Args:
        said: The text as it came.
        likely: What the model may say there first, likeliest first.

    Returns:
        None when the likeliest beginning is nothing but blanks, which were taken off whole: what follows them tells.
    """
    for index, token in enumerate(likely):
        bare = token.lstrip()
        if token and said.startswith(token):
            return ""
        if bare and said.startswith(bare):
            return token[: len(token) - len(bare)]
        if token and not bare and index == 0:
            return None
    return ""


def is_unlikely(said: str, likely: Sequence[str]) -> bool:
    """Whether a text begins with none of the tokens that the model may say there; false where too few are known."""
    if len(likely) < _ENOUGH:
        return False
    return not any(bare and said.lstrip().startswith(bare) for bare in map(str.lstrip, likely))


def rebuilt(thinking: str, text: str, marks: Marks) -> str:
    """A thought, and the text after it if that has begun, as the model wrote them."""
    opening, closing = marks
    if thinking[:1].isspace():
        opening = opening.rstrip()
    if not text:
        return opening + thinking
    if thinking[-1:].isspace():
        closing = closing.lstrip()
    if text[:1].isspace():
        closing = closing.rstrip()
    return opening + thinking + closing + text


def after_partial(rendered: str, partial: str, text: str) -> str | None:
    """The text without the beginning that the request gave itself; None when that is not all there yet.

    Engines that go on with a trailing message of the assistant say it once more before the rest.

    Args:
        rendered: The prompt, which ends with that beginning where the engine goes on with it.
        partial: The beginning.
        text: What was said.
    """
    if not partial or not rendered.endswith(partial):
        return text
    if text.startswith(partial):
        return text[len(partial) :]
    return None if partial.startswith(text) else text
