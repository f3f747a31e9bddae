"""What the porting layer answers with: dictionaries whose items are attributes too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, Self

from sollol_bus.errors import SollolError
from sollol_bus.sdk.job_answer import JobAnswer
from sollol_bus.sdk.results import Answer, Embeddings
from sollol_bus.sdk.routing_told import routing_told
from sollol_schemas.decision import Decision
from sollol_schemas.execution import Figures
from sollol_schemas.routing import Routing


class Result(dict[str, Any]):
    """A dictionary read in whichever way suits: `result["model"]`, `result.model`, `result.get("model")`.

    Where a name is also a method of dictionaries (`items`, `keys`), the attribute is the method. A coroutine may
    `await` it, as it must where `SOLLOL` is asked on a running loop.
    """

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 as many kinds as there are items
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} here; there are: {', '.join(self)}") from None

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def __await__(self) -> Generator[Any, None, Result]:
        return _itself(self).__await__()

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Self:
        """A copy in which mappings inside, also those in lists, are results as well."""
        return cls({name: _nested(value) for name, value in mapping.items()})


async def _itself(result: Result) -> Result:
    return result


def _nested(value: Any) -> Any:  # noqa: ANN401 whatever JSON may hold
    if isinstance(value, Mapping):
        return Result.of(value)
    return [_nested(item) for item in value] if isinstance(value, (list, tuple)) else value


class Rows(list[Result]):
    """A list for programs that do not wait, with the fresh one for those that `await` it."""

    def __init__(self, rows: Iterable[Result], fresh: Callable[[], Coroutine[Any, Any, list[Result]]]) -> None:
        super().__init__(rows)
        self._fresh = fresh

    def __await__(self) -> Generator[Any, None, list[Result]]:
        return self._fresh().__await__()


class Figured(Result):
    """A result for programs that do not wait, with the fresh one for those that `await` it."""

    def __init__(self, found: Mapping[str, Any], fresh: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        super().__init__(found)
        object.__setattr__(self, "_fresh", fresh)

    def __await__(self) -> Generator[Any, None, Result]:
        fresh: Callable[[], Coroutine[Any, Any, Result]] = object.__getattribute__(self, "_fresh")
        return fresh().__await__()


def of_answer(answer: Answer, routing: Routing, *, is_chat: bool, node_url: str = "") -> Result:
    """A whole answer in Ollama's words, with where and why it was made.

    Args:
        answer: The answer.
        routing: What was asked for.
        is_chat: Whether the text stands in `message`, as of a chat, or in `response`.
        node_url: Where the node's engine listens, where the decision does not tell.
    """
    said: dict[str, Any] = {**answer.final, "model": answer.model}
    if is_chat:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        said["message"] = message
        if answer.thinking:
            message["thinking"] = answer.thinking
        if answer.tool_calls:
            message["tool_calls"] = answer.tool_calls
    else:
        said["response"] = answer.text
        if answer.thinking:
            said["thinking"] = answer.thinking
    told = where_and_why(answer.decision, answer.figures, answer.request_id, routing, node_url)
    return Result.of({**said, "done": True, **told})


def of_embeddings(made: Embeddings, routing: Routing, node_url: str = "") -> Result:
    """Vectors with where and why they were made; `embedding` is the first of them."""
    told = where_and_why(made.decision, made.figures, made.request_id, routing, node_url)
    first = made.embeddings[0] if made.embeddings else []
    return Result({"model": made.model, "embeddings": made.embeddings, "embedding": first, **Result.of(told)})


def of_job(answer: JobAnswer, node_url: str = "") -> Result:
    """How a durable job ended: the engine's answer, or `error`, with where and why it was made."""
    made = answer.result
    body = answer.body
    said = body if isinstance(body, dict) else {"response": answer.text}
    decision = made.decision if made is not None else None
    figures = made.figures if made is not None else None
    told = where_and_why(decision, figures, decision.request_id if decision else "", Routing(), node_url)
    state = {"task_id": answer.job_id, "status": answer.state.value, "success": answer.error is None}
    failed = {"error": str(answer.error)} if answer.error is not None else {}
    return Result.of({**said, **told, **state, **failed})


def of_failure(error: SollolError, model: str) -> Result:
    """An item of several that could not be had."""
    return Result(
        model=model, response="", node_id="", node_url="", success=False, error=str(error), code=error.body.code.value
    )


def where_and_why(
    decision: Decision | None, figures: Figures | None, request_id: str, routing: Routing, node_url: str = ""
) -> dict[str, Any]:
    """The fields that say where a request ran and why, as they stand in every answer."""
    wanted = routing.node_id
    if decision is None:
        return {"request_id": request_id, "node_id": "", "node_url": node_url, "routing_decision": {}}
    url = decision.node_url or node_url
    told = routing_told(decision, figures, request_id)
    told |= {"node_url": url, "host": host_of(url) or told["host"], "reasoning": decision.reason}
    return {
        "request_id": request_id,
        "node_id": decision.node_id,
        "node_url": url,
        "routing_decision": {**told, "requested_node": wanted, "selected_node": decision.node_id},
        "_sollol_routing": told,
    }


def host_of(url: str) -> str:
    """`gpu-node-1:11434` of an engine's address."""
    return url.partition("://")[2].partition("/")[0]
