"""Faults that a store, a batch or a second call would show, each named before training."""

import numpy as np
import pytest
import torch

from kdeploy.errors import ModelError
from kdeploy.pipeline.check import check_model
from kdeploy.pipeline.purity import heard
from kdeploy.store.references import ModelReference, build_model

HEAD = """
import math, random
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
TABLE = torch.rand(144)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.out = nn.Flatten(), nn.Linear(144, 4)
        {init}

    def forward(self, x):
        {forward}
        return self.out(self.flat(x))

class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.rand(1)

    def forward(self, x):
        return x * self.scale

class Tables:
    def __init__(self):
        self.rows = [torch.rand(1), torch.rand(1)]

def made():
    factor = torch.rand(1)
    return lambda x: x * factor

def net():
    return Net()
"""
FINE = {
    "nothing": ("pass", "pass"),
    "a constant attribute": ("self.w = torch.linspace(0, 1, 144)", "x = x * self.w.view(12, 12)"),
    "a draw under a seed of its own": (
        "self.w = torch.rand(144, generator=torch.Generator().manual_seed(1))",
        "x = x * self.w.view(12, 12)",
    ),
    "a buffer": (
        "self.register_buffer('w', torch.rand(144))",
        "x = x * self.w.view(12, 12)",
    ),
    "an activation in place where it may be": (
        "self.layers = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU(inplace=True))",
        "x = self.layers(x)",
    ),
    "frozen weights": ("self.out.requires_grad_(False)", "pass"),
    "dropout": ("self.drop = nn.Dropout(0.5)", "x = self.drop(x)"),
    "noise in training alone": ("pass", "x = x + torch.randn_like(x) if self.training else x"),
    "a counter that nobody reads": ("self.calls = 0", "self.calls += 1"),
    "a number, which is stored beside the tensors": ("self.s = random.random()", "x = x * self.s"),
    "another width each time": ("self.more = nn.Linear(1, random.randrange(1, 10**6))", "pass"),
    "a cache of constants": (
        "self.cache = None",
        "self.cache = torch.ones(12) if self.cache is None else self.cache; x = x * self.cache",
    ),
    "a norm of the batch in training": ("self.norm = nn.BatchNorm2d(1)", "x = self.norm(x)"),
}
FAULTS = {
    "a plain attribute": (
        "self.w = torch.rand(144)",
        "x = x * self.w.view(12, 12)",
        r"`w` is a plain attribute.*build\.py:13, in __init__: `self\.w = torch\.rand",
        'register_buffer("w"',
    ),
    "an attribute of an inner module": (
        "self.inner = nn.Sequential(Inner())",
        "x = self.inner(x)",
        r"`inner\.0\.scale` is a plain attribute.*`self\.scale = torch",
        'register_buffer("scale"',
    ),
    "a list": (
        "self.ws = [torch.rand(1), torch.rand(1)]",
        "x = x * self.ws[0] + self.ws[1]",
        r"`ws\[0\]`, and 1 more is a plain attribute",
        "register_buffer",
    ),
    "a dictionary": (
        "self.ws = {'a': torch.rand(1)}",
        "x = x * self.ws['a']",
        r"`ws\['a'\]` is a plain attribute",
        "register_buffer",
    ),
    "an object of one's own": (
        "self.tables = Tables()",
        "x = x * self.tables.rows[1]",
        r"`tables\.rows\[0\]`, and 1 more",
        "register_buffer",
    ),
    "a closure": ("self.f = made()", "x = self.f(x)", r"`f's `factor``", "register_buffer"),
    "layers in a plain list": (
        "self.layers = [nn.Linear(12, 12)]",
        "x = self.layers[0](x)",
        r"`layers\[0\]\.weight`, and 1 more",
        "`self.layers = nn.ModuleList(...)`",
    ),
    "layers in a plain dictionary": (
        "self.layers = {'a': nn.Linear(12, 12)}",
        "x = self.layers['a'](x)",
        r"`layers\['a'\]\.weight`, and 1 more",
        "`self.layers = nn.ModuleDict(...)`",
    ),
    "one of two, which another seed may choose too": (
        "self.flip = set(random.sample([0, 1], 1))",
        "x = -x if 1 in self.flip else x",
        "depends on something that is not in the model",
        "register_buffer",
    ),
    "an activation of two, which is stored where it differs": (
        "self.act = random.choice([nn.Tanh(), nn.Sigmoid()])",
        "x = self.act(x)",
        "makes one of a few models, by chance",
        "`random.Random(0)`",
    ),
    "a number of two": (
        "self.s = random.choice([1.0, 2.0])",
        "x = x * self.s",
        "makes one of a few models, by chance",
        "`args:`",
    ),
    "all axes of one squeezed away": (
        "pass",
        "return self.out(self.flat(x)).squeeze()",
        r"answers one item alone with the shape \(4,\), and two with \(2, 4\) \(.*build\.py:16",
        "`squeeze(1)`",
    ),
    "a batch of one that does not fit": (
        "pass",
        "x = x.squeeze().flatten(1)",
        r"cannot run on items .*build\.py:17.*one item alone, as devices ask for it",
        "`squeeze(1)`",
    ),
    "no gradient": (
        "pass",
        "with torch.no_grad(): return self.out(self.flat(x))",
        r"no gradient gets from its answer to its weights \(.*build\.py:16",
        "`torch.no_grad()`",
    ),
    "an answer cut off from its weights": (
        "pass",
        "return self.out(self.flat(x)).detach()",
        r"no gradient gets from its answer to its weights \(.*build\.py:16",
        "`.detach()`",
    ),
    "no answer to each item": (
        "pass",
        "return self.out(self.flat(x)).mean()",
        r"returns a tensor \(\) for a batch of 2 items",
        "no mean over all",
    ),
    "complex numbers": (
        "pass",
        "y = self.out(self.flat(x)); return torch.complex(y, y)",
        r"a tensor \(2, 4\) of complex numbers",
        "`.abs()`",
    ),
    "a weight in half precision": (
        "self.out.half()",
        "pass",
        r"cannot run on items of shape .*dtype",
        "`return model.float()`",
    ),
    "a device that is not there": (
        "pass",
        "raise RuntimeError('Expected all tensors to be on the same device')",
        r"cannot run on items of shape .*build\.py:16",
        "to kdeploy, which moves",
    ),
    "an array of numpy": (
        "self.w = np.random.rand(12).astype('float32')",
        "x = x * torch.from_numpy(self.w)",
        r"`w` is a plain attribute",
        "register_buffer",
    ),
    "a global": (
        "pass",
        "x = x * TABLE.view(12, 12)",
        r"`TABLE` is a global of its source file",
        "register_buffer",
    ),
    "a buffer that is not stored": (
        "self.register_buffer('w', torch.rand(12), persistent=False)",
        "x = x * self.w",
        r"`w` is a buffer with `persistent=False`.*build\.py:13.*`self\.register_buffer",
        "without `persistent=False`",
    ),
    "behind a last layer of zeros": (
        "self.w = torch.rand(1); nn.init.zeros_(self.out.weight); nn.init.zeros_(self.out.bias)",
        "x = x + self.w",
        r"`w` is a plain attribute",
        "register_buffer",
    ),
    "statistics of training in an attribute": (
        "self.mean = torch.zeros(1)",
        "self.mean = x.mean() + 1 if self.training else self.mean; x = x + self.mean",
        r"`mean` is a plain attribute",
        "register_buffer",
    ),
    "what the first call saw": (
        "self.first = None",
        "self.first = x.mean() + 1 if self.first is None else self.first; x = x * self.first",
        r"`first` is a plain attribute",
        "register_buffer",
    ),
    "functional dropout": (
        "pass",
        "x = F.dropout(x, 0.5)",
        r"random numbers in eval mode \(.*build\.py:16, in forward: `x = F\.dropout",
        "self.training",
    ),
    "noise": (
        "pass",
        "x = x + torch.randn_like(x)",
        r"random numbers in eval mode \(.*build\.py:16",
        "self.training",
    ),
    "noise of numpy": (
        "pass",
        "x = x + float(np.random.rand())",
        r"random numbers in eval mode \(.*build\.py:16",
        "self.training",
    ),
    "dropout that is always on": (
        "self.drop = nn.Dropout(0.5); self.drop.train = lambda mode=True: self.drop",
        "x = self.drop(x)",
        r"random numbers in eval mode \(.*in the layer `drop` \(Dropout",
        "self.training",
    ),
    "a memory": (
        "self.last = torch.zeros(1)",
        "x = x + self.last; self.last = x.mean()",
        r"it changes `last` in each call \(.*build\.py:13",
        "each forward",
    ),
    "a memory in a buffer": (
        "self.register_buffer('last', torch.zeros(1))",
        "x = x + self.last; self.last += 1",
        r"it changes `last` in each call",
        "each forward",
    ),
    "a generator of its own": (
        "self.rng = np.random.default_rng(0)",
        "x = x + float(self.rng.random())",
        "a generator of its own",
        "each forward",
    ),
    "an input changed in place": (
        "pass",
        "x.sub_(0.5)",
        r"changes its input in place \(.*build\.py:16, in forward: `x\.sub_",
        "inplace=False",
    ),
    "an input changed by numpy": (
        "pass",
        "x.numpy()[:] += 1; x = x + 0",
        r"changes its input in place \(.*build\.py:16",
        "new tensor",
    ),
    "a first activation in place": (
        "self.act = nn.ReLU(inplace=True)",
        "x = self.act(x)",
        r"changes its input in place \(.*build\.py:16.*in the layer `act` \(ReLU\(inplace=True\)\)",
        "inplace=False",
    ),
    "a part of the input": (
        "pass",
        "x[:, :, 0] = 7",
        r"changes its input in place \(.*build\.py:16",
        "new tensor",
    ),
    "an input changed in training": (
        "pass",
        "x = x.add_(0.1) if self.training else x",
        r"in place while it is trained \(.*build\.py:16",
        "new tensor",
    ),
    "what backward needs is overwritten": (
        "self.scale = nn.Parameter(torch.ones(1))",
        "x = (x * self.scale).sigmoid(); x += 1; x = x * 1",
        r"cannot be trained: .*modified by an inplace operation.*build\.py:16, in forward",
        "`x = x + y` for `x += y`",
    ),
    "probabilities": (
        "pass",
        "return self.out(self.flat(x)).softmax(-1)",
        r"returns probabilities, not logits \(.*build\.py:16",
        "leave the softmax out",
    ),
    "a sigmoid": (
        "pass",
        "return self.out(self.flat(x)).sigmoid().view(-1, 4)",
        r"returns probabilities, not logits \(.*build\.py:16.*each is what a sigmoid gives",
        "leave the sigmoid out",
    ),
    "a dictionary while it is trained": (
        "pass",
        "if self.training: return {'out': self.out(self.flat(x))}",
        r"a dict of `out` in training mode \(.*build\.py:16.* a tensor \(2, 4\) in eval mode",
        "both",
    ),
    "an error in training alone": (
        "pass",
        "assert not self.training, 'for inference'",
        r"cannot run in training mode: AssertionError: for inference \(.*build\.py:16",
        "",
    ),
}


def checked(folder, data, init, forward, **more):
    (folder / "build.py").write_text(HEAD.format(init=init, forward=forward))
    reference = ModelReference(build="build.py:net", folder=folder)
    more = {"batch_sizes": {"distill.batch_size": 16}, **more}
    again = lambda: build_model(reference)  # noqa: E731
    check_model(build_model(reference), data, "student", again=again, **more)


@pytest.mark.parametrize(("init", "forward"), FINE.values(), ids=FINE)
def test_what_computes_from_input_and_state_alone_passes(tmp_path, tiny_data, init, forward):
    checked(tmp_path, tiny_data, init, forward)


@pytest.mark.parametrize(("init", "forward", "text", "hint"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_named_with_its_line(tmp_path, tiny_data, init, forward, text, hint):
    with pytest.raises(ModelError, match=text) as caught:
        checked(tmp_path, tiny_data, init, forward)
    assert "student" in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_model_that_is_only_asked_may_fail_in_training(tmp_path, tiny_data):
    checked(tmp_path, tiny_data, "pass", "assert not self.training", batch_sizes=None)
    checked(
        tmp_path, tiny_data, "pass", "return self.out(self.flat(x)).softmax(-1)", batch_sizes=None
    )


def test_an_answer_that_the_size_of_the_batch_changes_is_said(tmp_path, tiny_data):
    (text,) = said(tmp_path, tiny_data, "pass", "x = x if len(x) == 1 else x * 1.1")
    assert "by what else is in its batch" in text


def test_an_input_that_the_data_do_not_have_is_named(tmp_path, tiny_data):
    build = HEAD.replace("forward(self, x)", "forward(self, x, {more})")
    for more in ("targets", "*, targets"):
        (tmp_path / "build.py").write_text(build.format(init="pass", forward="pass", more=more))
        model = build_model(ModelReference(build="build.py:net", folder=tmp_path))
        with pytest.raises(ModelError, match=r"needs `targets` too, .* one input") as caught:
            check_model(model, tiny_data, "teacher")
        assert "`targets=None`" in caught.value.hint
    (tmp_path / "build.py").write_text(HEAD.replace("def forward", "def froward"))
    text = (tmp_path / "build.py").read_text().format(init="pass", forward="pass")
    (tmp_path / "build.py").write_text(text)
    model = build_model(ModelReference(build="build.py:net", folder=tmp_path))
    with pytest.raises(ModelError, match="the teacher has no `forward`: Net does not define it"):
        check_model(model, tiny_data, "teacher")


def said(*given):
    with heard() as found:
        checked(*given)
    return found


def test_answers_that_depend_on_neighbours_are_said(tmp_path, tiny_data):
    norm = "self.norm = nn.BatchNorm2d(1, track_running_stats=False)"
    (text,) = said(tmp_path, tiny_data, norm, "x = self.norm(x)")
    assert "`norm` (BatchNorm2d) has no running statistics" in text
    (text,) = said(tmp_path, tiny_data, "pass", "x = x - x.mean(0)")
    assert "by what else is in its batch" in text
    assert said(tmp_path, tiny_data, "self.norm = nn.BatchNorm2d(1)", "x = self.norm(x)") == []


def test_auxiliary_outputs_are_said(tmp_path, tiny_data):
    (text,) = said(
        tmp_path, tiny_data, "pass", "if self.training: return self.out(self.flat(x)), x"
    )
    assert "returns a tuple of 2 while training: the first is learned from" in text


def test_batches_of_one_item_are_refused_where_the_model_cannot_take_them(tmp_path, tiny_data):
    init, forward = "self.norm = nn.BatchNorm1d(144)", "return self.out(self.norm(self.flat(x)))"
    checked(tmp_path, tiny_data, init, forward)
    with pytest.raises(ModelError, match=r"batches of one item: .*layer `norm`|build\.py:16") as no:
        checked(tmp_path, tiny_data, init, forward, batch_sizes={"distill.batch_size": 1})
    assert "`distill.batch_size: 2`" in no.value.hint
    checked(tmp_path, tiny_data, "pass", "pass", batch_sizes={"distill.batch_size": 1})


def test_the_check_disturbs_nobodys_random_numbers(tmp_path, tiny_data):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    reference_draw = "self.w = 1"
    (tmp_path / "build.py").write_text(HEAD.format(init=reference_draw, forward="pass"))
    reference = ModelReference(build="build.py:net", folder=tmp_path)
    with torch.random.fork_rng(devices=[]):
        model = build_model(reference)
    check_model(model, tiny_data, "student", again=lambda: build_model(reference), batch_sizes={})
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()
