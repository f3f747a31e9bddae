"""Groups of models as programs and people name them, checked before anything is sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from sollol_bus.errors import BadRequest, UnknownModel, error_from
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.groups import Group, GroupsReply, GroupStrategy, GroupView
from sollol_schemas.plain_words import in_plain_words

_LATEST = ":latest"


def group_of(
    name: str,
    models: Sequence[str] | Mapping[str, float],
    *,
    strategy: str = "cost",
    patience_s: float = 30.0,
    candidate: str | None = None,
    share: float = 0.1,
) -> Group:
    """The group with these models, or with these weights by model.

    Raises:
        TypeError: The models are one text.
        BadRequest: A value is outside its range, or a model is named twice.
    """
    if isinstance(models, str):
        raise TypeError(f"models must be a list of names, or a dict of weights: [{models!r}]")
    weights = models if isinstance(models, Mapping) else dict.fromkeys(models, 1.0)
    if len(weights) != len(models):
        raise BadRequest(f"group {name!r}: a model is named twice; give one a larger weight instead")
    if strategy not in tuple(GroupStrategy):
        raise BadRequest(f"strategy {strategy!r} is none of {', '.join(GroupStrategy)}")
    fields = {
        "name": name,
        "members": [{"model": model, "weight": weight} for model, weight in weights.items()],
        "strategy": strategy,
        "patience_s": patience_s,
        "candidate": None if candidate is None else {"model": candidate, "share": share},
    }
    return checked(fields)


def checked(fields: object) -> Group:
    """A group out of plain fields.

    Raises:
        BadRequest: One cannot be used; the message names it.
    """
    try:
        return msgspec.convert(fields, Group)
    except msgspec.ValidationError as error:
        raise BadRequest(f"group refused: {in_plain_words(str(error))}") from error


def only(name: str, reply: GroupsReply) -> GroupView:
    """The group of this name out of those that were told.

    Raises:
        UnknownModel: It is not among them.
    """
    wanted = name.removesuffix(_LATEST)
    for view in reply.groups:
        if view.group.name.removesuffix(_LATEST) == wanted:
            return view
    raise unknown_group(name, [view.group.name for view in reply.groups])


def unknown_group(name: str, known: Sequence[str]) -> UnknownModel:
    """There is no group of this name."""
    message = f"no group is called '{name[:80]}'; `sollol group set` makes one"
    body = ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message=message, details={"groups": list(known)})
    error = error_from(body)
    assert isinstance(error, UnknownModel)
    return error
