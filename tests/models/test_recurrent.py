"""The networks of models/time_series and models/row_reader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdeploy.store.references import ModelReference, build_model

MODELS = Path(__file__).parents[2] / "models"


def built(folder, name, **args):
    torch.manual_seed(0)
    reference = ModelReference(build=f"build.py:{name}", args=args, folder=MODELS / folder)
    return build_model(reference).eval()


@pytest.mark.parametrize(
    ("folder", "name", "args", "parameters"),
    [
        ("time_series", "fcn", {"width": 64}, 72_009),
        ("time_series", "gru", {"hidden": 16}, 1_593),
        ("time_series", "lstm", {"hidden": 12}, 1_365),
        ("row_reader", "row_gru", {}, 18_698),
        ("row_reader", "row_gru", {"hidden": 48, "width": 16}, 9_994),
    ],
)
def test_has_the_number_of_parameters_that_its_card_says(folder, name, args, parameters):
    model = built(folder, name, **args)
    assert sum(p.numel() for p in model.parameters()) == parameters
    written = f"{parameters:,}".replace(",", " ")
    assert written in (MODELS / folder / "card.md").read_text()


@pytest.mark.parametrize("name", ["fcn", "gru", "lstm"])
@pytest.mark.parametrize("length", [7, 30])
def test_networks_for_series_take_any_length_and_number_of_channels(name, length):
    model = built("time_series", name, in_channels=3, num_classes=5)
    assert model(torch.randn(2, 3, length)).shape == (2, 5)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_the_classes_follow_from_the_whole_series(name):
    model = built("time_series", name, in_channels=1, num_classes=2)
    x = torch.randn(1, 1, 6, requires_grad=True)
    model(x).sum().backward()
    assert (x.grad != 0).all()


def test_a_row_of_all_channels_is_one_step():
    model = built("row_reader", "row_gru", hidden=8, width=5, in_channels=2, num_classes=3)
    x = torch.randn(1, 2, 7, 5)
    steps = [torch.cat([x[0, 0, row], x[0, 1, row]]) for row in range(7)]
    state = model.recurrent(torch.stack(steps)[None])[1]
    torch.testing.assert_close(model(x), model.head(state[-1]))


@pytest.mark.parametrize("recipe", ["time_series/recipe", "row_reader/recipe", "row_reader/digits"])
def test_recipes_resolve_and_their_teachers_can_be_built(recipe):
    from kdeploy.recipe.read import load

    resolved = load(MODELS / f"{recipe}.yaml")
    for reference in (resolved.teacher.reference, resolved.student):
        assert build_model(reference) is not None
