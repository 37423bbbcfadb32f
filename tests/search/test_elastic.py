"""A search whose candidates are cut out of one student."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from kdeploy.errors import RecipeError
from kdeploy.recipe.resolve import parse
from kdeploy.search.candidate import make
from kdeploy.search.elastic import beginning_with
from kdeploy.search.settings import settings_of
from tests.search.conftest import RECIPE

WIDTH = {"student.args.width": {"choice": [2, 4, 8]}}
STEP = {"compress.0": {"choice": [{"prune_channels": {"ratio": 0.3}}, None]}}


def settings(project, **changed):
    given = {**RECIPE, "search": {"elastic": True, "space": {**WIDTH, **STEP}}, **changed}
    return settings_of(json.loads(json.dumps(given)), folder=project, out=project / "out")


def test_the_largest_is_trained_and_all_others_are_its_sizes(project):
    shared = settings(project).shared
    assert shared.sizes == 3
    assert shared.document["student"]["args"] == {"width": 8}
    assert shared.document["compress"] == []
    sizes = shared.document["distill"]["scheme"]["elastic"]["sizes"]
    assert [size["args"]["width"] for size in sizes] == [2, 4]
    assert parse(shared.document, folder=project).distill.scheme_name == "elastic"


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {**WIDTH, "distill.learning_rate": {"range": [0.1, 0.2]}},
            "`distill.learning_rate` would need a training for each",
        ),
        (STEP, "names no size"),
        ({"student.args.width": {"choice": list(range(1, 40))}}, "39 sizes, and 32 are the most"),
        ({"student.args.width": {"range": [0.5, 2.0]}}, "is no size"),
    ],
)
def test_a_space_that_is_not_of_sizes_is_refused(project, space, said):
    with pytest.raises(RecipeError, match=said):
        settings(project, search={"elastic": True, "space": space})


def test_another_scheme_is_refused(project):
    distill = {**RECIPE["distill"], "scheme": {"generations": {"count": 2}}}
    with pytest.raises(RecipeError, match="the recipe says `generations`"):
        settings(project, distill=distill)


def test_candidates_are_cut_and_finalists_trained_on(go, made_up):
    overrides = [
        f"search.space={json.dumps({**WIDTH, **STEP})}",
        "search.elastic=true",
        "search.finalists=1",
        "search.seeds=2",
    ]
    result = go(workers=made_up, trials=6, overrides=overrides)
    versions = [r["version"] for r in made_up.asked if r["do"] == "make"]
    assert set(versions[:-2]) == {"untrained", "cut"}
    assert versions[-2:] == ["whole", "whole"]
    assert all(t.state != "stopped" for t in result.trials)
    final = [r for r in made_up.asked if r.get("version") == "whole"]
    assert [r["recipe"]["student"]["weights"] for r in final] == ["cut.safetensors"] * 2
    best = next(f for f in result.finalists.finalists if f.number == result.finalists.best)
    assert best.begins_with == "cut.safetensors"


def test_a_recipe_begins_with_weights_where_there_are_some():
    document = {"student": "build.py:net"}
    assert beginning_with(document, None) == document
    assert beginning_with(document, "w.safetensors")["student"] == {
        "build": "build.py:net",
        "weights": "w.safetensors",
    }


def test_a_candidate_is_the_beginning_of_the_largest_and_may_be_trained_on(
    tmp_path, tiny_build, tiny_data
):
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    given = {
        "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
        "teacher": {"build": "build.py:net", "train": {"epochs": 1, "batch_size": 32}},
        "student": {"build": "build.py:net", "args": {"width": 2}},
        "distill": {"epochs": 1, "batch_size": 32, "learning_rate": 0.1},
        "search": {"elastic": True, "space": {"student.args.width": {"choice": [2, 4]}}},
    }
    asked = settings_of(given, folder=tmp_path, out=tmp_path / "out")
    shared = parse(asked.shared.document, folder=tmp_path)
    made = make(asked.recipe, asked.store, "cut", shared=shared)
    from kdeploy.store.artifact import open_artifact
    from kdeploy.store.model_io import load_model

    found = {path.parent for path in asked.store.glob("*/manifest.json")}
    artifacts = {a.label: a for a in map(open_artifact, found) if a.kind == "torch"}
    small, large = load_model(artifacts["student"]), load_model(artifacts["elastic"])
    theirs = large.state_dict()
    for name, parameter in small.named_parameters():
        beginning = theirs[name][tuple(slice(size) for size in parameter.shape)]
        assert torch.equal(parameter, beginning)
    recorded = artifacts["elastic"].scores["further_validation_accuracies"]["size width 2"]
    assert made.score == recorded
    on = beginning_with(asked.space.document({"student.args.width": 2}), made.begins_with)
    trained = make(parse(on, folder=tmp_path), asked.store, "whole")
    fresh = make(asked.recipe, asked.store, "whole")
    assert trained.file.artifact != fresh.file.artifact
