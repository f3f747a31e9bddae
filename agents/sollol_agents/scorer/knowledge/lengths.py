"""Expected output lengths, learnt per model, task and prompt size.

The table holds means of log lengths. A cell with few samples leans on its parent: (model, task, prompt
bucket) on (model, task) on (task), which leans on a prior. The prompt's length explains about two thirds of
the variance of chat answers and next to nothing of code completions, so more features would not pay.
"""

from __future__ import annotations

import math
from collections import OrderedDict

_PRIOR_TOKENS = {
    "embedding": 0.0,
    "classification": 20.0,
    "extraction": 80.0,
    "summarization": 150.0,
    "analysis": 300.0,
    "generation": 180.0,
    "coding": 400.0,
}
_DEFAULT_TOKENS = 180.0
_PRIOR_LOG = {task: math.log(tokens) for task, tokens in _PRIOR_TOKENS.items() if tokens}
_DEFAULT_LOG = math.log(_DEFAULT_TOKENS)
_LEAN = 4.0  # samples that a parent counts for
_MIN_ALPHA = 0.05
_LIMIT = 4096


class _Cell:
    __slots__ = ("mu", "n")

    def __init__(self, mu: float) -> None:
        self.mu = mu
        self.n = 0

    def learn(self, value: float) -> None:
        self.n += 1
        self.mu += max(_MIN_ALPHA, 1.0 / self.n) * (value - self.mu)


_Key = tuple[str, ...]


class LengthTable:
    """Median output lengths; bounded at 4,096 cells, of which those go that learnt nothing for longest.

    Callers name the task types: a flood of made-up ones must not end the learning about real ones.
    """

    def __init__(self) -> None:
        self._cells: OrderedDict[_Key, _Cell] = OrderedDict()

    def median_tokens(self, model: str, task_type: str, prompt_tokens: int) -> float:
        """Expected median of output tokens; 0 for embeddings, otherwise >= 1."""
        if task_type == "embedding":
            return 0.0
        mu = _PRIOR_LOG.get(task_type, _DEFAULT_LOG)
        for key in _lineage(model, task_type, prompt_tokens):
            cell = self._cells.get(key)
            if cell is not None:
                mu = (cell.n * cell.mu + _LEAN * mu) / (cell.n + _LEAN)
        return max(1.0, math.exp(mu))

    def cells(self) -> list[tuple[tuple[str, ...], int, float]]:
        """Every cell: what it is about, its samples, and the mean of their log lengths."""
        return [(key, cell.n, cell.mu) for key, cell in self._cells.items()]

    def restore(self, key: tuple[str, ...], samples: int, mean_log: float) -> None:
        """Goes on from a cell of a former process; a cell of this one stays."""
        if key not in self._cells and len(self._cells) < _LIMIT:
            cell = self._cells[key] = _Cell(mean_log)
            cell.n = samples

    def learn(self, model: str, task_type: str, prompt_tokens: int, output_tokens: int) -> None:
        """Takes one complete answer's length as a sample; answers cut by a limit should not be given."""
        if task_type == "embedding" or output_tokens < 1:
            return
        value = math.log(output_tokens)
        for key in _lineage(model, task_type, prompt_tokens):
            cell = self._cells.get(key)
            if cell is None:
                if len(self._cells) >= _LIMIT:
                    self._cells.popitem(last=False)
                cell = self._cells[key] = _Cell(value)
            cell.learn(value)
            self._cells.move_to_end(key)


def _lineage(model: str, task_type: str, prompt_tokens: int) -> tuple[_Key, _Key, _Key]:
    bucket = str(max(1, prompt_tokens).bit_length())
    return (task_type,), (model, task_type), (model, task_type, bucket)
