from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from kdeploy.errors import ModelError
from kdeploy.runtimes.pte_ends import METHOD, PteEnds, ends_of, parse_ends, read_ends
from kdeploy.tensor_info import TensorInfo

ENDS = PteEnds(
    inputs=(TensorInfo(name="input", shape=("batch", 3, 8, 8), dtype="float32"),),
    outputs=(
        TensorInfo(name="scores", shape=("batch", 5), dtype="float32"),
        TensorInfo(name="boxes é", shape=("batch", 4), dtype="float32"),
    ),
)


class Program:
    """What ExecuTorch's bindings tell of a file, without a file."""

    def __init__(self, text=None, outputs=2, methods=("forward",)):
        self._text = text
        self._methods = [*methods, *([METHOD] if text is not None else [])]
        one = SimpleNamespace(sizes=lambda: (32, 3, 8, 8), dtype=lambda: 6)
        row = SimpleNamespace(sizes=lambda: (32, 5), dtype=lambda: 6)
        self._meta = SimpleNamespace(
            num_inputs=lambda: 1,
            num_outputs=lambda: outputs,
            input_tensor_meta=lambda _: one,
            output_tensor_meta=lambda _: row,
        )

    def method_meta(self, name):
        assert name == "forward"
        return self._meta

    def num_methods(self):
        return len(self._methods)

    def get_method_name(self, number):
        return self._methods[number]

    def load_method(self, name):
        assert name == METHOD
        return SimpleNamespace(call=lambda inputs: [self._text])


def test_what_was_written_is_read_from_the_bytes_of_a_file(tmp_path):
    path = tmp_path / "m.pte"
    path.write_bytes(b"\x1c\0\0\0ET12" + bytes(999) + ENDS.text().encode() + b"\0more")
    assert read_ends(path) == ENDS


def test_what_was_written_is_read_from_the_opened_file(tmp_path):
    assert ends_of(Program(ENDS.text()), tmp_path) == ENDS


def test_a_file_from_elsewhere_has_fixed_sizes_and_numbers_for_names(tmp_path):
    found = ends_of(Program(), tmp_path)
    assert [str(i) for i in found.inputs] == ["input=32,3,8,8:float32"]
    assert [o.name for o in found.outputs] == ["output_0", "output_1"]


def test_a_file_that_tells_of_other_outputs_than_it_has_is_refused(tmp_path):
    with pytest.raises(ModelError, match="it has output=32,5") as caught:
        ends_of(Program(ENDS.text(), outputs=1), tmp_path)
    assert "export it again" in caught.value.hint


def test_a_file_that_computes_nothing_is_refused(tmp_path):
    with pytest.raises(ModelError, match="none is `forward`"):
        ends_of(Program(methods=("other",)), tmp_path)


@pytest.mark.parametrize("content", [b"", b"ET12", ENDS.text().encode()[:60]])
def test_a_file_without_or_with_half_a_text_is_one_error(content, tmp_path):
    (tmp_path / "m.pte").write_bytes(content)
    with pytest.raises(ModelError, match="does not say what it takes"):
        read_ends(tmp_path / "m.pte")


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": []},
        {"inputs": {}},
        {"outputs": [["y", [1], "object"]]},
        {"outputs": [["y", [None], "float32"]]},
        {"outputs": [["y"]]},
        {"outputs": [[3, [1], "float32"]]},
    ],
)
def test_nonsense_in_the_text_is_one_error(changed, tmp_path):
    text = json.dumps({**json.loads(ENDS.text()), **changed})
    with pytest.raises(ModelError, match="does not say what it takes"):
        parse_ends(text, tmp_path)
