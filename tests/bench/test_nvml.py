from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from kdeploy.bench import nvml
from kdeploy.errors import MissingDependency, Unavailable


class NVMLError(Exception):
    pass


class FakeNvml:
    """The few calls of `pynvml` that are used, for two GPUs."""

    NVMLError = NVMLError
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1

    def __init__(self, refused=""):
        self._refused, self.is_open = refused, False

    def nvmlInit(self):
        self._refuse("init")
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        other = SimpleNamespace(pid=1, usedGpuMemory=None)
        return [SimpleNamespace(pid=42, usedGpuMemory=100 + gpu), other]

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        self._refuse("energy")
        return 5000 + gpu

    def nvmlDeviceGetViolationStatus(self, gpu, policy):
        self._refuse("violations")
        return SimpleNamespace(violationTime=10 * (gpu + 1) + policy)

    def _refuse(self, what):
        if what == self._refused:
            raise NVMLError("Not Supported")


@pytest.fixture
def install(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def into_place(library):
        monkeypatch.setitem(sys.modules, "pynvml", library)
        return library

    return into_place


def test_memory_of_a_process_is_added_over_gpus(install):
    library = install(FakeNvml())
    assert nvml.memory_bytes(42) == 201
    assert not library.is_open


@pytest.mark.parametrize("pid", [7, 1], ids=["not listed", "listed without its memory"])
def test_a_process_of_which_the_driver_says_nothing_is_no_zero(install, pid):
    install(FakeNvml())
    with pytest.raises(Unavailable, match=f"process {pid} ") as caught:
        nvml.memory_bytes(pid)
    assert "container" in caught.value.hint


def test_energy_is_that_of_the_first_gpu_that_may_be_used(install, monkeypatch):
    install(FakeNvml())
    assert nvml.energy_joules() == 5.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert nvml.energy_joules() == pytest.approx(5.001)


def test_what_a_gpu_does_not_count_is_told_and_closed(install):
    library = install(FakeNvml(refused="energy"))
    with pytest.raises(Unavailable, match="Not Supported"):
        nvml.energy_joules()
    assert not library.is_open


def test_slowing_by_heat_and_power_is_added_and_0_where_nobody_tells(install):
    install(FakeNvml())
    assert nvml.slowed_nanoseconds() == 10 + 11 + 20 + 21
    install(FakeNvml(refused="violations"))
    assert nvml.slowed_nanoseconds() == 0


def test_without_the_library_nvidia_smi_is_asked_for_memory(install, monkeypatch):
    install(None)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/nvidia-smi")
    answer = SimpleNamespace(stdout="42, 3\n42, 2\n43, [N/A]\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: answer)
    assert nvml.memory_bytes(42) == 5 * 2**20
    with pytest.raises(MissingDependency, match="pynvml"):
        nvml.energy_joules()


def test_with_neither_the_remedy_is_told(install, monkeypatch):
    install(None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Unavailable, match="nvidia-smi") as caught:
        nvml.memory_bytes(1)
    assert "nvidia-ml-py" in caught.value.hint
