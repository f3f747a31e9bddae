"""The machine's GPUs: NVIDIA's through NVML, AMD's through sysfs, Apple's by their processor.

The only module that meets a driver. A driver that does not tell one figure costs that figure alone; a GPU whose
memory cannot be read has the machine's (`Gpu.shares_ram`), as it is where both are one; a machine without any
driver has no GPUs, and what is wrong with a driver is said in words (`GpuProbe.problem`).
"""

from __future__ import annotations

import ctypes
import logging
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

import msgspec

from sollol_agents.node.machine.host import HostSample
from sollol_schemas.telemetry import Gpu

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024
_SYSFS: Final = Path("/sys/class/drm")
_AMD: Final = "0x1002"
_NVIDIAS: Final = "libnvidia-ml.so.1"
_CARVE_OUT_BYTES: Final = 2 << 30  # no card has less today: firmware set it aside for a GPU that shares the memory
_APPLE_NAME: Final = ("sysctl", "-n", "machdep.cpu.brand_string")
_APPLE_NAME_S: Final = 2.0
_COST: Final = "this machine counts as one without a GPU, and models that need video memory go elsewhere"
T = TypeVar("T")


class GpuProbe(Protocol):
    """Reads the GPUs; blocks, so it is called in a thread."""

    problem: str
    """What is wrong with a driver and what that costs; empty: nothing."""

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU now."""

    def close(self) -> None:
        """Gives the driver back."""


class FixedGpus:
    """A machine whose GPUs are all known beforehand, or that has none.

    Args:
        gpus: They.
        problem: What is wrong with a driver.
    """

    def __init__(self, gpus: tuple[Gpu, ...] = (), problem: str = "") -> None:
        self._gpus = gpus
        self.problem = problem

    def read(self) -> tuple[Gpu, ...]:
        """They."""
        return self._gpus

    def close(self) -> None:
        """Does nothing."""


class NvmlProbe:
    """NVIDIA's GPUs.

    Args:
        nvml: The module pynvml, initialised.
    """

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml = nvml
        self._most = 0
        self.problem = ""

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU that answers."""
        self.problem = ""
        count = self._try(self._nvml.nvmlDeviceGetCount) or 0
        found = tuple(gpu for index in range(count) if (gpu := self._one(index)) is not None)
        self._most = max(self._most, len(found))
        if len(found) < self._most and not self.problem:
            self.problem = f"{self._most - len(found)} of {self._most} GPUs no longer answer: see the kernel's log"
        return found

    def close(self) -> None:
        """Ends the session with the driver."""
        self._try(self._nvml.nvmlShutdown)

    def _one(self, index: int) -> Gpu | None:
        nvml = self._nvml
        handle = self._try(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        if handle is None:
            return None
        name = self._try(lambda: nvml.nvmlDeviceGetName(handle))
        utilisation = self._try(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        temperature = self._try(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        power_mw = self._try(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        gpu = Gpu(
            index=index,
            name=name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "NVIDIA GPU"),
            memory_total_mib=0.0,
            utilisation_ratio=None if utilisation is None else min(1.0, utilisation / 100),
            temperature_c=None if temperature is None else float(temperature),
            power_w=None if power_mw is None else power_mw / 1000,
            driver="nvml",
        )
        return self._with_memory(gpu, handle)

    def _with_memory(self, gpu: Gpu, handle: object) -> Gpu | None:
        nvml = self._nvml
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            if _is(nvml, error, "GPU_IS_LOST"):
                self.problem = f"GPU {gpu.index} ({gpu.name}) is lost: the machine must restart it"
                return None
            if not _is(nvml, error, "NOT_SUPPORTED"):
                self.problem = (
                    f"the memory of GPU {gpu.index} ({gpu.name}) cannot be read ({error}): main memory counts"
                )
            return msgspec.structs.replace(gpu, shares_ram=True)
        return msgspec.structs.replace(
            gpu,
            memory_total_mib=memory.total / _MIB,
            memory_used_mib=memory.used / _MIB,
            memory_free_mib=memory.free / _MIB,
        )

    def _try(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except self._nvml.NVMLError as error:
            log.debug("NVML: %s", error)
            return None


def _is(nvml: ModuleType, error: Exception, name: str) -> bool:
    """Whether an error of NVML's is the one of this name."""
    return getattr(error, "value", None) == getattr(nvml, f"NVML_ERROR_{name}", -1)


class AmdProbe:
    """AMD's GPUs.

    Args:
        cards: Their folders below sysfs.
    """

    problem = ""

    def __init__(self, cards: list[Path]) -> None:
        self._cards = cards

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU that is still there."""
        return tuple(gpu for index, card in enumerate(self._cards) if (gpu := _amd_gpu(index, card)) is not None)

    def close(self) -> None:
        """Does nothing."""


def _amd_gpu(index: int, card: Path) -> Gpu | None:
    if not card.exists():
        return None
    total = _number(card / "mem_info_vram_total") or 0.0
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
        shares_ram=total <= _CARVE_OUT_BYTES,
    )


def find_gpus(sysfs: Path = _SYSFS) -> GpuProbe:
    """The probe that fits this machine; says once which one it is."""
    if (apple := _apple()) is not None:
        return FixedGpus((apple,))
    nvml, problem = _nvml()
    if nvml is not None:
        return NvmlProbe(nvml)
    cards = sorted(path.parent for path in sysfs.glob("card[0-9]*/device/vendor") if _text(path) == _AMD)
    if cards:
        log.info("%d AMD GPUs found", len(cards), extra={"action": "gpu_found"})
        return AmdProbe(cards)
    if not problem:
        log.info("no GPU driver found: this is a CPU node", extra={"action": "gpu_none"})
    return FixedGpus(problem=problem)


def with_shared_memory(gpus: tuple[Gpu, ...], host: HostSample) -> tuple[Gpu, ...]:
    """The GPUs; the memory of those that share the machine's is that of the machine."""
    if not any(gpu.shares_ram for gpu in gpus):
        return gpus
    total, free = host.ram_total_mib, host.ram_available_mib
    return tuple(
        msgspec.structs.replace(
            gpu, memory_total_mib=total, memory_used_mib=max(0.0, total - free), memory_free_mib=free
        )
        if gpu.shares_ram
        else gpu
        for gpu in gpus
    )


def _apple() -> Gpu | None:
    """The GPU of a Mac with a processor of Apple's own, which has all of its memory; None elsewhere."""
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return None
    try:
        told = subprocess.run(_APPLE_NAME, capture_output=True, text=True, timeout=_APPLE_NAME_S, check=True)  # noqa: S603 a constant
        name = told.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        name = ""
    return Gpu(index=0, name=name or "Apple GPU", memory_total_mib=0.0, driver="apple", shares_ram=True)


def _nvml() -> tuple[Any, str]:
    """The module pynvml with a session opened, or None and what is wrong with the driver, if there is one."""
    if not _has_nvidias_library():
        return None, ""
    try:
        import pynvml  # noqa: PLC0415 two MiB that only a machine with the driver needs
    except ImportError:
        return None, ""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, driver_problem(pynvml, error)
    log.info("NVML found", extra={"action": "gpu_found"})
    return pynvml, ""


def _has_nvidias_library() -> bool:
    """Whether pynvml would find the driver's library, which it looks for in the same way; on Windows it has two."""
    if platform.system() == "Windows":
        return True
    try:
        ctypes.CDLL(_NVIDIAS)
    except OSError:
        return False
    return True


def driver_problem(nvml: ModuleType, error: Exception) -> str:
    """What an error at the start of NVML means and costs; empty where there is no NVIDIA driver at all."""
    if _is(nvml, error, "LIBRARY_NOT_FOUND"):
        return ""
    if _is(nvml, error, "LIB_RM_VERSION_MISMATCH"):
        why = "NVIDIA's library and driver are of different versions: restart the machine, or reload the driver"
    elif _is(nvml, error, "DRIVER_NOT_LOADED"):
        why = "NVIDIA's library is installed, but its driver is not loaded: load it, or remove the library"
    elif _is(nvml, error, "NO_PERMISSION"):
        why = "this user may not use NVIDIA's driver: give it the right to /dev/nvidia*"
    else:
        why = f"NVIDIA's driver does not answer as it should ({error})"
    return f"{why}; until then {_COST}"


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
