"""Compression steps in a run: training inside and after them, drops, reports, interruptions."""

import json

import pytest
import torch

import kdeploy.pipeline.steps as steps
from kdeploy.errors import GateFailed, RecipeError
from kdeploy.recipe.resolve import step
from kdeploy.store.artifact import open_artifact
from kdeploy.store.model_io import load_model


@pytest.fixture
def compressed(run_project):
    """Return a function that runs the project with these steps up to compression."""

    def go(*entries, out="run", **options):
        override = f"compress={json.dumps(list(entries))}"
        return run_project(override, out=out, until="compress", **options).models

    return go


def made(folder):
    return open_artifact(folder).manifest


def test_a_drop_beyond_what_is_allowed_stops_the_chain(compressed, project, monkeypatch):
    found = iter([0.9, 0.85])
    monkeypatch.setattr(steps, "accuracy", lambda *a, **_: next(found))
    with pytest.raises(
        GateFailed, match=r"lost 5\.00 pp .* 90.00% before, 85.00% after.* 1 pp"
    ) as e:
        compressed({"prune_channels": {"ratio": 0.3, "max_drop": "1pp"}})
    assert e.value.hint
    labels = [made(f.parent)["label"] for f in project.glob("run/artifacts/*/manifest.json")]
    assert "student" in labels
    assert "prune_channels" not in labels


def test_a_drop_that_is_allowed_passes(compressed):
    *_, last = compressed({"prune_channels": {"ratio": 0.3, "max_drop": "99pp"}})
    assert last.label == "prune_channels"


def test_a_stored_step_is_judged_by_the_bound_of_this_run(compressed, monkeypatch):
    found = iter([0.9, 0.85])
    with monkeypatch.context() as patch:
        patch.setattr(steps, "accuracy", lambda *a, **_: next(found))
        compressed({"prune_channels": {"ratio": 0.3, "max_drop": "6pp"}})
    with pytest.raises(GateFailed, match=r"lost 5\.00 pp"):
        compressed({"prune_channels": {"ratio": 0.3, "max_drop": "4pp"}})
    compressed({"prune_channels": {"ratio": 0.3, "max_drop": "5pp"}})


@pytest.mark.parametrize("drop", ["3", "-1pp", "120pp", "1ms"])
def test_a_drop_has_to_be_a_part_of_the_accuracy(drop):
    with pytest.raises(RecipeError, match="no drop of accuracy"):
        step({"prune_channels": {"max_drop": drop}}, "compress[0]")


def test_records_accuracy_before_and_after_recovery_and_what_the_step_says(compressed):
    recover = {"epochs": 1, "batch_size": 16}
    *_, last = compressed({"unstructured": {"sparsity": 0.5, "recover": recover}})
    assert {
        "validation_accuracy_before",
        "validation_accuracy_unrecovered",
        "validation_accuracy",
    } <= last.manifest["scores"].keys()
    assert last.facts["report"]
    assert 0.3 < last.facts["sparsity"] <= 0.5


def test_zeros_stay_through_recovery_and_the_steps_after(compressed):
    recover = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05}
    *_, dense, sparse, quantized = compressed(
        {"unstructured": {"sparsity": 0.6, "recover": recover}},
        {"int8_ptq": {"calibration_batches": 2, "batch_size": 16}},
    )
    weights = {k: v for k, v in load_model(sparse).named_parameters() if v.dim() > 1}
    before = dict(load_model(dense).named_parameters())
    zeros = {k: v == 0 for k, v in weights.items()}
    assert sum(z.sum() for z in zeros.values()) > 0.5 * sum(z.numel() for z in zeros.values())
    moved = [not torch.equal(before[k][~zeros[k]], v[~zeros[k]]) for k, v in weights.items()]
    assert all(moved), "recovery trained nothing"
    assert quantized.facts["sparsity"] == pytest.approx(sparse.facts["sparsity"])


def test_updates_of_low_rank_are_in_the_weights_of_the_artefact(compressed):
    recover = {"epochs": 2, "batch_size": 16, "lora": {"rank": 2, "targets": ["head"]}}
    *_, recovered = compressed({"prune_channels": {"ratio": 0.3, "recover": recover}})
    del recover["lora"]
    *_, trained = compressed({"prune_channels": {"ratio": 0.3, "recover": recover | {"epochs": 0}}})
    one, other = load_model(recovered).state_dict(), load_model(trained).state_dict()
    assert list(one) == list(other)
    moved = {name for name in one if not torch.equal(one[name], other[name])}
    assert {name for name in moved if "running" not in name and "num_" not in name} == {
        "head.weight"
    }


def test_what_was_compressed_is_kept_when_the_recovery_is_interrupted(compressed, monkeypatch):
    entry = {"prune_channels": {"ratio": 0.3, "recover": {"epochs": 1, "batch_size": 16}}}
    real = steps.compress
    with monkeypatch.context() as patch:
        patch.setattr(steps, "distill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compressed(entry)
        patch.setattr(steps, "compress", lambda *a: pytest.fail("compressed a second time"))
        patch.undo()
        patch.setattr(steps, "compress", lambda *a: pytest.fail("compressed a second time"))
        *_, resumed = compressed(entry)
    assert steps.compress is real
    *_, whole = compressed(entry, out="other")
    one, other = load_model(resumed).state_dict(), load_model(whole).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


def interrupted(*arguments, **keywords):
    raise KeyboardInterrupt


def test_a_technique_that_trains_has_its_epochs_beside_its_own_parameters():
    parsed = step({"int8_qat": {"epochs": 2, "recover": {"batch_size": 32}}}, "compress[0]")
    assert parsed.recover.epochs == 2
    assert parsed.recover.batch_size == 32
    with pytest.raises(RecipeError, match="`epochs` is a key of `int8_qat` itself"):
        step({"int8_qat": {"recover": {"epochs": 2}}}, "compress[0]")
