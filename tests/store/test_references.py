"""References: every form builds, every mistake has its error."""

import hashlib
import sys
import types

import pytest
from torch import nn

from kdeploy.errors import FileMissing, InputError, MissingDependency, ModelError, UnknownName
from kdeploy.store.references import ModelReference, build_model, source_sha256, source_text

BUILD = """
import warnings
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Widths:
    first: int = 4

def small(*, width: int = 3, depth: int = 1) -> nn.Module:
    return nn.Linear(width, depth)

def needy(width): return nn.Linear(width, 1)

def failing(*, width: int = 3): raise RuntimeError("no such luck")

def pair(): return nn.Linear(1, 1), 3

def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Linear(1, 1))

def part_scripted(): return nn.Sequential(nn.Linear(1, 1), scripted())

def lazy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.LazyLinear(3)

def meta(): return nn.Linear(1, 1, device="meta")

def _own(): return nn.Linear(1, 1)

constant = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "build.py").write_text(BUILD)
    return tmp_path


def refer(build, folder, **fields):
    return ModelReference(build=build, folder=folder, **fields)


def test_builds_from_a_file_with_arguments(folder):
    model = build_model(refer("build.py:small", folder, args={"width": 5, "depth": 2}))
    assert model.weight.shape == (2, 5)


def test_two_files_of_one_name_do_not_mix(folder):
    other = folder / "other"
    other.mkdir()
    (other / "build.py").write_text("from torch import nn\ndef small(): return nn.ReLU()\n")
    for _ in range(2):
        assert isinstance(build_model(refer("build.py:small", folder)), nn.Linear)
        assert isinstance(build_model(refer("other/build.py:small", folder)), nn.ReLU)


def test_siblings_of_two_folders_do_not_mix(tmp_path):
    for name, layer in (("a", "Tanh"), ("b", "ReLU")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "blocks.py").write_text(f"from torch.nn import {layer} as Block\n")
        (tmp_path / name / "build.py").write_text("import blocks\nmake = blocks.Block\n")
    path = list(sys.path)
    assert isinstance(build_model(refer("a/build.py:make", tmp_path)), nn.Tanh)
    assert isinstance(build_model(refer("b/build.py:make", tmp_path)), nn.ReLU)
    assert sys.path == path


def test_a_kept_copy_replaces_the_file_but_keeps_its_siblings(tmp_path):
    (tmp_path / "blocks.py").write_text("from torch.nn import Tanh\n")
    (tmp_path / "build.py").write_text("from torch import nn\ndef make(): return nn.ReLU()\n")
    kept = tmp_path / "store" / "build.py"
    kept.parent.mkdir()
    kept.write_text("import blocks\ndef make(): return blocks.Tanh()\n")
    reference = refer("build.py:make", tmp_path, source_file=kept)
    assert isinstance(build_model(reference), nn.Tanh)
    assert source_text(reference) == kept.read_text()


def test_an_edited_file_is_read_again(folder):
    build_model(refer("build.py:small", folder))
    (folder / "build.py").write_text("from torch import nn\ndef small(): return nn.ReLU()\n")
    assert isinstance(build_model(refer("build.py:small", folder)), nn.ReLU)


def test_builds_from_a_module():
    model = build_model(
        ModelReference(
            build="torch.nn:Linear", args=dict.fromkeys(("in_features", "out_features"), 2)
        )
    )
    assert isinstance(model, nn.Linear)


def test_builds_from_a_module_beside_the_recipe(tmp_path):
    (tmp_path / "nets_of_this_test.py").write_text("from torch.nn import ReLU as make\n")
    reference = refer("nets_of_this_test:make", tmp_path)
    assert isinstance(build_model(reference), nn.ReLU)
    assert source_text(reference) is None
    text = (tmp_path / "nets_of_this_test.py").read_text()
    assert source_sha256(reference) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("build", "args", "error", "text"),
    [
        ("nowhere.py:small", {}, FileMissing, "nowhere.py"),
        ("build.py:smal", {}, UnknownName, "did you mean `small`"),
        ("build.py:constant", {}, UnknownName, "failing"),
        ("build.py:small", {"widht": 3}, UnknownName, "did you mean `width`"),
        ("build.py:needy", {}, ModelError, "needs the argument `width`"),
        ("build.py:failing", {}, ModelError, "no such luck"),
        ("build.py:small", {"width": "x"}, ModelError, "keyword arguments: width, depth"),
        ("build.py:pair", {}, ModelError, "returned a tuple"),
        ("build.py:nothing", {}, UnknownName, "hint: valid: `Widths`, `failing`,"),
        ("build.py:scripted", {}, ModelError, "returned TorchScript: its layers"),
        ("build.py:part_scripted", {}, ModelError, "returned TorchScript in `1`"),
        ("build.py:lazy", {}, ModelError, "`weight` has no shape yet"),
        ("build.py:meta", {}, ModelError, "`weight` is on the device `meta`"),
        ("build.py", {}, InputError, "path/build.py:function"),
        ("onnx:model.onnx", {}, InputError, "not a reference to a torch model"),
        ("some thing:name", {}, InputError, "path/build.py:function"),
        ("no_such_library_here.nets:make", {}, MissingDependency, "no_such_library_here"),
    ],
)
def test_a_mistake_has_its_error(folder, build, args, error, text):
    with pytest.raises(error) as caught:
        build_model(refer(build, folder, args=args))
    assert text in str(caught.value)
    assert "hint:" in str(caught.value)


def test_a_file_that_cannot_be_executed_says_where(folder):
    (folder / "build.py").write_text("def small(:\n")
    with pytest.raises(ModelError, match=r"build\.py.*SyntaxError"):
        build_model(refer("build.py:small", folder))


def test_a_library_that_the_file_needs_is_a_missing_dependency(folder):
    (folder / "build.py").write_text("import no_such_library_here\n")
    with pytest.raises(MissingDependency, match="pip install no_such_library_here"):
        build_model(refer("build.py:small", folder))


def test_the_digest_follows_the_text(folder):
    reference = refer("build.py:small", folder)
    assert source_text(reference) == BUILD
    assert source_sha256(reference) == hashlib.sha256(BUILD.encode()).hexdigest()


def test_pytorchcv_builds_and_names_the_nearest():
    pytest.importorskip("pytorchcv")
    model = build_model(ModelReference(build="pytorchcv:resnet20_cifar10"))
    assert sum(p.numel() for p in model.parameters()) == 272_474
    assert len(source_sha256(ModelReference(build="pytorchcv:resnet20_cifar10"))) == 64
    with pytest.raises(UnknownName, match="resnet20_cifar10"):
        build_model(ModelReference(build="pytorchcv:resnet20_cifar"))


def test_an_import_that_fails_for_any_reason_is_a_missing_dependency(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("raise OSError('libcudart.so.11')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(MissingDependency, match=r"libcudart(.|\n)*pip install --upgrade timm"):
        build_model(ModelReference(build="timm:resnet18"))


def test_timm_and_torchvision_are_asked_by_name(monkeypatch):
    timm = types.ModuleType("timm")
    timm.is_model = lambda name: name == "tiny"
    timm.list_models = lambda: ["tiny"]
    timm.create_model = lambda model_name, **kwargs: nn.Linear(kwargs["width"], 1)
    vision = types.ModuleType("torchvision.models")
    vision.list_models = lambda: ["tiny"]
    vision.get_model_builder = lambda name: lambda *, width=1: nn.Linear(width, 2)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", vision)
    for library in ("timm", "torchvision"):
        model = build_model(ModelReference(build=f"{library}:tiny", args={"width": 3}))
        assert model.in_features == 3
        with pytest.raises(UnknownName, match="tiny"):
            build_model(ModelReference(build=f"{library}:tini"))


def test_a_transformers_folder_without_its_config_is_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    with pytest.raises(FileMissing, match="nothing is downloaded"):
        build_model(refer("transformers:gone", tmp_path))
