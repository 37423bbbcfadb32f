"""hadolint finds nothing in the Dockerfile for a Jetson, and its wheels exist for Python 3.10."""

from __future__ import annotations

from kdeploy.package.emitters.dockerfile_jetson import VERSIONS
from tests.package.dockerfiles import check, instructions


def test_passes_our_rules_and_hadolint(emitted):
    check(emitted("dockerfile_jetson") / "Dockerfile")


def test_builds_on_jetpack_and_tells_how_the_gpu_is_used(emitted):
    path = emitted("dockerfile_jetson") / "Dockerfile"
    assert dict(instructions(path))["FROM"].startswith("nvcr.io/nvidia/l4t-jetpack:r36")
    assert "trtexec" in path.read_text()


def test_takes_libraries_of_its_own_python(emitted):
    text = (emitted("dockerfile_jetson") / "Dockerfile").read_text()
    for name, version in VERSIONS.items():
        assert text.count(f"{name}==") == text.count(f"{name}=={version}") == 1
