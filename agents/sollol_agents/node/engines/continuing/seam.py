"""The place where the rest joins what was said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sollol_agents.node.engines.continuing.marks import Marks

Look = Callable[[str], Awaitable[Sequence[str]]]
"""Tells what a model may say next, likeliest first."""
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


async def joined(look: Look, before: str, said: str, likely: Sequence[str] = ()) -> str:
    """A text behind what stands before it, with the blanks between them that an engine took off.

    Args:
        look: Tells what the model may say behind a text, likeliest first.
        before: What the model has read.
        said: The text as it came.
        likely: What it may say there, where that is known already.
    """
    blanks = ""
    for _ in range(LOOKS_MAX if said and not said[0].isspace() else 0):
        likely = likely or await look(before + blanks)
        found = lost_blanks(said, likely)
        if found is not None:
            return before + blanks + found + said
        blanks, likely = blanks + likely[0], ()
    return before + said


async def with_thought(look: Look, rendered: str, thinking: str, text: str, marks: Marks, *, trims: bool) -> str:
    """A prompt with a thought behind it, and the text after that if it has begun, as the model wrote them.

    Blanks behind the two marks are taken off as far as the template has them there; those before the second are not.

    Args:
        look: As for `joined`.
        rendered: The prompt.
        thinking: The thought.
        text: Empty while the thought is not over.
        marks: Of the thought.
        trims: Whether all blanks behind the marks are taken off.
    """
    opening = marks.opening.rstrip() if thinking else marks.opening
    if trims or opening != marks.opening:
        whole = await joined(look, rendered + opening, thinking)
    else:
        whole = rendered + opening + thinking
    return await joined(look, whole + marks.close, text) if text else whole


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
