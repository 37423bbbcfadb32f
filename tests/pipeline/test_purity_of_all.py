"""Every model of a run goes through the same check, whoever it is and however it comes."""

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper, save
from safetensors.torch import save_file

from kdeploy.errors import ModelError
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.run import run
from kdeploy.pipeline.single import Source, compress_one
from kdeploy.recipe.read import load
from kdeploy.recipe.resolve import Step
from kdeploy.store.artifact import Store
from kdeploy.store.references import ModelReference, build_model

BUILD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.out, self.fault = nn.Linear(144, 4), fault

    def forward(self, x):
        if self.fault == "in place":
            x.sub_(0.5)
        return self.out(x.flatten(1))

def net(*, fault=""):
    return Net(fault)
"""
FAULTY = {"build": "build.py:net", "args": {"fault": "in place"}}
FINE = {"build": "build.py:net"}


@pytest.fixture
def project(tmp_path, tiny_data):
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    (tmp_path / "build.py").write_text(BUILD)
    model = build_model(ModelReference(build="build.py:net", folder=tmp_path))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path


def recipe(folder, **sections):
    given = {
        "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
        "teacher": {**FINE, "train": {"epochs": 1, "batch_size": 16}},
        "student": FINE,
        "distill": {"epochs": 1, "batch_size": 16},
        "export": [],
        **sections,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    return load(folder / "recipe.yaml")


ROLES = {
    "a teacher that is trained": {"teacher": {**FAULTY, "train": {"epochs": 1}}},
    "a teacher with weights": {"teacher": {**FAULTY, "weights": "weights.safetensors"}},
    "a student": {"student": FAULTY},
    "an assistant": {"distill": {"scheme": {"assistants": {"models": [FAULTY]}}, "epochs": 1}},
    "a teacher beside": {
        "distill": {
            "scheme": {"ensemble": {"teachers": [{**FAULTY, "weights": "weights.safetensors"}]}},
            "epochs": 1,
        }
    },
    "a scheme of a recovery": {
        "compress": [
            {
                "prune_channels": {
                    "recover": {"scheme": {"assistants": {"models": [FAULTY]}}, "epochs": 1}
                }
            }
        ]
    },
}


@pytest.mark.parametrize("sections", ROLES.values(), ids=ROLES)
def test_nothing_is_trained_with_a_model_that_changes_its_input(project, sections):
    with pytest.raises(ModelError, match=r"in place \(.*build\.py:12, in forward: `x\.sub_"):
        run(recipe(project, **sections), project / "run")
    assert not (project / "run").exists()


def test_a_stored_teacher_is_looked_at_too(project):
    made = run(recipe(project), project / "first", until="teacher").teacher
    kept = made.folder / "build.py"
    kept.write_text(kept.read_text().replace('if self.fault == "in place":', "if True:"))
    # As an artefact of a version that did not look: its checksums hold.
    from kdeploy.store.artifact import write_manifest

    write_manifest(made.folder, made.manifest)
    with pytest.raises(ModelError, match="in place"):
        run(recipe(project, teacher={"build": str(made.folder)}), project / "run")
    assert not (project / "run").exists()


@pytest.mark.parametrize(
    ("ends", "text"),
    [("Softmax", "returns probabilities"), ("noise", r"in `RandomNormalLike` \(draw\)")],
)
def test_a_file_as_teacher_is_looked_at_too(project, ends, text):
    tail = [helper.make_node("Softmax", ["y"], ["logits"], axis=-1)]
    if ends == "noise":
        tail = [
            helper.make_node("RandomNormalLike", ["y"], ["n"], name="draw"),
            helper.make_node("Add", ["y", "n"], ["logits"]),
        ]
    weight = np.random.default_rng(0).normal(size=(144, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["f"], axis=1),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
            *tail,
        ],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = helper.make_opsetid("", 17)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=8), project / "teacher.onnx")
    with pytest.raises(ModelError, match=text):
        run(recipe(project, teacher={"build": "onnx:teacher.onnx"}), project / "run")
    assert not (project / "run").exists()


def test_a_single_command_looks_too_and_leaves_nothing(project):
    source = Source(
        reference=f"{project}/build.py:net",
        args=FAULTY["args"],
        weights=project / "weights.safetensors",
        data=recipe(project).data,
    )
    step = Step(technique="prune_channels", parameters={})
    with pytest.raises(ModelError, match="in place"):
        compress_one(source, step, project / "out", NullListener())
    assert not (project / "out").exists()


def test_a_model_that_turns_out_impure_in_training_is_not_stored(project):
    text = BUILD.replace("self.out(x", "self.shift + self.out(x").replace(
        "self.out, self.fault =",
        "self.steps, self.shift = torch.zeros(()), 0\n        self.out, self.fault =",
    )
    # After the check's steps, as a schedule inside of a model would.
    late = "self.steps = self.steps + self.training; self.shift = torch.ones(4) * (self.steps > 4)"
    (project / "build.py").write_text(
        text.replace("        if self.f", f"        {late}\n        if self.f")
    )
    with pytest.raises(ModelError, match=r"`shift`.* not in its state_dict; nothing was stored"):
        run(recipe(project, student=None, distill=None), project / "run", until="teacher")
    store = Store(root=project / "run/artifacts")
    assert [p for p in store.root.iterdir() if not p.name.startswith((".work", ".locks"))] == []
