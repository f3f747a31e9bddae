"""The options of a request: their types, and those of them that decide how a model is loaded."""

from __future__ import annotations

import math
from typing import Any, Final

from sollol_agents.lab.emulator.refusals import RefusalError
from sollol_agents.lab.emulator.scheduler import RunnerOptions

_LOADING: Final = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict")
_INTEGERS: Final = frozenset((*_LOADING, "num_keep", "seed", "num_predict", "top_k", "repeat_last_n"))
_PENALTIES: Final = ("repeat_penalty", "presence_penalty", "frequency_penalty")
_FLOATS: Final = frozenset((*_PENALTIES, "temperature", "top_p", "min_p", "typical_p"))
_LARGEST_SINGLE: Final = 3.5e38


def read_options(given: dict[str, Any] | None, of_model: dict[str, Any]) -> dict[str, Any]:
    """Returns the options in force: a request's before the model's, null as though it were not there.

    Raises:
        RefusalError: with a status of 500, as Ollama has it, when one is of the wrong type.
    """
    if not given:
        return of_model
    return of_model | {name: _read(name, value) for name, value in given.items() if value is not None}


def _read(name: str, value: Any) -> Any:  # noqa: ANN401 - an option of any type
    is_number = type(value) in {int, float}
    if name in _INTEGERS:
        if not is_number:
            raise RefusalError(f'option "{name}" must be of type integer', 500)
        return int(value)
    if name in _FLOATS:
        if not is_number:
            raise RefusalError(f'option "{name}" must be of type float32', 500)
        return value if abs(value) < _LARGEST_SINGLE else math.copysign(math.inf, value)
    if name == "use_mmap" and not isinstance(value, bool):
        raise RefusalError('option "use_mmap" must be of type boolean', 500)
    if name == "stop":
        if not isinstance(value, list):
            raise RefusalError('option "stop" must be of type array', 500)
        if not all(isinstance(one, str) for one in value):
            raise RefusalError('option "stop" must be of an array of strings', 500)
    return value


def check_finite(options: dict[str, Any]) -> None:
    """Makes sure that the engine can be told every number.

    Raises:
        RefusalError: one is beyond 32 bits.
    """
    for name in _FLOATS & options.keys():
        if math.isinf(options[name]):
            sign = "+" if options[name] > 0 else "-"
            text = f"failed to marshal chat template request: json: unsupported value: {sign}Inf"
            raise RefusalError(text, 500, is_late=True)


def runner_options(options: dict[str, Any], *, shifts: bool = True) -> RunnerOptions:
    """Returns those options that decide how a model is loaded."""
    given = {name: options[name] for name in (*_LOADING, "use_mmap") if name in options}
    return RunnerOptions(**given, shift=shifts)
