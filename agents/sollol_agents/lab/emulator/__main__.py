"""`python -m sollol_agents.lab.emulator`: an emulated node as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import typing

import msgspec

from sollol_agents.lab.emulator import EmulatorConfig, serve_emulator
from sollol_agents.lab.emulator.config import ollama_settings


def parse_config(argv: list[str]) -> EmulatorConfig:
    """Returns the settings given by flags; each field of `EmulatorConfig` is one.

    `--model`, `--preload` and `--origins` may be repeated; `--faults` takes a JSON list. With the preset `recorded`
    Ollama's own variables, such as `OLLAMA_NUM_PARALLEL`, set what no flag does.
    """
    parser = argparse.ArgumentParser(prog="python -m sollol_agents.lab.emulator", description=EmulatorConfig.__doc__)
    hints = typing.get_type_hints(EmulatorConfig, include_extras=True)
    for field in msgspec.structs.fields(EmulatorConfig):
        text = next(meta.description for meta in hints[field.name].__metadata__ if meta.description)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            action="append" if field.name in {"model", "origins", "preload"} else "store",
            help=f"{text} (default: {field.default!r})",
        )
    given = vars(parser.parse_args(argv))
    if "faults" in given:
        given["faults"] = msgspec.json.decode(given["faults"])
    if given.get("preset") == "recorded":  # it stands for a real `ollama serve`
        given = ollama_settings(os.environ) | given
    return msgspec.convert(given, EmulatorConfig, strict=False)


async def _serve(config: EmulatorConfig) -> None:
    """Serves until SIGTERM or SIGINT."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serve_emulator(config, on_ready=_tell)


def _tell(url: str) -> None:
    """Prints the two lines that scripts wait for."""
    print(f"engine {url}", flush=True)
    print("ready", flush=True)


def main() -> int:
    """Runs the node until it is told to stop; 2 when it cannot start."""
    try:
        config = parse_config(sys.argv[1:])
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            runner.run(_serve(config))
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _new_loop() -> typing.Callable[[], asyncio.AbstractEventLoop]:
    """Returns uvloop's factory, or asyncio's where there is no uvloop."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
