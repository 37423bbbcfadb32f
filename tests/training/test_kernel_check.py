import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdeploy.training import kernel_check, kernel_faults
from kdeploy.training.kernel_check import DIED, _Memory, _tried, findings
from kdeploy.training.kernel_faults import known_fault
from kdeploy.training.kernel_trial import DIFFERS, FAILS, OK, describe

has_avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
needs_avx512 = pytest.mark.skipif(not has_avx512, reason="the fault is in a kernel for AVX-512")
TEN_LINES = """
import sys, torch
from torch import nn
torch.set_num_threads(int(sys.argv[2]))
layout = torch.channels_last
model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 16, 1, stride=2)).to(memory_format=layout)
for _ in range(20):
    x = torch.randn(int(sys.argv[1]), 1, 16, 16).contiguous(memory_format=layout)
    model(x).sum().backward()
"""


def convolution(batch, *, channels=8, kernel=1, stride=2, dtype=torch.float32, is_last=True):
    layout = torch.channels_last if is_last else torch.contiguous_format
    x = torch.zeros(batch, channels, 16, 16, dtype=dtype).contiguous(memory_format=layout)
    w = torch.zeros(16, channels, kernel, kernel, dtype=dtype).contiguous(memory_format=layout)
    x, w, bias = x.requires_grad_(), w.requires_grad_(), torch.zeros(16, dtype=dtype)
    args = (x, w, bias, [stride, stride], [0, 0], [1, 1], False, [0, 0], 1)
    return json.dumps(describe("aten::convolution", args, {}), sort_keys=True)


@pytest.fixture(autouse=True)
def _forgotten(tmp_path, monkeypatch):
    memory = _Memory(tmp_path / "kernels.json")
    monkeypatch.setattr(kernel_check, "_memory", lambda: memory)


@pytest.fixture
def _unknown(monkeypatch):
    monkeypatch.setattr(kernel_faults, "FAULTS", ())


@needs_avx512
@pytest.mark.parametrize(("batch", "threads", "dies"), [(59, 2, True), (64, 2, False)])
def test_ten_lines_of_torch_die_by_a_signal_where_the_table_says_so(batch, threads, dies):
    call = json.loads(convolution(batch))
    assert (known_fault(call, threads) is not None) == dies
    command = [sys.executable, "-c", TEN_LINES, str(batch), str(threads)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert (done.returncode < 0) == dies


@needs_avx512
@pytest.mark.usefixtures("_unknown")
def test_a_call_that_kills_is_found_by_trying_it_and_the_calls_beside_it_are_good():
    calls = [convolution(64), convolution(59), convolution(59, channels=16), convolution(62)]
    found, tried = findings([(call, f"layer{i}") for i, call in enumerate(calls)], threads=2)
    assert [f.layer for f in found] == ["layer1"]
    assert "`convolution` ends the process (SIG" in found[0].message
    assert tried == 4


@needs_avx512
@pytest.mark.parametrize(
    "safe",
    [
        {"batch": 60},
        {"batch": 59, "channels": 16},
        {"batch": 59, "stride": 1},
        {"batch": 59, "kernel": 3},
        {"batch": 59, "is_last": False},
    ],
)
def test_the_table_leaves_alone_what_is_known_to_be_good(safe):
    assert known_fault(json.loads(convolution(**safe)), 2) is None
    assert known_fault(json.loads(convolution(59)), 1) is None


@pytest.mark.parametrize(
    ("capability", "channels", "batch", "is_met"),
    [
        ("AVX2", 4, 16, True),
        ("AVX2", 7, 61, True),
        ("AVX2", 8, 61, False),
        ("AVX2", 4, 1, False),
        ("AVX512", 4, 16, False),
        ("AVX512", 4, 61, True),
        ("DEFAULT", 4, 61, False),
    ],
)
def test_the_table_knows_each_kind_of_processor(capability, channels, batch, is_met, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    call = json.loads(convolution(batch, channels=channels))
    assert (known_fault(call, 2) is not None) == is_met


ONE_PAST = """
import ctypes
python = ctypes.pythonapi
python.PyMem_RawMalloc.restype = ctypes.c_void_p
block = ctypes.c_void_p(python.PyMem_RawMalloc(ctypes.c_size_t(100)))
ctypes.memset(block, 0, 101)
python.PyMem_RawFree(block)
"""
# Held to AVX2, which every x86 of the last ten years has, and in another process: oneDNN reads the
# variables once.
TRY_IT = """
import sys
sys.path[:0] = [sys.argv[1]]
from tests.training.test_kernel_check import convolution
from kdeploy.training import kernel_check, kernel_faults
kernel_faults.FAULTS = ()
calls = [convolution(batch, channels=4) for batch in (16, 32)] + [convolution(16)]
found, _ = kernel_check.findings([(call, str(i)) for i, call in enumerate(calls)], threads=1)
print([finding.layer for finding in found])
"""


@pytest.mark.skipif(not kernel_check.guarded_memory(), reason="the C library has no guard")
@pytest.mark.skipif(not has_avx, reason="the fault is in kernels for AVX2 and later")
def test_what_writes_past_its_memory_is_found_whatever_lies_there(tmp_path):
    narrow = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-c", TRY_IT, str(Path(__file__).parents[2])]
    for time in ("first", "second"):
        environment = {**os.environ, **narrow, "XDG_CACHE_HOME": str(tmp_path / time)}
        done = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=120)
        assert done.stdout == "['0', '1']\n", done.stderr


@pytest.mark.skipif(not kernel_check.guarded_memory(), reason="the C library has no guard")
def test_one_byte_past_a_block_ends_the_process_that_tries():
    environment = {**os.environ, **kernel_check.guarded_memory()}
    done = subprocess.run([sys.executable, "-c", ONE_PAST], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGABRT


def test_what_was_tried_once_is_not_tried_again(monkeypatch, tmp_path):
    calls = [(convolution(8), "a"), (convolution(8, dtype=torch.bfloat16), "b")]
    assert findings(calls, threads=1) == ([], 2)
    assert findings(calls, threads=1) == ([], 0)
    # Also by another process, which reads the file; not with other threads.
    again = _Memory(tmp_path / "kernels.json")
    monkeypatch.setattr(kernel_check, "_memory", lambda: again)
    monkeypatch.setattr(kernel_check, "_tried", lambda texts, threads: pytest.fail(str(texts)))
    assert findings(calls, threads=1) == ([], 0)
    assert again.verdict(calls[0][0], 2) is None


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"x": 3}', "\0\xff"])
def test_a_broken_memory_is_empty_and_is_written_anew(tmp_path, content):
    path = tmp_path / "kernels.json"
    path.write_text(content)
    memory = _Memory(path)
    assert memory.verdicts == {}
    memory.learn({"call": {"verdict": OK, "said": ""}}, 2)
    assert _Memory(path).verdict("call", 2) == {"verdict": OK, "said": ""}


def test_an_operator_that_a_type_lacks_is_a_finding_with_the_words_of_torch():
    x = torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16)
    call = describe("aten::_upsample_bilinear2d_aa", (x, [4, 4], False, None, None), {})
    text = json.dumps(call)
    verdict = _tried([text], 1)[text]
    assert verdict["verdict"] == FAILS
    assert "BFloat16" in verdict["said"]


def test_a_wrong_result_is_told_from_rounding(monkeypatch):
    from kdeploy.training import kernel_trial

    call = json.loads(convolution(8, dtype=torch.bfloat16))
    assert kernel_trial.tried(call)["verdict"] == OK
    right = kernel_trial._results

    def off(call, given):
        output, *rest = right(call, given)
        return [output + (output.dtype == torch.bfloat16), *rest]

    monkeypatch.setattr(kernel_trial, "_results", off)
    answer = kernel_trial.tried(call)
    assert answer["verdict"] == DIFFERS
    assert answer["said"].startswith("a value is off by 1")


def test_a_process_that_dies_is_named_by_its_signal_and_another_takes_its_place():
    trial = kernel_check._trial()
    trial.process.terminate()
    trial.process.wait()
    text = convolution(4)
    assert trial.ask(text, 1) == {"verdict": DIED, "said": "SIGTERM"}
    assert _tried([text], 1)[text]["verdict"] == OK
