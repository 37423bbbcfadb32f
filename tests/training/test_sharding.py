"""Divided weights: the same training, in half of the memory, that any other one goes on from."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from kdeploy.distill.config import DistillConfig
from kdeploy.errors import InputError, ModelError, RecipeError
from kdeploy.pruning.group_lasso import GroupLasso
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised
from kdeploy.training.processes import Processes
from kdeploy.training.sharding import _apart, check_shardable
from tests.training.pair import outcomes_of_two
from tests.training.sharded_together import AVERAGED, WAYS, network, plain, trained

PAIR = Processes(devices=2)
OTHERS = ("distilled", "pruned", "looked at", "language", "undisturbed")
RESUMED = ("sharded, sharded", "sharded, replicated", "replicated, sharded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def together(folder):
    """Return what both processes of a pair ended with."""
    return outcomes_of_two("tests.training.sharded_together", folder)


def check_alike(found, expected, *, tolerance=1e-5):
    (numbers, weights), (expected_numbers, expected_weights) = found, expected
    for epoch, other in zip(numbers, expected_numbers, strict=True):
        assert epoch == pytest.approx(other, abs=tolerance)
    assert list(weights) == list(expected_weights)
    for name, value in weights.items():
        assert torch.allclose(value, expected_weights[name], rtol=0, atol=tolerance), name


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, *OTHERS])
def test_divided_weights_learn_what_whole_ones_learn(way, together):
    numbers, _ = together[0]["sharded"][way]
    assert numbers[1][0] < numbers[0][0], "it learned"
    check_alike(together[0]["sharded"][way], together[0]["replicated"][way])


@pytest.mark.slow
def test_both_processes_end_in_all_weights(together):
    for way, (numbers, weights) in together[0]["sharded"].items():
        other_numbers, other_weights = together[1]["sharded"][way]
        assert numbers == other_numbers
        assert all(torch.equal(value, other_weights[name]) for name, value in weights.items())


@pytest.mark.slow
def test_each_process_holds_half_of_weights_and_averages(together):
    for made in together:
        held, whole = made["held"]
        # Weights, their moving average and Adam's two, 4 bytes each.
        assert whole == 4 * 4 * sum(p.numel() for p in plain().parameters())
        assert held == pytest.approx(whole / 2, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("way", RESUMED)
def test_goes_on_with_divided_and_whole_weights(way, together):
    check_alike(together[0][way], together[0]["replicated"]["undisturbed"])


@pytest.mark.slow
def test_one_process_goes_on_from_divided_weights(together, folder, tmp_path):
    shutil.copytree(folder / "sharded", tmp_path / "work")
    context = FitContext(seed=3, device="cpu", work=tmp_path / "work")
    found = trained(plain(), context, **AVERAGED)
    expected = together[0]["replicated"]["undisturbed"]
    assert found[0][0] == expected[0][0], "the first epoch is the checkpoint's, to the last digit"
    check_alike(found, expected)


@pytest.mark.slow
def test_a_model_is_a_plain_one_afterwards_and_can_be_trained_again(together):
    _, weights = together[0]["again"]
    _, once = together[0]["sharded"]["supervised"]
    assert not torch.equal(weights["head.weight"], once["head.weight"])


@pytest.mark.slow
def test_both_processes_say_what_is_no_number(together):
    assert together[0]["errors"] == together[1]["errors"]
    unreadable, diverged = together[0]["errors"]
    assert "33 answers to validation items are NaN" in unreadable
    assert "without `fully_shard`" in unreadable
    assert "the largest weight of `student." in diverged


def test_one_process_is_told_to_start_several():
    with pytest.raises(InputError, match="this training has one") as caught:
        trained(plain(), FitContext(device="cpu"), fully_shard=True)
    assert "torchrun --nproc-per-node 2" in caught.value.hint


def test_without_training_nothing_is_divided():
    numbers, _ = trained(plain(), FitContext(device="cpu"), fully_shard=True, epochs=0)
    assert numbers == []


def test_constraints_on_all_weights_are_refused():
    context = FitContext(constraints=(GroupLasso([], 0.1),))
    with pytest.raises(RecipeError, match="group lasso") as caught:
        check_shardable(Supervised(plain()), context, PAIR)
    assert caught.value.hint


def test_parameters_that_cannot_be_divided_are_refused():
    student = plain()
    student.register_parameter("scale", nn.Parameter(torch.ones(())))
    with pytest.raises(ModelError, match=r"student\.scale.* has none") as caught:
        check_shardable(Supervised(student), FitContext(), PAIR)
    assert "(1,)" in caught.value.hint
    mixed = plain()
    mixed[3].bfloat16()
    with pytest.raises(ModelError, match=r"torch\.bfloat16 and torch\.float32") as caught:
        check_shardable(Supervised(mixed), FitContext(), PAIR)
    assert caught.value.hint
    check_shardable(Supervised(plain()), FitContext(), PAIR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": "on"}, "compile: on"),
        ({"losses": [{"kd": {}}]}, "losses without weights"),
        ({"losses": [{"jsd": {"weight": 1.0, "on_policy": 0.5}}]}, "on_policy"),
        ({"scheme": {"mutual": {}}}, "mutual"),
        ({"scheme": {"elastic": {}}}, "elastic"),
        ({"scheme": {"self_exits": {}}}, "self_exits"),
    ],
)
def test_what_needs_all_weights_is_refused(options, message):
    with pytest.raises(RecipeError, match=message) as caught:
        DistillConfig(fully_shard=True, **options)
    assert caught.value.hint
    DistillConfig(**options)


def test_ids_and_checkpoints_do_not_depend_on_where_weights_lie():
    for config in (TrainingConfig, DistillConfig):
        assert config(fully_shard=True).training_identity() == config().training_identity()
    assert DistillConfig(fully_shard=True).identity() == DistillConfig().identity()


def test_blocks_that_share_weights_are_gathered_with_the_rest():
    student = network()
    blocks = {f"blocks.{place}": block for place, block in enumerate(student.blocks)}
    assert _apart(blocks, student, Supervised(student)) == list(student.blocks[:3])
    adapted = Supervised(student)
    adapted.adapter = nn.Module()
    adapted.adapter.register_parameter("weight", student.blocks[1].norm.weight)
    assert _apart(blocks, student, adapted) == [student.blocks[0], student.blocks[2]]
    twice = nn.Sequential(*[student.blocks[0]] * 2)
    assert _apart({"0": twice[0]}, twice, Supervised(twice)) == []
