"""The version of this software, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _installed() -> str:
    try:
        return version("sollol-bus")
    except PackageNotFoundError:  # running from sources that were never installed
        return "0.0.0"


VERSION: Final = _installed()
