"""Whatever is shipped can be imported where only what is shipped is there."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import sollol_agents
import sollol_bus
import sollol_schemas


@pytest.mark.parametrize("package", [sollol_schemas, sollol_bus, sollol_agents], ids=lambda package: package.__name__)
def test_every_module_of_a_package_can_be_imported(package: ModuleType) -> None:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = [module.name for module in found if not module.name.endswith("__main__")]  # those run
    assert [name for name in names if not importlib.import_module(name)] == []
    assert len(names) > 5
