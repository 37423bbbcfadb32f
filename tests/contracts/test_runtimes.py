"""What every runtime does: says whether it can run, opens a file, answers, proves, closes."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
import torch

from kdeploy.errors import KdeployError, Unavailable
from kdeploy.registry import techniques
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.files import formats, inputs_of, suffixes
from kdeploy.runtimes.run import create_runtime, named, open_runtime

KINDS = ("runtime",)


def writer_of(form):
    """Return an exporter that writes the format on this machine, None where there is none."""
    all_forms = [t for t in techniques("exporter").values() if "of" not in t.facts]
    known = [t for t in all_forms if suffixes()[t.facts["suffix"]] == form]
    able = [t for t in known if named(t.facts["runtime"])[0].load().unavailable() is None]
    # That of the format's own name writes the plainest file.
    return min(able, key=lambda t: (t.name != form, t.name), default=None)


def is_real(technique):
    """The fake opens anything, and makes its answers up."""
    return technique.name != "fake"


@pytest.fixture(scope="module")
def exported(tiny_model, tiny_data, tmp_path_factory):
    """Return a function that writes the tiny network in a format, once, and gives the path."""

    @cache
    def write(form, **parameters):
        from kdeploy.export.run import export

        exporter = writer_of(form)
        path = tmp_path_factory.mktemp(form) / f"model{exporter.facts['suffix']}"
        return export(tiny_model(), exporter.name, parameters, tiny_data, path).path

    return write


@pytest.fixture
def path(technique, exported, store_model, tiny_model):
    """Return a file that the runtime opens, its own format first; skip where it cannot run."""
    reason = technique.load().unavailable()
    if reason is not None:
        pytest.skip(reason)
    if "needs" in technique.facts:
        pytest.skip(f"opens {technique.facts['needs']} artefacts alone: tests/runtimes has some")
    own = set(technique.facts.get("suffixes", {}).values())
    for form in sorted(technique.facts["formats"], key=lambda form: (form not in own, form)):
        if writer_of(form) is not None:
            return exported(form, **({"max_batch": 1} if "rows" in technique.facts else {}))
    if "torch" in technique.facts["formats"]:
        return store_model(tiny_model())
    pytest.skip(f"no file of {technique.facts['formats']} can be made here")


def test_names_the_formats_it_opens_and_its_device(technique):
    assert technique.facts["formats"]
    assert set(technique.facts["formats"]) <= formats()
    assert set(technique.facts.get("suffixes", {}).values()) <= set(technique.facts["formats"])
    assert technique.facts["device"] in ("cpu", "cuda", "gpu")


def test_its_libraries_are_named_as_package_indexes_name_them(technique):
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in technique.facts.get("libraries", ()))


@pytest.mark.only(when=lambda technique: "suffixes" in technique.facts)
def test_tells_what_a_file_of_its_own_format_takes(technique, path, tiny_data):
    told = inputs_of(path, technique.facts["suffixes"][path.suffix])
    if told is None:
        pytest.skip("its files do not say")
    assert [info.shape[1:] for info in told] == [tiny_data.preprocessing.shape]
    assert [info.dtype for info in told] == ["float32"]


def test_says_why_it_cannot_run_or_that_it_can(technique):
    reason = technique.load().unavailable()
    if reason is None:
        create_runtime(technique.name, threads=1).close()
        return
    assert len(reason.split()) > 3, "a reason with its remedy"
    with pytest.raises(Unavailable, match=technique.name):
        create_runtime(technique.name)


def test_answers_one_row_an_item_and_the_same_each_time(technique, path, tiny_data):
    opened = open_runtime(technique.name, path, threads=1)
    x = tiny_data.preprocessing.apply(tiny_data.validation.x[:5])
    outputs = first(opened.infer(x))
    assert outputs.shape[0] == 5
    assert outputs.dtype == np.float32
    assert np.isfinite(outputs).all()
    np.testing.assert_array_equal(first(opened.infer(x)), outputs)
    np.testing.assert_allclose(first(opened.infer(x[:1])), outputs[:1], rtol=1e-4, atol=1e-5)
    opened.close()


def test_describes_its_inputs_and_names_its_outputs(technique, path, tiny_data):
    opened = open_runtime(technique.name, path, threads=1)
    (info,) = opened.inputs
    assert isinstance(info.shape[0], str)
    x = tiny_data.preprocessing.apply(tiny_data.validation.x[:2])
    named = opened.infer({info.name: x})
    assert list(named) == ["output"]
    np.testing.assert_array_equal(named["output"], first(opened.infer(x)))
    opened.close()


@pytest.mark.only(when=is_real)
def test_answers_as_the_model(technique, path, tiny_model, tiny_data):
    x = tiny_data.preprocessing.apply(tiny_data.validation.x[:5])
    with torch.no_grad():
        expected = tiny_model()(torch.from_numpy(x)).numpy()
    opened = open_runtime(technique.name, path, threads=1)
    np.testing.assert_allclose(first(opened.infer(x)), expected, rtol=1e-3, atol=1e-4)
    opened.close()


def test_proves_what_ran(technique, path):
    opened = open_runtime(technique.name, path, threads=1)
    proof = opened.proof_of_use()
    assert proof.provider
    assert 0 <= proof.integer <= proof.eligible
    assert not proof.is_quantized
    assert proof.integer_kernels in (None, 0.0)
    opened.close()


@pytest.mark.only(when=is_real)
def test_refuses_a_file_that_is_none(technique, path, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(KdeployError) as caught:
        open_runtime(technique.name, broken, threads=1)
    assert caught.value.hint
