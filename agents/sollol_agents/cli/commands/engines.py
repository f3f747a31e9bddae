"""`sollol engine` and `sollol emulate`: something for a node to drive, where there is no Ollama."""

from __future__ import annotations

import asyncio
from typing import Final

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import say
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.cli.settings.section import Section
from sollol_agents.lab.emulator import EmulatorConfig, serve_emulator
from sollol_agents.lab.engine import EngineConfig, EngineUnavailableError, run_engine
from sollol_agents.listening import listen, refused
from sollol_bus.errors import ConfigError

ENGINE: Final = Section("engine", EngineConfig, is_kept=False)
EMULATE: Final = Section("emulate", EmulatorConfig, is_kept=False)


@with_settings(of_commands.KNOWN, config=ENGINE, log=of_commands.LOG)
def engine(*, config: EngineConfig, log: LogConfig) -> int:
    """Serves a real llama.cpp with a tiny generated model, or with a GGUF file of yours.

    The model counts down from the last number of the prompt. Needs the extra: pip install 'sollol-bus[engine]'.
    """
    log_lines.set_up(log)
    _expect_free(config.host, config.port)
    try:
        run_engine(config)
    except (EngineUnavailableError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
    except RuntimeError as error:
        raise ConfigError(f"llama.cpp does not start, and says above why: {error}") from error
    return exit_codes.OK


@with_settings(of_commands.KNOWN, config=EMULATE, log=of_commands.LOG)
def emulate(*, config: EmulatorConfig, log: LogConfig) -> int:
    """Serves an emulated Ollama with the timing of a chosen machine, for tests and benchmarks; computes nothing."""
    log_lines.set_up(log)
    _expect_free(config.host, config.port)

    async def main(signals: asyncio.Queue[int]) -> int:
        loop = asyncio.get_running_loop()
        serving = loop.create_task(serve_emulator(config, on_ready=_tell), name="emulator")
        stopping = loop.create_task(signals.get(), name="signals")
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            stopping.cancel()
            await serving
        serving.cancel()
        await asyncio.wait((serving,))
        return exit_codes.OK

    try:
        return running.run_until_signalled(main)
    except (ValueError, OSError) as error:
        raise ConfigError(f"the emulator cannot start: {error}") from error


def _expect_free(host: str, port: int) -> None:
    """Returns where an engine may listen.

    Raises:
        ConfigError: Something else does already, or the address is none of this machine.
    """
    try:
        listen(host, port).close()
    except OSError as error:
        raise ConfigError(refused(host, port, error, "Choose another with --port")) from error


def _tell(url: str) -> None:
    say(f"engine {url}")
    say("ready")
