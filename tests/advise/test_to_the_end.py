"""Advised recipes are run as they were written: each ends in a bundle that verifies."""

from __future__ import annotations

import numpy as np
import pytest

import kdeploy.advise.run as advising
from kdeploy.advise.rules import RULES
from kdeploy.package.verify import verify
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.run import run
from kdeploy.pipeline.single import Source
from kdeploy.recipe.read import load
from kdeploy.recipe.resolve import data_reference
from tests.conftest import TINY_BUILD, _edges

SHORT = ("bench.minimum_seconds=0.05", "bench.minimum_count=20")
ONE_EPOCH = "distill.epochs=1"


@pytest.fixture(scope="module")
def advised(tmp_path_factory):
    """Return the recipe of every rule that applies to a narrow network."""
    folder = tmp_path_factory.mktemp("to-the-end")
    for name, part in (("train", _edges(96, seed=1)), ("test", _edges(48, seed=3))):
        np.savez(folder / f"{name}.npz", x=part.x, y=part.y)
    given = {"name": "arrays", "train": "train.npz", "test": "test.npz"}
    source = Source(
        reference=f"{TINY_BUILD}:net",
        as_built=True,
        args={"width": 16},
        data=data_reference({**given, "validation_fraction": 0.5}, folder, 0),
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(advising, "MOST_RECIPES", len(RULES))
        # On a busy machine the minute may be over before the first variant is made.
        patched.setattr("kdeploy.advise.measured.SECONDS", 3600.0)
        plan = {"accuracy": False, "minimum_seconds": 0.05, "minimum_count": 20}
        patched.setattr("kdeploy.advise.measured.PLAN", plan)
        told = advising.advise(source, (), folder / "advice", NullListener())
    return {one.rule.name: one.file for one in told.recipes}


# A cascade asks for a model that has learned something: tests/pipeline/test_dynamic.py has one. And
# a quarter is made as a half is.
NOT_HERE = ("cascade", "student_quarter")


@pytest.mark.parametrize("name", [rule.name for rule in RULES if rule.name not in NOT_HERE])
def test_an_advised_recipe_runs_to_the_end(advised, name, tmp_path):
    recipe = load(advised[name])
    short = [ONE_EPOCH] if recipe.distill is not None else []
    ran = run(load(advised[name], overrides=[*SHORT, *short]), tmp_path)
    assert ran.summary["packaged"] is not None
    assert verify(tmp_path / "bundle").passed
    assert [stage["stage"] for stage in ran.summary["stages"]][-1] == "package"
