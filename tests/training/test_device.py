"""Devices by name, and bf16 only where the hardware has it."""

from __future__ import annotations

import logging

import pytest
import torch

from kdeploy.errors import InputError, Unavailable
from kdeploy.training import device as module
from kdeploy.training.device import device_named, fabric_on, has_bf16, precision_on

CPU = torch.device("cpu")


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Return a function that lets the machine have a CPU with these flags."""

    def write(line):
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor\t: 0\n{line}\nbogomips\t: 1\n")
        monkeypatch.setattr(module, "CPUINFO", file)
        module._cpu_flags.cache_clear()

    yield write
    module._cpu_flags.cache_clear()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
        ("Features\t: fp asimd asimddp", False),
        ("", False),
    ],
)
def test_bf16_is_read_from_the_flags(line, expected, cpuinfo):
    cpuinfo(line)
    assert has_bf16(CPU) is expected
    assert precision_on(CPU, "auto") == ("bf16" if expected else "fp32")
    assert precision_on(CPU, "fp32") == "fp32"


def test_an_unknown_system_has_no_bf16(tmp_path, monkeypatch, cpuinfo):
    cpuinfo("flags : avx512_bf16")
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "nowhere")
    assert not has_bf16(CPU)


def test_emulated_bf16_is_done_with_a_warning(cpuinfo, caplog):
    cpuinfo("flags : avx2")
    with caplog.at_level(logging.WARNING):
        assert precision_on(CPU, "bf16") == "bf16"
    assert "emulated" in caplog.text


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fabric_is_silent_and_computes_as_asked(precision, capfd):
    fabric = fabric_on(CPU, precision)
    with fabric.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert fabric.device == CPU
    assert capfd.readouterr() == ("", "")


def test_auto_is_the_gpu_where_there_is_one():
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:one", "cpu:0x", ""])
def test_refuses_what_is_no_device(name):
    with pytest.raises(InputError, match="there is no device"):
        device_named(name)


def test_a_gpu_that_is_not_there_is_unavailable():
    with pytest.raises(Unavailable, match="cuda:99"):
        device_named("cuda:99")


def test_one_gpu_for_several_processes_is_refused():
    with pytest.raises(InputError, match=r"`cuda:1` was asked for, and several processes"):
        fabric_on(torch.device("cuda", 1), "fp32", devices=2)
