"""Given weights: every form that people save is read, every liberty told, every misfit named."""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn.utils import parametrizations

from kdeploy.errors import FileMissing, ModelError
from kdeploy.pipeline.weight_files import weights_sha256
from kdeploy.pipeline.weights import load_weights


def network(*, width=6, classes=3, seed=0, depth=2):
    torch.manual_seed(seed)
    blocks = [
        nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width)) for _ in range(depth)
    ]
    parts = {"stem": nn.Conv2d(1, width, 3), "blocks": nn.Sequential(*blocks)}
    return _named({**parts, "head": nn.Linear(width, classes)})


def _named(parts):
    model = nn.Module()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


class Tied(nn.Module):
    def __init__(self, *, is_tied=True):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.output = nn.Linear(4, 7, bias=False)
        if is_tied:
            self.output.weight = self.embedding.weight


def is_loaded(loaded, wanted):
    found = loaded.model.state_dict()
    return all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


TENSORS = network(seed=1).state_dict()


def under(prefix, tensors=TENSORS):
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("form", ["safetensors", "pt", "legacy"])
@pytest.mark.parametrize(
    ("tensors", "messages"),
    [
        (TENSORS, []),
        (under("module."), ["took the prefix `module.` off the names"]),
        (under("_orig_mod."), ["took `_orig_mod.` off the names"]),
        (
            under("module._orig_mod."),
            ["took `_orig_mod.` off the names", "took the prefix `module.` off the names"],
        ),
        (under("model.backbone."), ["took the prefix `model.backbone.` off the names"]),
        (
            {n.replace("blocks.1.", "blocks.1._orig_mod."): t for n, t in TENSORS.items()},
            ["took `_orig_mod.` off the names"],
        ),
        (
            {**under("model."), "criterion.weight": torch.ones(3)},
            [
                "took the prefix `model.` off the names",
                "left out `criterion.weight`, not under `model.`",
            ],
        ),
        (
            {**TENSORS, "auxiliary.weight": torch.ones(3)},
            ["left out `auxiliary.weight`: the model has no such part"],
        ),
    ],
)
def test_names_are_read_with_what_wrappers_put_in_front(form, tensors, messages, tmp_path):
    file = tmp_path / f"w.{form}"
    if form == "safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=form == "pt")
    loaded = load_weights(network(), file)
    assert is_loaded(loaded, TENSORS)
    assert list(loaded.messages) == messages
    assert not loaded.model.training


@pytest.mark.parametrize(
    ("checkpoint", "messages"),
    [
        ({"state_dict": TENSORS, "epoch": 3}, ["took the entry `state_dict`"]),
        (
            {"model": TENSORS, "args": argparse.Namespace(lr=0.1, out=Path("runs"))},
            ["took the entry `model`"],
        ),
        (
            {"model_state_dict": TENSORS, "best": np.float64(0.9)},
            ["took the entry `model_state_dict`"],
        ),
        ({"ema": TENSORS}, ["took the entry `ema`"]),
        (
            {"model": TENSORS, "ema": under("module.")},
            ["took the entry `model` and left out `ema`"],
        ),
        ({"generator": TENSORS, "epoch": 1}, ["took the entry `generator`"]),
        (
            {"ema": {"module": under("module.")}, "optimizer": {"state": {0: {"step": 1}}}},
            [
                "took the entry `ema`",
                "took the entry `module`",
                "took the prefix `module.` off the names",
            ],
        ),
    ],
)
def test_the_tensors_of_a_checkpoint_are_found_among_its_entries(checkpoint, messages, tmp_path):
    torch.save(checkpoint, tmp_path / "c.pth")
    loaded = load_weights(network(), tmp_path / "c.pth")
    assert is_loaded(loaded, TENSORS)
    assert list(loaded.messages) == messages


def test_what_lacks_a_prefix_of_the_model_gets_it(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    loaded = load_weights(_named({"body": network()}), tmp_path / "w.safetensors")
    assert is_loaded(loaded, under("body."))
    assert loaded.messages == ("put `body.` in front of the names, as the model has it",)


def test_tied_weights_are_read_as_safetensors_saves_them(tmp_path):
    torch.manual_seed(3)
    model, file = Tied(), tmp_path / "w.safetensors"
    wanted = model.embedding.weight.detach().clone()
    save_model(model, str(file))
    assert torch.equal(load_weights(Tied(), file).model.output.weight, wanted)
    # The file's own note serves a model that does not tie them, too.
    untied = load_weights(Tied(is_tied=False), file).model
    assert torch.equal(untied.output.weight, untied.embedding.weight)
    save_file({"module.embedding.weight": wanted}, file)
    loaded = load_weights(Tied(), file)
    assert torch.equal(loaded.model.output.weight, wanted)
    assert loaded.messages[-1] == (
        "`output.weight` is tied to `embedding.weight`, under which the file has it"
    )


def test_two_tensors_for_one_that_is_tied_are_refused(tmp_path):
    save_file(Tied(is_tied=False).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"`embedding\.weight` and `output\.weight` are one"):
        load_weights(Tied(), tmp_path / "w.safetensors")


def test_counters_that_the_file_lacks_begin_at_nothing(tmp_path):
    tensors = {n: t for n, t in TENSORS.items() if "num_batches" not in n}
    torch.save(tensors, tmp_path / "w.pt")
    loaded = load_weights(network(), tmp_path / "w.pt")
    assert is_loaded(loaded, tensors)
    assert loaded.messages == (
        "the file lacks `blocks.0.1.num_batches_tracked`, `blocks.1.1.num_batches_tracked`, "
        "which count from 0",
    )


@pytest.mark.parametrize("number_format", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_taken_and_told(number_format, tmp_path):
    tensors = {n: t.to(number_format) if t.is_floating_point() else t for n, t in TENSORS.items()}
    torch.save(tensors, tmp_path / "w.pt")
    loaded = load_weights(network(), tmp_path / "w.pt")
    wanted = {n: t.to(TENSORS[n].dtype) for n, t in tensors.items()}
    assert is_loaded(loaded, wanted)
    name = str(number_format).removeprefix("torch.")
    assert loaded.messages == (f"16 tensors of {name} became float32",)


def test_views_are_read_as_they_look(tmp_path):
    whole = torch.arange(72.0).reshape(18, 4)
    model = nn.Linear(18, 2, bias=False)
    torch.save({"weight": whole.t()[1:3]}, tmp_path / "w.pt")
    loaded = load_weights(model, tmp_path / "w.pt")
    assert torch.equal(loaded.model.weight, whole.t()[1:3])
    assert loaded.model.weight.is_contiguous()


def test_older_names_that_a_layer_takes_itself_are_left_to_it(tmp_path):
    with pytest.warns(FutureWarning, match="weight_norm"):
        old = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    torch.save(under("module.", old.state_dict()), tmp_path / "w.pt")
    new = load_weights(
        nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3))), tmp_path / "w.pt"
    ).model
    torch.testing.assert_close(new[0].weight, old[0].weight)


def test_several_files_are_read_by_their_index_and_count_by_contents(tmp_path):
    names = list(TENSORS)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, held in parts.items():
        save_file({name: TENSORS[name] for name in held}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {name: file for file, held in parts.items() for name in held}
    index.write_text(json.dumps({"weight_map": weight_map}))
    loaded = load_weights(network(), index)
    assert is_loaded(loaded, TENSORS)
    assert loaded.messages == ("read 2 files that model.safetensors.index.json names",)
    before = weights_sha256(index)
    save_file({name: TENSORS[name] + 1 for name in names[5:]}, tmp_path / "b.safetensors")
    assert weights_sha256(index) != before
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileMissing, match=r"b\.safetensors"):
        load_weights(network(), index)


def _zipped(file):
    np.savez(file.with_suffix(".npz"), a=np.ones(2))
    file.with_suffix(".npz").rename(file)


class Pickled(nn.Linear):
    """A module that somebody saved whole."""


@pytest.mark.parametrize("name", ["model.pt", "it's mine.pt"])
def test_a_pickled_module_is_refused_with_two_lines_that_convert_it(name, tmp_path):
    saved, file = Pickled(4, 3), tmp_path / name
    torch.save(saved, file)
    with pytest.raises(ModelError, match=r"a pickled `[\w.]*Pickled`.*would run code") as caught:
        load_weights(nn.Linear(4, 3), file)
    lines = [line.strip() for line in caught.value.hint.splitlines()[1:]]
    assert len(lines) == 2
    exec("\n".join(lines), {})
    (made,) = tmp_path.glob("*-tensors.pt")
    assert is_loaded(load_weights(nn.Linear(4, 3), made), saved.state_dict())


def test_numpy_arrays_in_a_file_of_torch_are_converted_by_two_lines(tmp_path):
    saved, file = nn.Linear(4, 3), tmp_path / "arrays.pt"
    torch.save({name: tensor.numpy() for name, tensor in saved.state_dict().items()}, file)
    with pytest.raises(ModelError, match="holds NumPy arrays") as caught:
        load_weights(nn.Linear(4, 3), file)
    exec("\n".join(line.strip() for line in caught.value.hint.splitlines()[1:]), {})
    made = tmp_path / "arrays-tensors.pt"
    assert is_loaded(load_weights(nn.Linear(4, 3), made), saved.state_dict())


def test_tensors_without_values_are_refused(tmp_path):
    torch.save(nn.Linear(4, 3, device="meta").state_dict(), tmp_path / "meta.pt")
    with pytest.raises(ModelError, match="on the device `meta`, without values"):
        load_weights(nn.Linear(4, 3), tmp_path / "meta.pt")


def test_a_program_is_converted_by_its_two_lines(tmp_path):
    saved = nn.Linear(4, 3)
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.trace(saved, torch.ones(1, 4)).save(tmp_path / "program.pt")
    with pytest.raises(ModelError, match="TorchScript program") as caught:
        load_weights(nn.Linear(4, 3), tmp_path / "program.pt")
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        exec("\n".join(line.strip() for line in caught.value.hint.splitlines()[1:]), {})
    made = tmp_path / "program-tensors.pt"
    assert is_loaded(load_weights(nn.Linear(4, 3), made), saved.state_dict())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.write_bytes(b"not weights at all"), "neither safetensors nor"),
        (lambda file: file.write_bytes(b""), "neither safetensors nor"),
        (lambda file: file.write_bytes(b"\x80\x02X"), "cannot be read"),
        (lambda file: _zipped(file), r"NumPy arrays \(a\.npy\)"),
        (lambda file: torch.save(torch.ones(2), file), "holds a Tensor, and no tensors by name"),
        (lambda file: torch.save({"epoch": 1}, file), "`epoch`, and none has tensors"),
        (
            lambda file: torch.save({"g": TENSORS, "d": TENSORS, "lr": 1}, file),
            "`g`, `d` have tensors",
        ),
        (
            lambda file: torch.save({**under("student."), **under("teacher.")}, file),
            "under `student.`, `teacher.`, and does not say which",
        ),
        (
            lambda file: torch.save({**TENSORS, "head.bias": torch.full((3,), torch.nan)}, file),
            r"`head\.bias` \(3,\) has 3 values that are no numbers",
        ),
        (
            lambda file: torch.save({**TENSORS, "head.bias": torch.ones(3).char()}, file),
            r"`head\.bias` \(3,\) holds int8, the model has float32",
        ),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_for_what_it_holds(write, message, tmp_path):
    file = tmp_path / "w.pt"
    write(file)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(network(), file)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("tensors", "message", "hint"),
    [
        (
            network(classes=5).state_dict(),
            r"`head\.weight` is \(5, 6\), the model has \(3, 6\)",
            "only `head` differs: the weights are for 5 outputs, the model has 3",
        ),
        (
            network(width=8).state_dict(),
            r"`stem\.weight` is \(8, 1, 3, 3\), the model has \(6, 1, 3, 3\)",
            r"makes `stem.weight` \(6, 1, 3, 3\) into \(8, 1, 3, 3\)",
        ),
        (
            network(depth=3).state_dict(),
            r"`blocks\.2\.0\.weight` \(6, 6, 3, 3\) is not in the model",
            r"only the file has `blocks\.2\.0`, `blocks\.2\.1`",
        ),
        (
            network(depth=1).state_dict(),
            r"`blocks\.1\.0\.weight` \(6, 6, 3, 3\) is missing",
            r"only the model has `blocks\.1\.0`",
        ),
        (
            {n.replace("stem", "entry"): t for n, t in TENSORS.items()},
            r"`stem\.weight` \(6, 1, 3, 3\) is missing; nearest in the file: `entry\.weight`",
            "the shapes agree one by one: rename `entry.weight` to `stem.weight`",
        ),
        (
            {f"x{i}": t for i, t in enumerate(TENSORS.values())},
            "of its 18 tensors 16 are missing",
            "the shapes agree one by one",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_name_and_shapes(tensors, message, hint, tmp_path):
    torch.save(tensors, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(network(), tmp_path / "w.pt")
    assert re.search(hint, caught.value.hint), caught.value.hint


def test_damaged_files_are_refused_in_words_or_read(tmp_path):
    draw = random.Random(0)
    save_file(TENSORS, tmp_path / "w.safetensors")
    torch.save({"state_dict": under("module."), "epoch": 1}, tmp_path / "w.pt")
    torch.save(TENSORS, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    whole = [(tmp_path / f"w.{form}").read_bytes() for form in ("safetensors", "pt", "pth")]
    hints = []
    for number in range(150):
        damaged = bytearray(whole[number % 3])
        for _ in range(draw.choice([1, 2, 5])):
            damaged[draw.randrange(draw.choice([200, len(damaged)]))] = draw.randrange(256)
        if number % 5 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        (tmp_path / "m.pt").write_bytes(damaged)
        try:
            load_weights(network(), tmp_path / "m.pt")
        except ModelError as error:
            hints.append(error.hint)
    assert len(hints) > 75
    assert all(hints)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"weight_map": 3}', "\0", '{"a": 1}'])
def test_an_index_of_something_else_is_named(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ModelError, match=r"index\.json is no index of files of weights"):
        load_weights(network(), index)
