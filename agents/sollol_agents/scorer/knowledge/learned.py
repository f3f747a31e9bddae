"""Writing what the scorer has learnt."""

from __future__ import annotations

import msgspec

from sollol_schemas.learned import Learned


def bytes_of(learned: Learned, limit: int) -> bytes:
    """The document as canonical JSON of at most `limit` bytes; what matters least is left out first.

    First go the prefix caches, then half of the answer lengths, of the nodes and of the models' ratings, the oldest or
    least known ones, again and again.
    """
    data = msgspec.json.encode(learned, order="sorted")
    if len(data) <= limit:
        return data
    bare = {name: msgspec.structs.replace(node, prefixes={}) for name, node in learned.nodes.items()}
    learned = msgspec.structs.replace(learned, nodes=bare)
    data = msgspec.json.encode(learned, order="sorted")
    while len(data) > limit:
        learned = msgspec.structs.replace(
            learned,
            lengths=learned.lengths[(len(learned.lengths) + 1) // 2 :],
            nodes=dict(list(learned.nodes.items())[(len(learned.nodes) + 1) // 2 :]),
            qualities=learned.qualities[(len(learned.qualities) + 1) // 2 :],
            demand={} if not learned.nodes else learned.demand,
        )
        data = msgspec.json.encode(learned, order="sorted")
    return data
