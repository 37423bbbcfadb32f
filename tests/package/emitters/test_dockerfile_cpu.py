"""hadolint finds nothing in the Dockerfile; base, wheels and user are what they must be."""

from __future__ import annotations

import pytest

from kdeploy.errors import ModelError, RecipeError
from kdeploy.package.emission import check_emissions, emissions
from tests.package.dockerfiles import check, instructions

ONE = "docker.io/library/python@sha256:" + "a" * 64


def test_passes_our_rules_and_hadolint(emitted):
    check(emitted("dockerfile_cpu") / "Dockerfile")


def test_pins_what_the_bundle_was_made_with(emitted):
    import numpy
    import onnxruntime

    (install,) = [
        text
        for name, text in instructions(emitted("dockerfile_cpu") / "Dockerfile")
        if name == "RUN"
    ]
    assert f"numpy=={numpy.__version__}" in install
    assert f"onnxruntime=={onnxruntime.__version__}" in install
    assert "pillow==" in install  # the tiny model takes images


def test_a_base_may_be_named_by_its_digest(emitted):
    folder = emitted("dockerfile_cpu", {"base": ONE, "port": 9001})
    told = dict(instructions(folder / "Dockerfile"))
    assert (told["FROM"], told["EXPOSE"]) == (ONE, "9001")


@pytest.mark.parametrize("base", ["python", "python:latest", "python:3\nRUN evil", "-x:1"])
def test_a_base_that_is_not_pinned_is_refused(emitted, base):
    with pytest.raises(RecipeError, match="does not say which image it is tomorrow") as caught:
        emitted("dockerfile_cpu", {"base": base})
    assert "DIGEST" in caught.value.hint


def test_a_file_that_the_image_cannot_run_is_refused_before_any_work():
    with pytest.raises(ModelError, match=r"is for a file of .*`onnx`.* of `executorch`") as caught:
        check_emissions(emissions([{"dockerfile_cpu": {}}], "emit"), "executorch")
    assert "--emit dockerfile_cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("layout", "shape", "takes"),
    [("NCHW", (3, 8, 8), True), ("NHWC", (1, 8, 8), True), ("NCL", (3, 8), False)],
)
def test_installs_what_reads_images_where_the_model_takes_them(
    bundle, layout, shape, takes, tmp_path
):
    from dataclasses import replace

    from kdeploy.package.emission import Bundle
    from kdeploy.package.emitters.dockerfile_cpu import dockerfile_cpu
    from kdeploy.package.manifest import read_manifest

    known = read_manifest(bundle)
    form = replace(known.preprocessing, layout=layout, shape=shape)
    held = Bundle(folder=bundle, manifest=replace(known, preprocessing=form))
    dockerfile_cpu(held, tmp_path)
    assert ("pillow==" in (tmp_path / "Dockerfile").read_text()) is takes
