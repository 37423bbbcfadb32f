import sys

import pytest
import torch
from torch import nn

from kdeploy.errors import DataError, KdeployError, ModelError
from kdeploy.store.references import ModelReference, build_model
from kdeploy.torch_module.model_outputs import outputs_of
from kdeploy.untrusted.user_code import (
    blamed,
    described,
    is_users,
    mark_as_users,
    users_code,
    users_error,
)

BUILD = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Linear(4, 3), what

    def forward(self, x):
        if self.what == "assert":
            assert x.shape[-1] == 5, f"made for 5 values, not {x.shape[-1]}"
        if self.what == "attribute":
            return self.layer(x).logits
        if self.what == "key":
            return {}["logits"]
        if self.what == "torch":
            return self.layer(x.mT)
        if self.what == "exit":
            sys.exit("nothing to do")
        return self.layer(x)

def net(*, what="", depth=1):
    return Net(what) if depth else nn.Linear(1 // depth, 2)
"""


@pytest.fixture
def build(tmp_path):
    (tmp_path / "build.py").write_text(BUILD)

    def made(what="", **args):
        args = {"what": what, **args}
        return build_model(ModelReference(build="build.py:net", args=args, folder=tmp_path))

    return made


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("assert", "AssertionError: made for 5 values, not 4 (*build.py:13, in forward: `assert"),
        ("attribute", "no attribute 'logits' (*build.py:15, in forward: `return self.layer(x).log"),
        ("key", "KeyError: 'logits' (*build.py:17, in forward: `return {}["),
        ("torch", "RuntimeError: mat1*(*build.py:19, in forward: `return self.layer(x.mT)`)"),
        ("exit", "SystemExit: nothing to do (*build.py:21, in forward: `sys.exit("),
    ],
)
def test_whatever_forward_raises_names_its_line(build, what, line):
    with pytest.raises(ModelError) as caught:
        outputs_of(build(what), torch.rand(2, 4), role="the teacher")
    start, _, rest = line.partition("*")
    assert "the teacher cannot run on items of shape (4,)" in caught.value.message
    position = caught.value.message.index(start)
    for part in rest.split("*"):
        position = caught.value.message.index(part, position)


def test_a_model_of_layers_alone_names_the_layer():
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(7, 2)))
    with pytest.raises(ModelError, match=r"in the layer `1\.1` \(Linear\)"):
        outputs_of(model, torch.rand(2, 4), role="the model")


def test_the_build_function_and_its_file_name_their_line(build, tmp_path):
    with pytest.raises(ModelError, match=r"ZeroDivisionError.*build\.py:\d+, in net: `return Net"):
        build(depth=0)
    (tmp_path / "build.py").write_text("x = 1\nx.upper()\n")
    with pytest.raises(ModelError, match=r"AttributeError.*build\.py:2: `x\.upper\(\)`"):
        build()
    (tmp_path / "build.py").write_text("def net(:\n")
    with pytest.raises(ModelError, match=r"SyntaxError: .*build\.py:1: `def net\(:`"):
        build()


def test_an_error_long_after_the_check_is_the_users_too(build):
    model = build("key")
    with pytest.raises(ModelError, match=r"code of the model failed: KeyError.*build\.py:17"):
        _blamed(model)


def _blamed(model):
    # As a training does it: through torch's own machinery.
    with blamed():
        nn.Sequential(model)(torch.rand(2, 4))


def test_a_copy_in_an_artefact_goes_by_the_name_of_the_original(tmp_path):
    (tmp_path / "kept").mkdir()
    for folder in (tmp_path, tmp_path / "kept"):
        (folder / "build.py").write_text(BUILD)
    reference = ModelReference(
        build="build.py:net",
        args={"what": "key"},
        folder=tmp_path,
        source_file=tmp_path / "kept/build.py",
    )
    with pytest.raises(ModelError) as caught:
        outputs_of(build_model(reference), torch.rand(2, 4), role="the model")
    assert f"({tmp_path / 'build.py'}:17" in caught.value.message


def test_an_error_in_a_data_file_is_an_error_of_the_data(tmp_path):
    path = tmp_path / "data.py"
    path.write_text("def rows():\n    return [][0]\n")
    mark_as_users(path, kind=DataError)
    space = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    with (
        pytest.raises(DataError, match=r"code of the data failed: IndexError.*data\.py:2"),
        blamed(),
    ):
        space["rows"]()


def test_our_own_faults_stay_what_they_are():
    from kdeploy.units import parse_quantity

    with pytest.raises(TypeError) as caught, users_code("the model"):
        parse_quantity(None)
    assert users_error(caught.value) is None


def test_a_line_that_a_compiler_read_is_the_users_too(build):
    # As torch.compile tells it; no frame of the file is in the traceback then.
    file = build().forward.__code__.co_filename
    text = f'fake tensors failed\n\nfrom user code:\n   File "{file}", line 19, in forward\n  ...'
    found = users_error(RuntimeError(text))
    assert f"({file}:19, in forward: `return self.layer(x.mT)`)" in found.message


def test_an_error_that_cannot_be_told_is_told_by_its_type():
    class Odd(ValueError):
        def __str__(self):
            return 1 / 0

    assert described(Odd()) == "Odd: its text raises ZeroDivisionError"
    assert len(described(ValueError("long " * 10_000))) < 400


def test_our_own_errors_pass_as_they_are():
    error = DataError("as it was")
    with pytest.raises(KdeployError) as caught, users_code("the model"):
        raise error
    assert caught.value is error


def test_libraries_are_the_users_only_where_a_reference_named_them(monkeypatch):
    assert not is_users(torch.__file__)
    assert not is_users(sys.modules["os"].__file__)
    assert not is_users("<eval_with_key>.3")
    monkeypatch.setattr("kdeploy.untrusted.user_code._KINDS", {str(torch.__path__[0]): ModelError})
    assert is_users(torch.__file__)
