"""Weights that PyTorch computes from others become what they are in evaluation mode."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.store.structure import difference, replay
from kdeploy.torch_module.reparametrized import computed_weights, with_plain_weights


def quietly(function):
    def wrapped(module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return function(module)

    return wrapped


def pruned(module):
    return prune.l1_unstructured(module, "weight", amount=0.5)


FORMS = {
    "old weight norm": (quietly(weight_norm), "WeightNorm"),
    "old spectral norm": (spectral_norm, "SpectralNorm"),
    "mask": (pruned, "L1Unstructured"),
    "weight norm": (parametrizations.weight_norm, "WeightNorm"),
    "spectral norm": (parametrizations.spectral_norm, "SpectralNorm"),
    "orthogonal": (parametrizations.orthogonal, "Orthogonal"),
}


def build(form):
    torch.manual_seed(0)
    wrap = FORMS[form][0]
    return nn.Sequential(
        *(wrap(nn.Conv2d(3, 16, 3, padding=1)), nn.ReLU()),
        *(wrap(nn.Conv2d(16, 16, 3, padding=1)), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_they_are_known_by_name(form):
    kind = FORMS[form][1]
    assert computed_weights(build(form)) == {"0.weight": kind, "2.weight": kind}
    assert computed_weights(nn.Linear(2, 2)) == {}


def test_a_copy_after_a_training_step_computes_the_same_from_plain_weights(form, x):
    model = build(form)
    model(x).sum().backward()  # the old form then holds a tensor that cannot be copied
    model.eval()
    plain = with_plain_weights(model)
    assert computed_weights(plain) == {}
    assert type(plain[0]) is nn.Conv2d
    assert [name for name, _ in plain[0].named_parameters()] == ["weight", "bias"]
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert torch.equal(plain(x), model(x))
    assert torch.equal(copy.deepcopy(plain)(x), model(x))
    assert FORMS[form][1] in computed_weights(model).values()  # the original is as it was


def test_a_layer_at_two_places_stays_one(form, x):
    model = build(form).eval()
    model.append(model[0])
    plain = with_plain_weights(model)
    assert plain[-1] is plain[0]


def test_an_artefact_tells_a_plain_layer_from_one_that_computes_its_weights(form, x):
    model = build(form).eval()
    plain = with_plain_weights(model)
    again = replay(build(form), difference(build(form), plain))
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again.eval()(x), model(x))


@pytest.mark.parametrize(
    ("technique", "parameters"),
    [
        ("prune_channels", {"ratio": 0.5, "round_to": 4}),
        ("int8_ptq", {"calibration_batches": 1}),
        ("unstructured", {"sparsity": 0.5, "spare": False}),
    ],
)
def test_techniques_work_on_them(form, technique, parameters, x):
    part = Split(x=x.numpy(), y=torch.arange(4).numpy())
    data = Dataset(
        name="noise",
        train=part,
        validation=part,
        test=part,
        preprocessing=Preprocessing(shape=(3, 8, 8)),
        fingerprint="noise",
    )
    model = build(form).eval()
    small = compress(model, technique, parameters, CompressContext(data=data))
    assert computed_weights(small) == {}
    assert small(x).shape == (4, 4)
    count = sum(parameter.numel() for parameter in small.parameters())
    assert count == (8 * 28 + 8 * 73 + 4 * 9 if technique == "prune_channels" else 2836)
