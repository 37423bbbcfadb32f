"""Models of several inputs and outputs: named, exported, and proven on all of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from kdeploy.bench.batches import Stream
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.errors import ModelError, ParityFailed, UnknownName
from kdeploy.export.multi_input import export_several
from kdeploy.export.run import export
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu
from kdeploy.runtimes.run import open_runtime


class Masked(nn.Module):
    """Takes token ids and a mask, and returns a record as transformers do."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        states = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return {"logits": self.head(states.sum(1)), "loss": None, "states": states}


class Heads(nn.Module):
    """Returns two tensors."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 4), nn.Linear(16, 3)

    def forward(self, x):
        return self.a(x.flatten(1)), self.b(x.flatten(1))


def test_all_inputs_and_outputs_have_names_and_an_open_batch(tmp_path):
    model = Masked().eval()
    example = (torch.randint(10, (2, 6)), torch.ones(2, 6, dtype=torch.int64))
    result = export_several(model, example, tmp_path / "m.onnx", metadata={"label": "x"})
    assert result.max_abs < 1e-4
    file = onnx.load(result.path)
    properties = {p.key: p.value for p in file.metadata_props}
    assert properties["kdeploy.input"] == "input_ids,attention_mask"
    assert properties["kdeploy.output"] == "logits,states"
    assert properties["label"] == "x"
    session = onnxruntime.InferenceSession(result.path)
    ids, mask = np.ones((5, 6), np.int64), np.zeros((5, 6), np.int64)
    logits, states = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert (logits.shape, states.shape) == ((5, 3), (5, 6, 8))


def test_every_output_is_proven_and_a_runtime_returns_the_first(data, tmp_path, monkeypatch):
    model, items = Heads().eval(), data((1, 4, 4))
    result = export(model, "onnx", {}, items, tmp_path / "m.onnx")
    assert result.max_abs < 1e-4
    runtime = OnnxruntimeCpu(threads=1)
    runtime.open(result.path)
    assert first(runtime.infer(items.test.x[:2])).shape == (2, 4)
    known = runtime.infer

    def shifted(self, x):
        one, other = known(x).items()
        return dict([one, (other[0], other[1] + 0.5)])

    monkeypatch.setattr(OnnxruntimeCpu, "infer", shifted)
    with pytest.raises(ParityFailed):
        export(model, "onnx", {}, items, tmp_path / "n.onnx")


class Streaming(nn.Module):
    """A recurrent cell whose state goes out and in again."""

    def __init__(self):
        super().__init__()
        self.mix, self.keep = nn.Linear(4, 6), nn.Linear(6, 6)

    def forward(self, frame, state):
        state = torch.tanh(self.mix(frame) + self.keep(state))
        return {"score": state.mean(1, keepdim=True), "next": state}


class Recurrent(nn.Module):
    """A step of an LSTM of two layers, whose states are (layers, batch, width)."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, num_layers=2, batch_first=True), nn.Linear(6, 1)

    def forward(self, frame, h, c):
        made, (h, c) = self.lstm(frame[:, None], (h, c))
        return {"score": self.head(made[:, 0]), "hn": h, "cn": c}


class Remembering(nn.Module):
    """The same sum of all that it was shown, in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x):
        self.total += x.mean(0)
        return x + self.total


def test_a_state_is_carried_over_three_calls(tmp_path):
    torch.manual_seed(0)
    model, example = Streaming().eval(), (torch.randn(2, 4), torch.zeros(2, 6))
    path, state = tmp_path / "m.onnx", {"next": "state"}
    result = export_several(model, example, path, state=state)
    assert result.max_abs < 1e-4
    session = onnxruntime.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == ["frame", "state"]
    with pytest.raises(UnknownName, match="no output `nxt`"):
        export_several(model, example, tmp_path / "n.onnx", state={"nxt": "state"})


def test_a_state_may_have_its_batch_in_the_second_axis(tmp_path):
    torch.manual_seed(0)
    model = Recurrent().eval()
    example = (torch.randn(3, 4), torch.zeros(2, 3, 6), torch.zeros(2, 3, 6))
    path = tmp_path / "m.onnx"
    result = export_several(model, example, path, state={"hn": "h", "cn": "c"})
    assert result.max_abs < 1e-4
    shapes = {i.name: list(i.shape) for i in onnxruntime.InferenceSession(path).get_inputs()}
    assert shapes == {"frame": ["batch", 4], "h": [2, "batch", 6], "c": [2, "batch", 6]}
    frames = torch.randn(4, 4)
    h = c = torch.zeros(2, 1, 6)
    expected = []
    with torch.no_grad():
        for frame in frames:
            answer = model(frame[None], h, c)
            h, c = answer["hn"], answer["cn"]
            expected.append(answer["score"].numpy())
    subject = ModelUnderTest(artifact="a", label="a", path=path, format="onnx")
    pool = write_pool(subject, None, batch_size=1, file=tmp_path / "pool")
    runtime = open_runtime("onnxruntime_cpu", path, threads=1)
    stream = Stream(runtime.infer, pool.state)
    said = [stream({"frame": frame[None].numpy()})["score"] for frame in frames]
    np.testing.assert_allclose(np.stack(said), np.stack(expected), atol=1e-5)
    runtime.close()


class Scaled(nn.Module):
    """Takes a rate for all rows, and rows."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, rate, x):
        return {"score": self.head(x) / rate, "doubled": rate * 2}


def test_a_scalar_is_the_same_for_all_rows(tmp_path):
    path = tmp_path / "m.onnx"
    result = export_several(Scaled().eval(), (torch.tensor(2.0), torch.randn(3, 4)), path)
    assert result.max_abs < 1e-4
    shapes = {i.name: list(i.shape) for i in onnxruntime.InferenceSession(path).get_inputs()}
    assert shapes == {"rate": [], "x": ["batch", 4]}


def test_a_model_that_remembers_in_a_buffer_is_refused(data, tmp_path):
    model = Remembering().eval()
    with pytest.raises(ModelError, match="changes its buffer `total`") as caught:
        export_several(model, (torch.randn(2, 4),), tmp_path / "m.onnx")
    assert "state" in caught.value.hint
    assert not model.total.any()
