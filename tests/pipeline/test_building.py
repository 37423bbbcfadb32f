"""Models as a recipe names them, and what a step's identity knows of further ones."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from kdeploy.distill.exits import Exits
from kdeploy.errors import DataError, FileMissing, ModelError, RecipeError, UnknownName
from kdeploy.pipeline.building import auxiliary_model, contents_sha256, without_folders
from kdeploy.store.model_io import load_model


@pytest.fixture
def entry(tiny_build, tmp_path):
    """Return a further model, of which the files may be changed."""
    from safetensors.torch import save_file

    made = auxiliary_model({"build": f"{tiny_build}:net", "args": {}, "weights": None}, seed=1)
    save_file(made.state_dict(), tmp_path / "w.safetensors")
    return {
        "build": f"{tiny_build}:net",
        "args": {},
        "weights": tmp_path / "w.safetensors",
    }


def test_a_further_model_follows_its_seed_unless_it_has_weights(entry):
    fresh = {**entry, "weights": None}
    heads = [auxiliary_model(fresh, seed=s).head.weight for s in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(auxiliary_model(entry, seed=2).head.weight, heads[0])


def test_a_further_model_may_be_an_artefact(store_model, tiny_model):
    model = tiny_model(seed=3)
    folder = store_model(model)
    made = auxiliary_model({"build": str(folder), "args": {}, "weights": None}, seed=0)
    assert torch.equal(made.head.weight, model.head.weight)


def test_another_source_or_other_weights_are_other_contents(entry, tmp_path):
    parameters = {"teachers": (entry,), "how": "mean"}
    before = contents_sha256(parameters)
    build, weights = tmp_path / "build.py", entry["weights"]
    build.write_text(build.read_text() + "\n")
    changed = contents_sha256(parameters)
    weights.write_bytes(weights.read_bytes() + b" ")
    assert len({before, changed, contents_sha256(parameters)}) == 3
    assert contents_sha256({"how": "mean"}) == ""


def test_the_files_of_a_folder_count_by_name_and_contents(tmp_path):
    folder = tmp_path / "extra"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.png").write_text("a")
    before = contents_sha256({"extra": folder})
    shutil.copytree(folder, tmp_path / "copy")
    assert contents_sha256({"extra": tmp_path / "copy"}) == before
    (folder / "deep" / "a.png").rename(folder / "b.png")
    assert contents_sha256({"extra": folder}) != before


def test_where_the_files_are_does_not_count(entry):
    shown = without_folders({"teachers": (entry,), "extra": None})
    assert shown == {
        "teachers": [{"build": "build.py:net", "args": {}, "weights": "w.safetensors"}],
        "extra": None,
    }


PEER = "{build: build.py:net, args: {width: 5}}"


def test_a_further_model_of_a_recipe_takes_part_and_counts(run_project, project):
    first = run_project(f"distill.scheme={{mutual: {{peers: [{PEER}]}}}}", until="distill")
    parameters = first.student.manifest["parameters"]["scheme_parameters"]
    assert parameters["peers"] == [{"build": "build.py:net", "args": {"width": 5}, "weights": None}]
    assert list(first.student.scores["further_validation_accuracies"]) == ["peers[0]"]
    peer = PEER.replace("build.py", "peer.py")
    (project / "peer.py").write_text((project / "build.py").read_text() + "\n")
    second = run_project(f"distill.scheme={{mutual: {{peers: [{peer}]}}}}", until="distill")
    (project / "peer.py").write_text((project / "build.py").read_text() + "\n\n")
    third = run_project(f"distill.scheme={{mutual: {{peers: [{peer}]}}}}", until="distill")
    assert len({run.student.id for run in (first, second, third)}) == 3
    assert first.teacher.id == third.teacher.id


@pytest.mark.parametrize(
    ("scheme", "error", "message"),
    [
        (
            "{mutual: {peers: [{build: build.py:net, args: {classes: 5}}]}}",
            ModelError,
            r"peers\[0\] has 5 classes, arrays has 4",
        ),
        (
            "{assistants: {models: [{build: build.py:net, args: {widht: 5}}]}}",
            UnknownName,
            "widht",
        ),
        ("{ensemble: {teachers: [{build: 0123456789ab}]}}", FileMissing, "no artefact"),
        ("{self_exits: {exits: [blocks.7]}}", UnknownName, r"blocks\.7"),
    ],
)
def test_a_scheme_that_cannot_be_is_refused_before_any_work(
    scheme, error, message, run_project, project
):
    with pytest.raises(error, match=message) as caught:
        run_project(f"distill.scheme={scheme}")
    assert caught.value.hint
    assert not (project / "run").exists()


@pytest.fixture
def wrapped_weights(entry, project):
    """Return a file of weights beside the recipe, saved from a model in DataParallel."""
    tensors = auxiliary_model(entry, seed=0).state_dict()
    torch.save({f"module.{name}": t for name, t in tensors.items()}, project / "wrapped.pth")
    return project / "wrapped.pth"


def test_what_was_done_to_given_weights_is_said_and_kept(wrapped_weights, run_project, project):
    weights = "teacher={build: build.py:net, weights: wrapped.pth}"
    peer = "distill.scheme={mutual: {peers: [{build: build.py:net, weights: wrapped.pth}]}}"
    first = run_project(weights, peer, until="distill")
    sentence = "took the prefix `module.` off the names"
    assert first.teacher.facts["report"] == {"weights": [sentence]}
    report = first.student.facts["report"]
    assert report["weights"] == [f"the weights wrapped.pth: {sentence}"]
    # `mutual` asks no teacher: none is judged. Of arithmetic, what fails on this machine is said.
    assert set(report) - {"arithmetic"} == {"weights", "training"}
    assert (project / "run" / "log.jsonl").read_text().count(sentence) == 2
    tensors = torch.load(wrapped_weights)
    torch.save(
        {name: tensor + 0 for name, tensor in tensors.items()} | {"more.x": torch.ones(1)},
        wrapped_weights,
    )
    second = run_project(weights, peer, until="distill")
    assert second.teacher.id != first.teacher.id
    assert second.student.id != first.student.id


def test_items_that_do_not_fit_are_refused_before_any_work(run_project, project):
    np.save(project / "more.npy", np.zeros((4, 1, 8, 8), np.uint8))
    with pytest.raises(DataError, match=r"more\.npy.*shape \(1, 8, 8\)"):
        run_project("distill.scheme={unlabelled: {extra: more.npy}}")
    assert not (project / "run").exists()


def test_exits_are_stored_exported_and_quantized_around(run_project):
    result = run_project(
        "distill.scheme={self_exits: {exits: [blocks.0, blocks.1]}}",
        "compress=[{int8_ptq: {calibration_batches: 2, batch_size: 16}}]",
        until="export",
    )
    x = torch.rand(5, 1, 12, 12)
    model = load_model(result.student)
    answers = Exits(model).exits(x)
    assert [tuple(a.shape) for a in answers] == [(5, 4)] * 3
    assert torch.equal(answers[-1], model(x))
    assert [e.model.label for e in result.exported] == ["teacher", "student", "int8_ptq"]


def test_pruning_leaves_no_exit_that_lies(run_project):
    result = run_project(
        "distill.scheme={self_exits: {exits: [blocks.0]}}",
        "compress=[{prune_channels: {ratio: 0.3}}]",
        until="compress",
    )
    pruned = load_model(result.models[-1])
    with pytest.raises(ModelError, match="does not fit its layer any more"):
        Exits(pruned).exits(torch.rand(2, 1, 12, 12))


def test_exits_are_trained_again_in_the_recovery_of_a_step(run_project):
    scheme = "{self_exits: {exits: [blocks.0]}}"
    recover = f"{{epochs: 1, batch_size: 16, scheme: {scheme}}}"
    result = run_project(
        f"distill.scheme={scheme}",
        f"compress=[{{prune_channels: {{ratio: 0.3, recover: {recover}}}}}]",
        until="compress",
    )
    answers = Exits(load_model(result.models[-1])).exits(torch.rand(2, 1, 12, 12))
    assert [tuple(a.shape) for a in answers] == [(2, 4)] * 2


def test_relations_without_layers_say_and_keep_what_they_compare(run_project, project):
    recover = "{epochs: 1, batch_size: 16, losses: [{similarity: {}}]}"
    result = run_project(
        "distill.losses=[{rkd: {weight: 0.1}}]",
        f"compress=[{{prune_channels: {{ratio: 0.3, recover: {recover}}}}}]",
        until="compress",
    )
    for artifact, loss in ((result.student, "rkd"), (result.models[-1], "similarity")):
        about = artifact.facts["report"]["losses"]
        (sentence,) = [s for s in about if f"`{loss}`: no `layers` named" in s]
        assert "`head:input: head:input`" in sentence
        assert sentence in (project / "run" / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["distill.losses=[{rkd: {layers: {nowhere: head}}}]"], UnknownName, "nowhere"),
        (["distill.losses=[{rkd: {layers: {'nowhere:input': head}}}]"], UnknownName, "nowhere"),
        (
            ["distill.losses=[{crd: {}}]", "student.build=odd.py:net", "student.args={}"],
            ModelError,
            "classifier of the student",
        ),
        (
            ["compress=[{int8_qat: {epochs: 1, recover: {losses: [{rkd: {}}]}}}]"],
            RecipeError,
            r"compress\[0\]\.recover: the loss `rkd` reads inner layers",
        ),
        (["distill.lora={targets: [nowhere]}"], UnknownName, "`nowhere` in lora.targets"),
        (["distill.lora={}"], ModelError, "no other linear layer than `head`"),
    ],
)
def test_layers_that_are_named_are_looked_at_before_the_teacher_is_trained(
    overrides, error, message, run_project, project
):
    (project / "odd.py").write_text(
        "from torch import nn\ndef net():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 12), nn.Flatten())\n"
    )
    with pytest.raises(error, match=message):
        run_project(*overrides)
    assert not (project / "run").exists()
