"""`python -m sollol_agents.lab.engine`: the real engine as a process of its own."""

from __future__ import annotations

import argparse
import sys
import typing

import msgspec

from sollol_agents.lab.engine import EngineConfig, EngineUnavailableError, run_engine


def parse_config(argv: list[str]) -> EngineConfig:
    """Returns the settings given by flags; each field of `EngineConfig` is one."""
    parser = argparse.ArgumentParser(prog="python -m sollol_agents.lab.engine", description=EngineConfig.__doc__)
    hints = typing.get_type_hints(EngineConfig, include_extras=True)
    for field in msgspec.structs.fields(EngineConfig):
        text = next(meta.description for meta in hints[field.name].__metadata__ if meta.description)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=f"{text} (default: {field.default!r})",
        )
    return msgspec.convert(vars(parser.parse_args(argv)), EngineConfig, strict=False)


def main() -> int:
    """Runs the engine until it is told to stop; 2 when it cannot start."""
    try:
        run_engine(parse_config(sys.argv[1:]))
    except (EngineUnavailableError, FileNotFoundError, msgspec.ValidationError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
