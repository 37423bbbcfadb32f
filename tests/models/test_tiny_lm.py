from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdeploy.store.references import ModelReference, build_model
from kdeploy.torch_module.complexity import count_parameters

FOLDER = Path(__file__).parents[2] / "models" / "tiny_lm"


def gpt(**args):
    torch.manual_seed(0)
    return build_model(ModelReference(build="build.py:gpt", args=args, folder=FOLDER)).eval()


@pytest.mark.parametrize(
    ("args", "parameters"), [({}, 813_824), ({"width": 64, "layers": 2}, 110_336)]
)
def test_has_the_number_of_parameters_that_its_docstring_says(args, parameters):
    assert count_parameters(gpt(**args)) == parameters


def test_what_comes_later_changes_nothing_before():
    model = gpt(width=16, layers=2, tokens=10)
    ids = torch.randint(96, (2, 10))
    other = ids.clone()
    other[:, 6:] = (ids[:, 6:] + 1) % 96
    before, after = model(ids), model(other)
    assert before.shape == (2, 10, 96)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any(-1).all()


def test_shorter_texts_are_taken_too():
    model = gpt(width=16, layers=1, tokens=10)
    ids = torch.randint(96, (1, 10))
    torch.testing.assert_close(model(ids[:, :4]), model(ids)[:, :4])


def test_the_last_layer_is_the_embeddings():
    model = gpt(width=16)
    assert model.head.weight is model.words.weight
