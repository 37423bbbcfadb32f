from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.errors import ModelError, Unavailable
from kdeploy.runtimes.contract import DeviceTimed, first
from kdeploy.runtimes.run import create_runtime, device_of
from kdeploy.runtimes.torch_compile import TorchCompile


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def compiler():
    reason = TorchCompile.unavailable()
    if reason is not None:
        pytest.skip(reason)


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "`no-such-compiler`: install g++" in TorchCompile.unavailable()


def test_without_the_headers_of_python_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert "install python3-dev" in TorchCompile.unavailable()


@pytest.mark.usefixtures("compiler")
def test_a_gpu_that_is_not_there_is_one_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("torch_compile:device=cuda") == "cuda"
    with pytest.raises(Unavailable, match="sees no GPU") as caught:
        create_runtime("torch_compile:device=cuda", threads=1)
    assert "CUDA build" in caught.value.hint


def test_on_the_processor_there_is_no_second_clock():
    assert not isinstance(TorchCompile(threads=1), DeviceTimed)


class Broken(torch.nn.Module):
    """Two graphs with a break between them; the second takes items of 144 numbers."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(144, 4)

    def forward(self, x):
        halves = x.flatten(1) / 2
        torch._dynamo.graph_break()
        return self.linear(halves)


@pytest.mark.usefixtures("compiler")
def test_counts_graphs_and_breaks(monkeypatch, store_model, tiny_model):
    folder = store_model(tiny_model())
    model = Broken()
    monkeypatch.setattr("kdeploy.store.model_io.load_model", lambda artifact: model)
    runtime = TorchCompile(threads=1)
    runtime.open(folder)
    batch = np.random.default_rng(0).normal(size=(1, 1, 12, 12)).astype(np.float32)
    with torch.no_grad():
        expected = model.linear(torch.from_numpy(batch).flatten(1) / 2).numpy()
    np.testing.assert_allclose(first(runtime.infer(batch)), expected, rtol=1e-5, atol=1e-6)
    proof = runtime.proof_of_use()
    assert (proof.settings["graphs"], proof.settings["graph_breaks"]) == (2, 1)
    assert proof.layers[0]["kernel"] == "eager"
    with pytest.raises(ModelError, match=r"shape \[1, 1, 12, 13\]"):
        first(runtime.infer(np.zeros((1, 1, 12, 13), np.float32)))
    runtime.close()


class Recurrent(torch.nn.Module):
    """torch compiles no function that calls a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.recurrent = torch.nn.LSTM(12, 4, batch_first=True)

    def forward(self, x):
        states, _ = self.recurrent(x[:, 0])
        return states[:, -1]


@pytest.mark.usefixtures("compiler")
def test_a_model_that_is_not_compiled_at_all_is_no_measurement(
    monkeypatch, store_model, tiny_model
):
    folder = store_model(tiny_model())
    monkeypatch.setattr("kdeploy.store.model_io.load_model", lambda artifact: Recurrent())
    with pytest.raises(Unavailable, match="takes no part of") as caught:
        TorchCompile(threads=1).open(folder)
    assert "`onnx`" in caught.value.hint


@pytest.mark.gpu
@pytest.mark.usefixtures("compiler", "_restore_gpu_settings")
def test_on_a_gpu_it_answers_in_fp32_and_tells_the_time(store_model, tiny_model):
    runtime = TorchCompile(device="cuda")
    runtime.open(store_model(tiny_model()))
    batch = np.random.default_rng(0).normal(size=(1, 1, 12, 12)).astype(np.float32)
    with torch.no_grad():
        expected = tiny_model()(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(first(runtime.infer(batch)), expected, atol=1e-4 * np.ptp(expected))
    assert 0 < runtime.device_seconds() < 1
    assert not torch.backends.cudnn.allow_tf32
    runtime.close()
