from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.export.exporters.torch_export_from_torch import torch_export_from_torch
from kdeploy.onnx_graph.facts import OPEN
from kdeploy.onnx_graph.input_facts import item_shape

INPUT = """<net><layers><layer id="0" type="Const"><data shape="9"/></layer>
<layer id="1" type="Parameter"><data shape="{}" element_type="{}"/></layer></layers></net>"""


def xml(tmp_path, shape, kind="f32"):
    path = tmp_path / "m.xml"
    path.write_text(INPUT.format(shape, kind))
    return path


def test_an_item_of_openvino_is_the_input_without_its_batch(tmp_path):
    assert item_shape(xml(tmp_path, "?,3,32,32"), "openvino") == (3, 32, 32)


def test_an_item_of_an_archive_is_the_input_without_its_batch(tmp_path):
    path = tmp_path / "m.pt2"
    torch_export_from_torch(nn.Linear(6, 2).eval(), torch.zeros(2, 6), path)
    assert item_shape(path, "torch_export") == (6,)


def test_a_size_that_is_not_fixed_is_open(tmp_path):
    assert item_shape(xml(tmp_path, "?,3,?,1..64"), "openvino") == (3, OPEN, OPEN)


@pytest.mark.parametrize(("shape", "kind"), [("?,16", "i64"), ("?", "f32")])
def test_what_noise_cannot_be_made_of_asks_for_data(tmp_path, shape, kind):
    with pytest.raises(ModelError, match="takes no items of floats") as caught:
        item_shape(xml(tmp_path, shape, kind), "openvino")
    assert "--data" in caught.value.hint


@pytest.mark.parametrize("form", ["openvino", "torch_export"])
@pytest.mark.parametrize("content", [b"", b"<net/>"])
def test_a_broken_file_is_one_error(tmp_path, form, content):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="does not say what it takes"):
        item_shape(path, form)
