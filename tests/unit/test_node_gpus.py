"""GPUs: what their drivers tell, what they do not, and a driver that never answers."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.machine import sampler
from sollol_agents.node.machine.gpu import (
    AmdProbe,
    FixedGpus,
    GpuProbe,
    NvmlProbe,
    driver_problem,
    find_gpus,
    with_shared_memory,
)
from sollol_agents.node.machine.host import HostSample, sample_host
from sollol_agents.node.machine.sampler import Machine
from sollol_agents.scorer.fleet.residency import budget_of
from sollol_schemas.telemetry import EngineInfo, EngineKind, Gpu, LoadedModel, Telemetry

HOST = HostSample(cpu_count=4, cpu_load_ratio=0.0, ram_total_mib=1000.0, ram_available_mib=400.0, name="h")


class FakeNvml:
    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    NVML_TEMPERATURE_GPU = 0

    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18

    def __init__(self, broken: set[str], error: int = 3) -> None:
        self.broken = broken
        self.error = error

    def _or_fail(self, name: str, value: Any) -> Any:
        if name in self.broken:
            raise self.NVMLError(self.error)
        return value

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return int(self._or_fail("count", 1))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> Any:  # noqa: N802
        return self._or_fail("memory", SimpleNamespace(total=8 << 30, used=2 << 30, free=6 << 30))

    def nvmlDeviceGetName(self, _handle: int) -> Any:  # noqa: N802
        return self._or_fail("name", b"Card")

    def nvmlDeviceGetUtilizationRates(self, _handle: int) -> Any:  # noqa: N802
        return self._or_fail("utilisation", SimpleNamespace(gpu=50))

    def nvmlDeviceGetTemperature(self, _handle: int, _kind: int) -> Any:  # noqa: N802
        return self._or_fail("temperature", 60)

    def nvmlDeviceGetPowerUsage(self, _handle: int) -> Any:  # noqa: N802
        return self._or_fail("power", 100_000)


def probe(*broken: str, error: int = FakeNvml.NVML_ERROR_NOT_SUPPORTED) -> NvmlProbe:
    return NvmlProbe(FakeNvml(set(broken), error))  # type: ignore[arg-type]  # a module in real life


def test_nvml_tells_everything() -> None:
    (gpu,) = probe().read()
    assert gpu == Gpu(
        index=0,
        name="Card",
        memory_total_mib=8192,
        memory_used_mib=2048,
        memory_free_mib=6144,
        utilisation_ratio=0.5,
        temperature_c=60,
        power_w=100,
        driver="nvml",
    )


@pytest.mark.parametrize(
    ("broken", "field"), [("utilisation", "utilisation_ratio"), ("temperature", "temperature_c"), ("power", "power_w")]
)
def test_a_figure_that_nvml_does_not_tell_costs_that_figure_alone(broken: str, field: str) -> None:
    (gpu,) = probe(broken).read()
    assert getattr(gpu, field) is None
    assert gpu.memory_total_mib == 8192


def test_a_gpu_whose_memory_cannot_be_read_shares_the_machines() -> None:
    read = probe("memory")
    (gpu,) = with_shared_memory(read.read(), HOST)
    assert (gpu.shares_ram, gpu.memory_total_mib, gpu.memory_free_mib) == (True, 1000, 400)
    assert read.problem == ""
    assert probe("count").read() == ()
    assert probe("name").read()[0].name == "NVIDIA GPU"


def test_a_gpu_that_may_not_be_read_is_told_with_what_is_wrong() -> None:
    read = probe("memory", error=FakeNvml.NVML_ERROR_NO_PERMISSION)
    assert read.read()[0].shares_ram
    assert "GPU 0 (Card)" in read.problem


def test_a_gpu_that_is_lost_is_no_gpu_any_more_and_that_is_said() -> None:
    fake = FakeNvml(set(), FakeNvml.NVML_ERROR_GPU_IS_LOST)
    read = NvmlProbe(fake)  # type: ignore[arg-type]  # a module in real life
    assert len(read.read()) == 1
    fake.broken = {"memory"}
    assert read.read() == ()
    assert "lost" in read.problem
    fake.broken = {"count"}
    assert read.read() == ()
    assert "1 of 1" in read.problem


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND, ""),
        (FakeNvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions"),
        (FakeNvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (FakeNvml.NVML_ERROR_NO_PERMISSION, "may not use"),
        (99, "error 99"),
    ],
)
def test_what_is_wrong_with_a_driver_is_said_with_what_it_costs(error: int, words: str) -> None:
    told = driver_problem(FakeNvml, FakeNvml.NVMLError(error))  # type: ignore[arg-type]  # a module in real life
    assert words in told
    assert bool(words) == ("without a GPU" in told)


def test_amd_is_read_from_sysfs(tmp_path: Path) -> None:
    card = tmp_path / "card0" / "device"
    (card / "hwmon" / "hwmon3").mkdir(parents=True)
    for name, text in {
        "vendor": "0x1002\n",
        "mem_info_vram_total": str(16 << 30),
        "mem_info_vram_used": str(4 << 30),
        "gpu_busy_percent": "25",
        "hwmon/hwmon3/temp1_input": "51000",
    }.items():
        (card / name).write_text(text)
    (gpu,) = AmdProbe([card]).read()
    assert (gpu.memory_total_mib, gpu.memory_free_mib, gpu.utilisation_ratio) == (16384, 12288, 0.25)
    assert (gpu.temperature_c, gpu.power_w, gpu.driver) == (51.0, None, "amdgpu")
    assert not gpu.shares_ram
    assert AmdProbe([tmp_path / "nowhere"]).read() == ()


def test_a_gpu_with_a_corner_of_the_machines_memory_has_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "mem_info_vram_total").write_text(str(512 << 20))
    (gpu,) = with_shared_memory(AmdProbe([tmp_path]).read(), HOST)
    assert (gpu.memory_total_mib, gpu.memory_used_mib, gpu.memory_free_mib) == (1000, 600, 400)


def test_a_machine_without_drivers_has_no_gpus(tmp_path: Path) -> None:
    found = find_gpus(tmp_path)
    if not isinstance(found, NvmlProbe):
        assert isinstance(found, FixedGpus)
        assert found.read() == ()
    found.close()


def test_a_machine_without_nvidias_library_loads_nothing_that_would_speak_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    found = find_gpus(tmp_path)
    assert isinstance(found, FixedGpus)
    assert (found.read(), found.problem) == ((), "")
    assert "pynvml" not in sys.modules


async def test_the_engines_own_word_is_evidence_of_a_gpu() -> None:
    machine = Machine(NodeConfig(url="http://127.0.0.1:1"))
    machine._probe = FixedGpus()
    await machine.sample()
    machine.believe((LoadedModel(name="m", size_bytes=9),))
    assert not machine.gpus
    machine.believe((LoadedModel(name="m", size_bytes=9, vram_bytes=9),))
    gpu = machine.gpus[0]
    assert (gpu.driver, gpu.shares_ram, gpu.memory_total_mib) == ("engine", True, machine.host.ram_total_mib)
    await machine.close()


class HangingDriver:
    """A driver that answers once and then no more."""

    problem = ""

    def __init__(self) -> None:
        self.looks = 0
        self.is_let_go = threading.Event()

    def read(self) -> tuple[Gpu, ...]:
        self.looks += 1
        if self.looks > 1:
            self.is_let_go.wait(30)
        return (Gpu(index=0, name="Card", memory_total_mib=1.0),)

    def close(self) -> None:
        """Does nothing."""


async def test_a_driver_that_hangs_costs_its_figures_alone_and_is_not_asked_twice() -> None:
    machine, driver = Machine(NodeConfig(url="http://127.0.0.1:1"), patience_s=0.02), HangingDriver()
    machine._probe = driver
    await machine.sample()
    assert machine.gpu_problem == ""
    await machine.sample()
    await machine.sample()
    assert driver.looks == 2
    assert "has not answered" in machine.gpu_problem
    assert len(machine.gpus) == 1
    assert machine.host.ram_total_mib > 0
    driver.is_let_go.set()
    while machine.gpu_problem:
        await machine.sample()
    await machine.close()


def test_where_memory_is_shared_whatever_lies_in_it_may_be_evicted() -> None:
    told = Telemetry(
        node_id="n",
        instance="i",
        revision=1,
        seq=1,
        engine=EngineInfo(kind=EngineKind.OLLAMA, url="u"),
        slots=1,
        gpus=with_shared_memory((Gpu(index=0, name="GB10", memory_total_mib=0.0, shares_ram=True),), HOST),
        ram_total_mib=HOST.ram_total_mib,
        ram_available_mib=HOST.ram_available_mib,
        loaded=(LoadedModel(name="m", size_bytes=500 << 20, vram_bytes=300 << 20),),
    )
    budget = budget_of(told)
    assert budget.vram_bytes == (400 + 500 - 200) << 20
    assert budget.ram_bytes == 0


class Driver:
    """A driver that answers at once."""

    problem = ""

    def read(self) -> tuple[Gpu, ...]:
        return (Gpu(index=0, name="Card", memory_total_mib=1.0),)

    def close(self) -> None:
        """Does nothing."""


@pytest.mark.parametrize(("probe", "between"), [(FixedGpus(), 0), (Driver(), 9)])
async def test_names_and_addresses_are_looked_up_with_each_tenth_heartbeat_and_a_driver_is_asked_with_each(
    monkeypatch: pytest.MonkeyPatch, probe: GpuProbe, between: int
) -> None:
    wholes = [True, *[False] * between] * 2
    sampled: list[bool] = []

    def sample(known: HostSample | None = None) -> HostSample:
        sampled.append(known is None)
        return HostSample(cpu_count=1, cpu_load_ratio=0, ram_total_mib=100, ram_available_mib=len(sampled), name="")

    monkeypatch.setattr(sampler, "sample_host", sample)
    machine = Machine(NodeConfig(url="http://127.0.0.1:1", heartbeat_s=0.001))
    machine._probe = probe
    await machine.sample()
    running = asyncio.get_running_loop().create_task(machine.run())
    await eventually(lambda: len(sampled) >= len(wholes))
    running.cancel()
    assert sampled[: len(wholes)] == wholes
    await machine.close()


async def test_a_heartbeat_has_the_memory_of_its_moment_where_no_driver_could_keep_it_waiting() -> None:
    machine = Machine(NodeConfig(url="http://127.0.0.1:1"))
    machine._probe = FixedGpus((Gpu(index=0, name="M4", memory_total_mib=0.0, shares_ram=True),))
    await machine.sample()
    machine.host = HOST
    machine.glance()
    assert machine.host.ram_total_mib == machine.gpus[0].memory_total_mib != HOST.ram_total_mib
    assert machine.host.name == HOST.name, "what does not change is not looked up"
    machine._probe, machine.host = Driver(), HOST
    machine.glance()
    assert machine.host is HOST
    await machine.close()


def test_what_is_known_of_a_host_is_not_looked_up_again() -> None:
    known = HostSample(
        cpu_count=3, cpu_load_ratio=0, ram_total_mib=1, ram_available_mib=1, name="n", addresses=("192.0.2.1",)
    )
    now = sample_host(known)
    assert (now.cpu_count, now.name, now.addresses) == (3, "n", ("192.0.2.1",))
    assert now.ram_total_mib > 1
