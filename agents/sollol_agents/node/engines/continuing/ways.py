"""Which way an OpenAI-compatible engine goes on."""

from __future__ import annotations

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing.answer import Way
from sollol_agents.node.engines.continuing.llama_cpp_way import LlamaCppWay
from sollol_agents.node.engines.continuing.refusing import not_continued
from sollol_agents.node.engines.continuing.vllm_way import VllmWay
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.translation.options import Flavour
from sollol_schemas.continuation import ContinueFrom


def way_of(
    flavour: Flavour,
    http: EngineHttp,
    request: EngineRequest,
    said: ContinueFrom,
    *,
    model: str,
    context_length: int,
) -> Way:
    """How this engine goes on with an answer.

    Raises:
        SollolError: `not_continued`: it is not known to be able to.
    """
    match flavour:
        case Flavour.LLAMA_CPP:
            return LlamaCppWay(http, request, said, model=model, context_length=context_length)
        case Flavour.VLLM:
            return VllmWay(http, request, said, model=model, context_length=context_length)
        case Flavour.OTHER:
            raise not_continued("this engine is not known to go on with an answer")
