"""A real llama.cpp server with the countdown model, in this process, in the foreground.

One engine is one process: the server's threads are native, so it is started by
`python -m sollol_agents.lab.engine` and not inside another program.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from sollol_agents.lab.engine.countdown import INSTALL_HINT, SIZES, EngineUnavailableError, ensure_model

if TYPE_CHECKING:
    from types import ModuleType

    from xllamacpp import CommonParams

log = logging.getLogger(__name__)

_MICRO_BATCH_TOKENS: Final = 2048
_QUIET: Final = 1  # llama.cpp's level for errors only


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the real engine."""

    host: Annotated[str, msgspec.Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535, description="port; 0 picks a free one")] = 0
    slots: Annotated[int, msgspec.Meta(ge=1, description="requests that run at the same time")] = 4
    ctx: Annotated[int, msgspec.Meta(ge=64, description="context in tokens, shared out among the slots")] = 8192
    model: Annotated[str, msgspec.Meta(description="GGUF file; empty means the generated countdown model")] = ""
    preset: Annotated[Literal["tiny", "small", "medium"], msgspec.Meta(description="size of the generated model")] = (
        "tiny"
    )
    alias: Annotated[str, msgspec.Meta(description="name under which the model is served")] = "countdown"
    threads: Annotated[
        int,
        # llama.cpp's threads spin at barriers: two on a two-core machine ran 10 to 40 times slower than one
        msgspec.Meta(ge=1, description="compute threads; keep below the number of idle cores"),
    ] = 1
    cache_dir: Annotated[
        str, msgspec.Meta(description="folder of generated models; empty means $XDG_CACHE_HOME/sollol")
    ] = ""


def cache_folder(config: EngineConfig) -> Path:
    """Returns the folder in which generated models are kept."""
    if config.cache_dir:
        return Path(config.cache_dir)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sollol"


def run_engine(config: EngineConfig) -> None:
    """Serves until SIGTERM or SIGINT; blocks, and must be called in the main thread.

    Prints `engine http://HOST:PORT` and then `ready` once requests are answered.

    Raises:
        EngineUnavailableError: the packages of the extra `engine` are missing.
        FileNotFoundError: the given model file does not exist.
    """
    xllamacpp = _import_llama()
    path = _model_path(config)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = xllamacpp.Server(_params(xllamacpp, config, path))
    log.info("serving %s", path, extra={"action": "engine_start"})
    # scripts read these two lines
    print(f"engine {server.listening_address}", flush=True)
    print("ready", flush=True)
    stopped.wait()
    log.info("stopping", extra={"action": "engine_stop"})


def _model_path(config: EngineConfig) -> Path:
    """Returns the model file, generating it when the settings name none."""
    if not config.model:
        return ensure_model(SIZES[config.preset], cache_folder(config))
    path = Path(config.model)
    if not path.is_file():
        raise FileNotFoundError(f"model: no such file: {path}")
    return path


def _import_llama() -> ModuleType:
    """Returns the module xllamacpp."""
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise EngineUnavailableError(INSTALL_HINT) from error


def _params(xllamacpp: ModuleType, config: EngineConfig, path: Path) -> CommonParams:
    """Returns llama.cpp's parameters: chat, completions and embeddings on one server, with its metrics."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.port, params.hostnames = config.port, [config.host]
    params.model_alias = {config.alias}
    params.n_ctx, params.n_parallel = config.ctx, config.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config.threads
    params.endpoint_metrics = params.endpoint_props = params.endpoint_slots = True
    params.embedding = True
    # an embedding input must fit one micro-batch
    params.n_batch = params.n_ubatch = min(config.ctx // config.slots, _MICRO_BATCH_TOKENS)
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.verbosity = _QUIET
    return params
