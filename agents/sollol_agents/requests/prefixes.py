"""Hashes of a prompt's growing prefixes, by which a node that still holds one in its cache is found.

A boundary is set after each message and, inside long text, every block: requests that share a beginning share the
hashes up to the first boundary after which they differ. Blocks grow with the prompt so that at most `MAX_BOUNDARIES`
hashes travel; the newest are kept, because a conversation goes on from its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

MAX_BOUNDARIES = 32
MIN_BYTES = 256
"""Prompts below this are not worth looking for in a cache."""
_BLOCK_BYTES = 4096
_DIGEST_BYTES = 8


def prefix_hashes(
    model: str, pieces: Iterable[bytes], bytes_per_token: float
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The hashes of the growing prefixes, shortest first, and the tokens up to the end of each.

    Args:
        model: The model's name; prefixes of different models never match.
        pieces: The prompt's pieces in order: messages, or one text.
        bytes_per_token: For the estimate of tokens.
    """
    whole = list(pieces)
    total = sum(map(len, whole))
    if total < MIN_BYTES:
        return (), ()
    block = _BLOCK_BYTES
    while total // block > MAX_BOUNDARIES // 2:
        block *= 2
    digest = blake2b(model.encode(), digest_size=_DIGEST_BYTES)
    hashes: list[str] = []
    tokens: list[int] = []
    end = 0
    for part in _parts(whole, block):
        digest.update(part)
        end += len(part)
        hashes.append(digest.hexdigest())
        tokens.append(int(end / bytes_per_token))
    return tuple(hashes[-MAX_BOUNDARIES:]), tuple(tokens[-MAX_BOUNDARIES:])


def _parts(pieces: list[bytes], block: int) -> Iterator[bytes]:
    """The pieces, long ones cut into blocks; a cut depends on what stands before it alone."""
    for piece in pieces:
        for start in range(0, max(1, len(piece)), block):
            yield piece[start : start + block]
