"""What a bundle brings is named in it, follows from it, and is compared when it is verified."""

from __future__ import annotations

import json
import shutil

import pytest

from kdeploy.errors import RecipeError, UnknownName
from kdeploy.package.checksums import write_sums
from kdeploy.package.emission import Bundle, differing, emissions, emissions_of_texts
from kdeploy.package.manifest import read_manifest
from kdeploy.package.runner.python.reading import Refused
from kdeploy.package.verify import verify


@pytest.fixture(scope="module")
def pristine_with(make_bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("emitted") / "bundle"
    chosen = emissions([{"systemd": {"port": 9000}}, {"triton": {}}, {"c_header": {}}], "emit")
    return make_bundle(out, emitted=chosen)


@pytest.fixture
def own(pristine_with, tmp_path):
    return shutil.copytree(pristine_with, tmp_path / "bundle")


def checked(bundle):
    held = Bundle(folder=bundle, manifest=read_manifest(bundle))
    names = [p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()]
    return differing(held, names)


def test_names_and_texts_mean_the_same():
    texts = ["c_header:alignment=64", "systemd"]
    assert emissions_of_texts(texts) == emissions(
        [{"c_header": {"alignment": 64}}, {"systemd": None}], "emit"
    )


def test_what_an_emitter_needs_comes_with_it_once():
    names = [one.name for one in emissions([{"systemd": {}}, {"dockerfile_cpu": {}}], "emit")]
    assert names == ["systemd", "dockerfile_cpu", "http_server"]


def test_wrong_names_are_refused_with_the_nearest():
    with pytest.raises(UnknownName) as caught:
        emissions([{"tritn": {}}], "package.emit")
    assert "triton" in caught.value.hint
    with pytest.raises(UnknownName) as caught:
        emissions_of_texts(["systemd:prt=1"])
    assert "port" in caught.value.hint
    with pytest.raises(RecipeError, match="there twice"):
        emissions_of_texts(["triton", "triton:instances=2"])
    with pytest.raises(RecipeError, match="`port` has no value"):
        emissions_of_texts(["systemd:port"])


def test_verifying_writes_it_again_and_finds_the_same(pristine_with):
    result = verify(pristine_with)
    assert result.passed
    assert [c["passed"] for c in result.checks if c["check"] == "deploy"] == [True]
    assert "`deploy/triton/`" in (pristine_with / "README.md").read_text()


def test_the_same_arguments_give_the_same_bytes(pristine_with, make_bundle, tmp_path):
    chosen = emissions([{"systemd": {"port": 9000}}, {"triton": {}}, {"c_header": {}}], "emit")
    again = make_bundle(tmp_path / "again", emitted=chosen)
    assert (again / "SHA256SUMS").read_bytes() == (pristine_with / "SHA256SUMS").read_bytes()


def test_the_runners_on_a_device_take_a_bundle_with_it(own, run_runner):
    """A copy of the model may be larger than any text of a bundle."""
    big = own / "deploy/triton/tiny/1/model.onnx"
    with big.open("ab") as file:
        file.truncate(2**20 + 1)
    write_sums(own)
    done = run_runner(own, "--self-test")
    assert done.returncode == 0, done.stdout


FORGED = (
    "deploy/systemd/tiny.service",
    "deploy/http_server/serve.py",
    "deploy/triton/tiny/1/model.onnx",
)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_found_though_its_sum_fits(own, name):
    content = bytearray((own / name).read_bytes())
    content[-3] ^= 1
    (own / name).write_bytes(content)
    write_sums(own)
    assert checked(own) == (name,)
    result = verify(own)
    (told,) = [c for c in result.checks if c["check"] == "deploy"]
    assert not result.passed
    assert name in told["reason"]


def test_files_beside_and_files_that_are_gone_are_found(own):
    (own / "deploy/systemd/other.service").write_text("[Service]\n")
    (own / "deploy/c_header/tiny.c").unlink()
    assert checked(own) == ("deploy/c_header/tiny.c", "deploy/systemd/other.service")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("[]", "no JSON object"),
        ('{"emitted": "triton"}', "no list of emitters"),
        ('{"emitted": [{"rm": {}}]}', "no emitter `rm`"),
        ('{"emitted": [{"systemd": {"port": "x"}}]}', "systemd.port"),
        ('{"emitted": [{"triton": {}}, {"triton": {}}]}', "twice"),
        ("{" * 100, "no JSON"),
    ],
)
def test_what_does_not_say_who_wrote_it_is_refused(own, told, words):
    (own / "deploy/emitted.json").write_text(told)
    with pytest.raises(Refused, match=words):
        checked(own)


def test_a_bundle_that_names_no_emitter_has_nothing_there(own):
    (own / "deploy/emitted.json").unlink()
    assert "deploy/systemd/tiny.service" in checked(own)


def test_what_is_emitted_is_named_with_its_parameters(pristine_with):
    told = json.loads((pristine_with / "deploy/emitted.json").read_text())["emitted"]
    assert [next(iter(one)) for one in told] == ["systemd", "triton", "c_header", "http_server"]
    assert told[0]["systemd"]["port"] == 9000
