"""Bodies as the emulator reads them: refused at its door when they are not what they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sollol_agents.lab.emulator.refusals import RefusalError
from sollol_agents.requests.ollama import bodies
from sollol_agents.requests.ollama.gojson import BodyError

if TYPE_CHECKING:
    from sollol_agents.requests.ollama.shapes import Struct

_EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")


def read_body(content: bytes, shape: Struct, *, is_openai: bool = False) -> bodies.Body:
    """Returns the fields in a body; see the function of that name that it stands on.

    Raises:
        RefusalError: it is empty, no JSON, or a field is of another type.
    """
    try:
        return bodies.read_body(content, shape, is_openai=is_openai)
    except BodyError as error:
        raise RefusalError(str(error), is_at_door=True) from error


def read_effort(value: str) -> bool | str | None:
    """Returns what OpenAI's level of reasoning means for `think`.

    Raises:
        RefusalError: there is no such level.
    """
    if not value:
        return None
    if value not in _EFFORTS:
        *some, last = (f'"{one}"' for one in _EFFORTS)
        raise RefusalError(
            f'invalid reasoning value: "{value}" (must be {", ".join(some)}, or {last})', is_at_door=True
        )
    return False if value == "none" else value
