"""The two matrices that make the model count down, and the proof that they do.

How it works: the attention-output and ffn-down matrix of every block is zero, so
a block costs its full arithmetic but leaves the residual stream unchanged. What
reaches the head is RMSnorm(embedding(last token)); row v of the head is the sum
of the embeddings of all tokens whose successor is v. With random +-1 embeddings
the successor's logit is `gain` and all others stay near zero, so sampling at any
usual temperature gives the same text. Mean-pooled embeddings are a bag of tokens:
texts that share words have a higher cosine, so embedding endpoints are testable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sollol_agents.lab.engine.vocabulary import AFTER, BLANKS, DEFAULT_NUMBER, SHARES, Vocabulary, successors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Matrices(NamedTuple):
    """Token embedding and head, each (vocabulary, hidden), and the successor of each token."""

    embedding: NDArray[np.float32]
    head: NDArray[np.float32]
    following: NDArray[np.int64]


def build_matrices(vocabulary: Vocabulary, *, hidden: int, gain: float, rng: np.random.Generator) -> Matrices:
    """Returns the embedding and the head of the countdown model.

    Args:
        vocabulary: the tokens.
        hidden: width of the model.
        gain: logit of the successor; all other logits stay far below.
        rng: source of the +-1 codes; the same seed gives the same model.
    """
    import numpy as np  # noqa: PLC0415 - belongs to the extra `engine`

    following = np.array(successors(vocabulary), dtype=np.int64)
    # the norm of a +-1 vector is sqrt(hidden), its RMS is 1: RMSnorm leaves it as it is
    embedding = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=(len(vocabulary), hidden))
    head = np.zeros((len(vocabulary), hidden), dtype=np.float32)
    default = vocabulary.numbers[DEFAULT_NUMBER - 1]
    plain = (following == default) & (np.arange(len(vocabulary)) != vocabulary.numbers[DEFAULT_NUMBER])
    # Most tokens share the default successor: half of their dimensions are one common code,
    # which the successor's head row reads; the other half stays the token's own.
    code = np.zeros(hidden, dtype=np.float32)
    code[: hidden // 2] = rng.choice([-1.0, 1.0], size=hidden // 2)
    embedding[plain, : hidden // 2] = code[: hidden // 2]
    head[default] += 2.0 * code
    for token in np.flatnonzero(~plain):
        head[following[token]] += embedding[token]
    _add_lesser_choices(head, embedding, code, vocabulary)
    head *= gain / hidden
    return Matrices(embedding, head, following)


def _add_lesser_choices(
    head: NDArray[np.float32],
    embedding: NDArray[np.float32],
    code: NDArray[np.float32],
    vocabulary: Vocabulary,
) -> None:
    """Adds what the model says when a grammar forbids its first choice."""
    index = vocabulary.index()
    for text, share in SHARES:
        head[index[text]] += share * 2.0 * code
    for text, choices in AFTER.items():
        for choice, share in choices:
            head[index[choice]] += share * embedding[index[text]]
    closers: Any = sum(embedding[index[text]] for text in AFTER)
    for text in BLANKS:
        head[index[text]] -= 1.0 * code + 0.5 * closers
    head[index["<tool_call>"]] += 0.5 * embedding[vocabulary.numbers[0]]


def count_wrong_successors(matrices: Matrices) -> int:
    """Returns for how many tokens the head would not choose the successor; 0 for a usable model."""
    import numpy as np  # noqa: PLC0415 - belongs to the extra `engine`

    embedding = matrices.embedding
    normed = embedding / np.sqrt((embedding**2).mean(axis=1, keepdims=True) + 1e-5)
    chosen = (normed @ matrices.head.T).argmax(axis=1)
    return int((chosen != matrices.following).sum())
