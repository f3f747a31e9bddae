"""The machine's GPUs: NVIDIA's through NVML, AMD's through sysfs. The only module that meets either.

A driver that does not tell one figure costs that figure alone; a machine without any driver has no GPUs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

from sollol_schemas.telemetry import Gpu

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024
_SYSFS: Final = Path("/sys/class/drm")
_AMD: Final = "0x1002"
T = TypeVar("T")


class GpuProbe(Protocol):
    """Reads the GPUs; blocks, so it is called in a thread."""

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU now."""

    def close(self) -> None:
        """Gives the driver back."""


class NoGpus:
    """A machine without GPUs."""

    def read(self) -> tuple[Gpu, ...]:
        """None."""
        return ()

    def close(self) -> None:
        """Does nothing."""


class NvmlProbe:
    """NVIDIA's GPUs.

    Args:
        nvml: The module pynvml, initialised.
    """

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml = nvml

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU whose memory can be read."""
        count = self._try(self._nvml.nvmlDeviceGetCount) or 0
        return tuple(gpu for index in range(count) if (gpu := self._one(index)) is not None)

    def close(self) -> None:
        """Ends the session with the driver."""
        self._try(self._nvml.nvmlShutdown)

    def _one(self, index: int) -> Gpu | None:
        nvml = self._nvml
        handle = self._try(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        memory = self._try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle)) if handle is not None else None
        if memory is None:
            return None
        name = self._try(lambda: nvml.nvmlDeviceGetName(handle))
        utilisation = self._try(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        temperature = self._try(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        power_mw = self._try(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return Gpu(
            index=index,
            name=name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "NVIDIA GPU"),
            memory_total_mib=memory.total / _MIB,
            memory_used_mib=memory.used / _MIB,
            memory_free_mib=memory.free / _MIB,
            utilisation_ratio=None if utilisation is None else min(1.0, utilisation / 100),
            temperature_c=None if temperature is None else float(temperature),
            power_w=None if power_mw is None else power_mw / 1000,
            driver="nvml",
        )

    def _try(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except self._nvml.NVMLError as error:
            log.debug("NVML: %s", error)
            return None


class AmdProbe:
    """AMD's GPUs.

    Args:
        cards: Their folders below sysfs.
    """

    def __init__(self, cards: list[Path]) -> None:
        self._cards = cards

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU whose memory can be read."""
        return tuple(gpu for index, card in enumerate(self._cards) if (gpu := _amd_gpu(index, card)) is not None)

    def close(self) -> None:
        """Does nothing."""


def _amd_gpu(index: int, card: Path) -> Gpu | None:
    total = _number(card / "mem_info_vram_total")
    if total is None:
        return None
    used = _number(card / "mem_info_vram_used") or 0.0
    busy = _number(card / "gpu_busy_percent")
    temperature_mc = _first_number(card, "hwmon/hwmon*/temp1_input")
    power_uw = _first_number(card, "hwmon/hwmon*/power1_average")
    return Gpu(
        index=index,
        name=_text(card / "product_name") or "AMD GPU",
        memory_total_mib=total / _MIB,
        memory_used_mib=used / _MIB,
        memory_free_mib=max(0.0, total - used) / _MIB,
        utilisation_ratio=None if busy is None else min(1.0, max(0.0, busy / 100)),
        temperature_c=None if temperature_mc is None else temperature_mc / 1000,
        power_w=None if power_uw is None else power_uw / 1e6,
        driver="amdgpu",
    )


def find_gpus(sysfs: Path = _SYSFS) -> GpuProbe:
    """The probe that fits this machine; says once which one it is."""
    nvml = _nvml()
    if nvml is not None:
        return NvmlProbe(nvml)
    cards = sorted(path.parent for path in sysfs.glob("card[0-9]*/device/vendor") if _text(path) == _AMD)
    if cards:
        log.info("%d AMD GPUs found", len(cards), extra={"action": "gpu_found"})
        return AmdProbe(cards)
    log.info("no GPU driver found: this is a CPU node", extra={"action": "gpu_none"})
    return NoGpus()


def _nvml() -> Any:  # noqa: ANN401 the module, which has no types
    """The module pynvml with a session opened, or None when there is no NVIDIA driver."""
    try:
        import pynvml  # noqa: PLC0415 loaded only where a node runs
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("NVML: %s", error)
        return None
    log.info("NVML found", extra={"action": "gpu_found"})
    return pynvml


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _first_number(card: Path, pattern: str) -> float | None:
    return next((value for path in sorted(card.glob(pattern)) if (value := _number(path)) is not None), None)
