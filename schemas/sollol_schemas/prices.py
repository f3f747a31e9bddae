"""What a node costs its owner: money for its hours and its energy."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sollol_schemas.units import Money, Watts

_LEAST: Final = 1e-9
_HOUR_S: Final = 3600.0
_KWH_J: Final = 3_600_000.0

Currency = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9]{0,8}$(?!\n)",
        description="A short word for a currency, like EUR; empty: whatever the fleet reckons in.",
    ),
]
PricePerHour = Annotated[Money | None, Meta(description="Money for an hour of the node; None: not known.")]
PricePerKwh = Annotated[Money | None, Meta(description="Money for a kilowatt-hour that it draws; None: not known.")]


class NodePrice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node costs. What is not known is no price of zero, which is one too."""

    per_hour: PricePerHour = None
    per_kwh: PricePerKwh = None
    currency: Currency = ""

    @property
    def is_known(self) -> bool:
        """Whether it has a price at all."""
        return self.per_hour is not None or self.per_kwh is not None

    def __str__(self) -> str:
        """As a person reads it: `0.80 EUR an hour, 0.30 EUR a kWh`; empty when it is not known."""
        parts = ((self.per_hour, "an hour"), (self.per_kwh, "a kWh"))
        return ", ".join(f"{told(amount, self.currency)} {unit}" for amount, unit in parts if amount is not None)

    def of(self, busy_s: float, energy_j: float | None) -> float | None:
        """What so many seconds and joules cost; None where a part of it is not known."""
        if not self.is_known or (self.per_kwh is not None and energy_j is None):
            return None
        return (self.per_hour or 0.0) * busy_s / _HOUR_S + (self.per_kwh or 0.0) * (energy_j or 0.0) / _KWH_J


class Power(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node draws, as its drivers tell on average or as its owner states it; None: not known."""

    idle_w: Watts | None = None
    busy_w: Watts | None = None
    is_stated: bool = False
    """Whether the owner states it: then it is of the whole machine, and is not measured."""


def significant(amount: float, digits: int = 6) -> float:
    """An amount with so many digits that count: what one answer costs is far below a cent."""
    return float(f"{amount:.{digits}g}")


def told(amount: float | None, currency: str) -> str:
    """An amount as a person reads it: `0.00042 EUR`, `12.50 EUR`; a dash for what is not known."""
    if amount is None:
        return "-"
    is_small = _LEAST <= amount < 0.1
    digits = f"{significant(amount, 2):.12f}".rstrip("0") if is_small else f"{amount:.2f}"
    return f"{digits} {currency}".rstrip()
