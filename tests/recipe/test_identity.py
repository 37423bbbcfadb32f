"""Ids of artefacts stay: what the demo's steps hash is what it was before options had one place."""

from __future__ import annotations

from pathlib import Path

from kdeploy.pipeline.building import without_folders
from kdeploy.recipe.read import load
from kdeploy.store.artifact import artifact_id

DIGITS = Path(__file__).parents[2] / "models" / "digits" / "recipe.yaml"
# Of the parameters in the manifests that the demo's run wrote then, with one epoch each.
SHORT = ["teacher.train.epochs=1", "distill.epochs=1", "compress.0.prune_channels.recover.epochs=1"]
TEACHER, STUDENT, PRUNED = "9310a40deca3", "5f04d17f9115", "5856f7d2b40d"


def test_the_demo_s_steps_have_the_ids_that_they_had():
    recipe = load(DIGITS, SHORT)
    pruning = recipe.compress[0]
    recovered = {"recover": without_folders(pruning.recover.identity())}
    assert artifact_id(recipe.teacher.training.training_identity()) == TEACHER
    assert artifact_id(without_folders(recipe.distill.identity())) == STUDENT
    assert artifact_id({**pruning.parameters, **recovered}) == PRUNED
