"""Whether the seams of answers that were drawn by chance are right: what follows is what the model might have said.

Nothing is repeated there and nothing is missing, or the piece behind the seam is none of the likeliest.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import httpx

from bench.resume.comparing import events_of, text_of
from bench.resume.questions import Heard, Question

_CANDIDATES: Final = 40
"""What llama.cpp draws from."""
_MARK: Final = b": resumed on "


class Seam(NamedTuple):
    """Where an answer went on."""

    question: Question
    said: str
    piece: str
    """The first one of the rest."""


def seams_of(question: Question, heard: Heard) -> list[Seam]:
    """The seams of an answer, where it tells them: in an event stream, or by the client library."""
    if heard.seams or _MARK not in heard.data:
        return [Seam(question, said, piece) for said, piece in heard.seams]
    blocks, found = heard.data.split(_MARK), []
    for number in range(1, len(blocks)):
        before = Heard(data=b"\n\n".join(_from_event(block) for block in blocks[:number]), content_type=_EVENTS)
        after = Heard(data=_from_event(blocks[number]), content_type=_EVENTS)
        pieces = [text for event in events_of(after) if (text := text_of(_pieces(event)))]
        if pieces:
            found.append(Seam(question, "".join(text_of(_pieces(one)) for one in events_of(before)), pieces[0]))
    return found


_EVENTS: Final = "text/event-stream"


def _from_event(block: bytes) -> bytes:
    """Without the name of the node that stands behind the mark."""
    return block if block.startswith((b"data:", b"event:")) else block.partition(b"\n\n")[2]


def _pieces(event: Any) -> list[Any]:  # noqa: ANN401 whatever the engine says
    """What an event says that is not said again in the events that end parts of an answer."""
    told = event.get("data") if isinstance(event, dict) else None
    kind = told.get("type", "") if isinstance(told, dict) else ""
    return [] if kind and not kind.endswith("delta") else [event]


async def is_likely(http: httpx.AsyncClient, seam: Seam) -> bool:
    """Whether a llama.cpp with the same model might say the piece behind what was said.

    Args:
        http: A client of the engine.
        seam: The seam.
    """
    prompt = seam.question.prompt
    if seam.question.way != "/v1/completions":
        body = {"messages": [{"role": "user", "content": prompt}]}
        prompt = (await http.post("/apply-template", json=body)).raise_for_status().json()["prompt"]
    looked = {"prompt": prompt + seam.said, "n_predict": 1, "n_probs": _CANDIDATES, "temperature": 0}
    told = (await http.post("/completion", json=looked)).raise_for_status().json()
    likely = [one["token"] for one in told["completion_probabilities"][0]["top_logprobs"]]
    return any(one and seam.piece.startswith(one) for one in likely)
