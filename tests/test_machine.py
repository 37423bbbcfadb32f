from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdeploy.machine import (
    Machine,
    allowed_cores,
    doubts_of_packages,
    fingerprint,
    throttled_count,
)

X86 = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse avx2 avx512f avx512_vnni amx_int8 hypervisor

processor\t: 1
model name\t: another
"""
PI = """processor\t: 0
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_reads_an_x86_server_in_a_virtual_machine(tmp_path):
    governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    machine = fingerprint(root=_write(tmp_path, {"proc/cpuinfo": X86, governor: "powersave\n"}))
    assert machine.cpu == "Intel(R) Xeon(R) Platinum 8480+"
    assert machine.instruction_sets == ("avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert machine.is_virtual is True
    assert machine.governor == "powersave"
    assert machine.gpu is None


def test_reads_an_arm_board_by_its_device_tree(tmp_path):
    files = {"proc/cpuinfo": PI, "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}
    machine = fingerprint(root=_write(tmp_path, files))
    assert machine.cpu == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.instruction_sets == ("asimd", "asimddp")
    assert machine.is_virtual is False


def test_without_proc_it_degrades_to_none(tmp_path):
    machine = fingerprint(root=tmp_path)
    assert machine.cpu
    assert machine.is_virtual is None
    assert machine.governor is None
    assert machine.instruction_sets == ()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/gone", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "420000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            4,
        ),
    ],
)
def test_cores_obey_the_quota_of_the_cgroup_and_its_parents(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert allowed_cores(root=_write(tmp_path, files)) == expected


def test_cores_without_a_quota_are_those_of_the_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 5, 6})
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}
    assert allowed_cores(root=_write(tmp_path, files)) == 3


def test_ram_is_what_the_cgroup_allows(tmp_path):
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": str(64 * 2**20)}
    assert fingerprint(root=_write(tmp_path, files)).ram_bytes == 64 * 2**20


def test_reads_the_gpu_and_driver_without_cuda(tmp_path):
    gpu = "proc/driver/nvidia/gpus/0000:0{}:00.0/information"
    files = {
        gpu.format(1): "Model: \t\t NVIDIA H200\nIRQ: 5\n",
        gpu.format(2): "Model: \t\t NVIDIA H200\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64"
        "  580.95.05  Release Build\n",
    }
    machine = fingerprint(root=_write(tmp_path, files))
    assert machine.gpu == "2x NVIDIA H200"
    assert machine.driver == "580.95.05"


def test_the_id_names_the_hardware_and_not_the_moment(tmp_path, monkeypatch):
    root = _write(tmp_path, {"proc/cpuinfo": X86})
    before = fingerprint(root=root)
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    after = fingerprint(root=root)
    other = fingerprint(root=_write(tmp_path / "other", {"proc/cpuinfo": PI}))
    assert before.id == after.id != other.id
    assert after.load == 99.0


@pytest.mark.parametrize(
    ("program", "kernel", "expected"),
    [
        ("aarch64", "x86,ven0002fam0019", "x86"),
        ("x86_64", "aarch64", "aarch64"),
        ("aarch64", "aarch64", None),
        ("armv7l", "aarch64", None),
        ("x86_64", "x86,ven0002fam0019", None),
        ("i686", "x86,ven0002fam0019", None),
        ("riscv64", "riscv", None),
    ],
)
def test_an_emulated_processor_is_told_by_the_kernels_own(
    tmp_path, monkeypatch, program, kernel, expected
):
    monkeypatch.setattr("platform.machine", lambda: program)
    alias = "sys/devices/system/cpu/modalias"
    root = _write(tmp_path, {"proc/cpuinfo": PI, alias: f"cpu:type:{kernel}:feature:,0000\n"})
    assert fingerprint(root=root).emulated_on == expected


def test_survives_json():
    machine = fingerprint()
    assert Machine.from_dict(json.loads(json.dumps(machine.to_dict()))) == machine
    assert Machine.from_dict({**machine.to_dict(), "a_later_key": 1}) == machine


def test_throttling_counts_quota_and_heat(tmp_path):
    files = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/cpu.stat": "nr_periods 9\nnr_throttled 4\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
    }
    assert throttled_count(root=_write(tmp_path, files)) == 7


def test_imports_nothing_heavy():
    code = (
        "import sys, kdeploy.machine as m; m.fingerprint();"
        "print([n for n in ('torch', 'onnxruntime', 'numpy', 'pynvml') if n in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


def test_two_builds_of_onnx_runtime_in_one_environment_are_told(monkeypatch):
    found = {"onnxruntime": "1.31.1"}
    monkeypatch.setattr("kdeploy.machine._versions", lambda _: found)
    assert doubts_of_packages() == []
    found["onnxruntime-gpu"] = "1.30.0"
    (doubt,) = doubts_of_packages()
    assert "1.31.1" in doubt
    assert "1.30.0" in doubt
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in doubt
